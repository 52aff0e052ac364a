"""A truncated adapter is the nearest of its rank, and exact where nothing is lost."""

import itertools
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig

from rankwise.adapters import loading, score
from rankwise.adapters.factors import Delta, rank_for_energy, read, why_not_plain, write
from rankwise.adapters.loading import numerics, put_factors
from rankwise.adapters.runs import open_run
from rankwise.adapters.shrink import shrink
from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.tracking import predictions


@pytest.mark.parametrize(("shape", "method"), [("bert", "lora"), ("gpt2", "rslora"), ("llama", "lora")])
def test_each_module_is_truncated_to_its_leading_singular_values(trained, tmp_path, shape, method):
    run = trained(shape, method)
    found = shrink(run, 3, None, tmp_path / "small")
    before, after = (read(place, "test").deltas for place in (run.adapter, tmp_path / "small"))
    assert before.keys() == after.keys()
    for name, delta in before.items():
        u, s, v = torch.linalg.svd(delta.dense(), full_matrices=False)
        torch.testing.assert_close(after[name].dense(), u[:, :3] * s[:3] @ v[:3], rtol=1e-4, atol=1e-7)
        assert found["modules"][name]["kept_energy"] == pytest.approx(float((s[:3] ** 2).sum() / (s**2).sum()))
    assert found["ranks"]["before"]["max"] == 8 and found["ranks"]["after"]["max"] == 3
    assert found["adapter_bytes"]["after"] == sum(f.stat().st_size for f in (tmp_path / "small").glob("*.safetensors"))
    assert found["adapter_bytes"]["after"] < 0.6 * found["adapter_bytes"]["before"]
    assert found["before"]["value"] == pytest.approx(run.record.metrics["test"]["accuracy"]["value"])


@pytest.mark.parametrize(("shape", "method"), [("bert", "lora"), ("gpt2", "lora"), ("llama", "pissa")])
def test_the_whole_rank_gives_the_same_logits(trained, copied, tmp_path, shape, method):
    run = trained(shape, method)
    found, other = shrink(run, None, 1.0, tmp_path / "same"), copied(run)
    shutil.copytree(tmp_path / "same", other / "adapter", dirs_exist_ok=True)
    logits = []
    for each in (run, open_run(other)):
        model, tokenizer = loading.as_run(each)
        logits.append(score.Rows.of(each, tokenizer).logits(model, loading.numerics(each)))
    assert score.relative(logits[1], logits[0]) < 1e-5
    lower = {name: delta.svd().truncated(3) for name, delta in read(run.adapter, "test").deltas.items()}
    put_factors(model, lower)
    in_place = score.Rows.of(run, tokenizer).logits(model, numerics(run))
    write(other / "adapter", lower, read(run.adapter, "test").config, read(run.adapter, "test").others)
    again, _ = loading.as_run(open_run(other))
    assert score.relative(in_place, score.Rows.of(run, tokenizer).logits(again, numerics(run))) < 1e-5
    assert score.relative(in_place, logits[0]) > 1e-4  # so that rank 3 is another model
    assert found["difference"]["value"] == 0 and found["kept_energy"] == pytest.approx(1)


def test_of_a_nested_cut_no_share_of_the_whole_is_told(trained, capsys):
    run = trained("bert", "nested", method__rank=8, method__nested=[1, 2, 4])
    cut, truncated = (shrink(run, rank, None) for rank in (4, 3))
    assert {cut["kept_energy"], *(module["kept_energy"] for module in cut["modules"].values())} == {None}
    assert 0 < truncated["kept_energy"] <= 1
    assert main(["adapter", "shrink", str(run.folder), "--rank", "4"]) == 0
    assert "rank 4: nested in training: its first columns were kept" in capsys.readouterr().out


def test_errors_are_over_groups_as_those_of_the_run(trained, tmp_path):
    words = ("sun", "joy", "win", "fog", "ill", "mud")
    rows = [f"{words[i % 6]} {i},{'yes' if i % 6 < 3 else 'no'},doc{i // 10}\n" for i in range(400)]
    (tmp_path / "docs.csv").write_text("text,label,doc\n" + "".join(rows))
    run = trained(task__path=str(tmp_path / "docs.csv"), task__group="doc", task__n_test=None, task__n_validation=None)
    found, recorded = shrink(run, 1, None), run.record.metrics["test"]["accuracy"]
    assert found["before"] == pytest.approx(recorded) and recorded["clusters"] < recorded["n"]
    assert found["after"]["clusters"] == recorded["clusters"]
    model, tokenizer = loading.as_run(run)
    _, columns = score.Rows.of(run, tokenizer).score(model)
    assert columns["cluster"].tolist() == predictions.read(run.folder, run.name).columns["cluster"].tolist()


def test_energy_gives_every_module_the_least_rank_that_keeps_it(trained, tmp_path):
    run = trained("gpt2")
    found = shrink(run, None, 0.8, tmp_path / "small")
    small = read(tmp_path / "small", "test")
    for name, delta in read(run.adapter, "test").deltas.items():
        squared = torch.linalg.svdvals(delta.dense()) ** 2
        rank = small.ranks[name]
        assert float(squared[:rank].sum() / squared.sum()) >= 0.8 > float(squared[: rank - 1].sum() / squared.sum())
    assert len(set(small.ranks.values())) > 1  # so that patterns of ranks are read back
    assert found["ranks"]["after"]["total"] == sum(small.ranks.values())


def test_ranks_by_pattern_are_respected(trained, tmp_path):
    run = trained("bert", targets__ranks={"query": 2}, targets__alphas={"query": 1})
    shrink(run, 4, None, tmp_path / "small")
    before, after = (read(place, "test") for place in (run.adapter, tmp_path / "small"))
    assert {rank for name, rank in after.ranks.items() if name.endswith("query")} == {2}
    assert {rank for name, rank in after.ranks.items() if not name.endswith("query")} == {4}
    for name in (name for name in after.ranks if name.endswith("query")):
        torch.testing.assert_close(after.deltas[name].dense(), before.deltas[name].dense(), rtol=1e-4, atol=1e-7)


def test_the_dense_change_is_never_made(trained, monkeypatch):
    run, sizes = trained("llama"), []
    lora = read(run.adapter, "test")
    real = torch.linalg.svd

    def watched(matrix: torch.Tensor, *args: object, **keys: object) -> object:
        sizes.append(tuple(matrix.shape))
        return real(matrix, *args, **keys)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.linalg, "svd", watched)
    shrink(run, 2, None)
    assert len(sizes) == len(lora.deltas) and set(sizes) == {(8, 8)}


def test_a_correlation_is_compared_in_pairs_too(trained):
    run = trained("bert", task__kind="regression", task__metric="spearman", objective="val/spearman")
    found = shrink(run, 1, None)
    gap = found["after"]["value"] - found["before"]["value"]
    assert found["difference"]["value"] == pytest.approx(gap, abs=1e-5)
    assert 0 < found["difference"]["se"] < found["before"]["se"] + found["after"]["se"]


@pytest.mark.parametrize("method", ["dora", "ia3", "adalora"])
def test_other_adapters_are_refused_by_name(trained, capsys, method):
    assert main(["adapter", "shrink", str(trained("bert", method).folder), "--rank", "1"]) == 2
    assert {"dora": "use_dora", "ia3": "IA3", "adalora": "ADALORA"}[method] in capsys.readouterr().err


def test_a_run_that_was_tested_on_other_rows_is_refused(trained, copied):
    place = copied(trained())
    table = pq.read_table(place / "predictions.parquet").to_pandas()
    pq.write_table(pa.Table.from_pandas(table.assign(item=table["item"] + 1)), place / "predictions.parquet")
    with pytest.raises(Refused, match="tested on other rows"):
        shrink(open_run(place), 2, None)


def test_the_rank_that_keeps_a_share_of_the_energy():
    values = torch.tensor([3.0, 2.0, 1.0])  # 9, 4, 1 of 14
    assert [rank_for_energy(values, share) for share in (0.1, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for_energy(torch.zeros(4), 0.9) == 1


def delta(rank: int = 5, d_in: int = 12, d_out: int = 9, seed: int = 0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    b, a = torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
    return Delta(b.double(), a.double())


def test_inner_products_without_the_product():
    pairs = [delta(5), delta(3, seed=1), Delta(delta(4, seed=2).dense(), None)]
    for one, other in itertools.product(pairs, pairs):
        assert one.dot(other) == pytest.approx(float((one.dense() * other.dense()).sum()), rel=1e-9)


@pytest.mark.parametrize("one", [delta(), delta(rank=12, d_in=8, d_out=6), delta(2)])
def test_singular_values_and_the_best_approximation_are_those_of_the_product(one):
    u, s, v = torch.linalg.svd(one.dense(), full_matrices=False)
    found = one.svd()
    assert len(found.s) == min(len(one.a), *one.sides) if one.a is not None else False
    torch.testing.assert_close(found.s, s[: len(found.s)])
    for rank in range(1, len(found.s) + 1):
        torch.testing.assert_close(found.truncated(rank).dense(), u[:, :rank] * s[:rank] @ v[:rank])


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "pissa_niter_4", "OLoRA", "lora_ga"])
def test_only_a_start_beside_the_base_is_plain(init):
    config = LoraConfig()
    config.init_lora_weights = init  # type: ignore[assignment]
    taken_out = init in ("pissa_niter_4", "OLoRA", "lora_ga")
    assert why_not_plain(config) == (f"init_lora_weights={init}" if taken_out else None)
