"""A truncated adapter is the nearest of its rank, and exact where nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rankwise.adapters import loading, score
from rankwise.adapters.factors import read
from rankwise.adapters.runs import Run, open_run
from rankwise.adapters.shrink import shrink
from rankwise.cli import main
from rankwise.errors import Refused

Trained = Callable[..., Run]


@pytest.mark.parametrize(("shape", "method"), [("bert", "lora"), ("gpt2", "rslora"), ("llama", "lora")])
def test_each_module_is_truncated_to_its_leading_singular_values(
    trained: Trained, tmp_path: Path, shape: str, method: str
) -> None:
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
def test_the_whole_rank_gives_the_same_logits(
    trained: Trained, copied: Callable[[Run], Path], tmp_path: Path, shape: str, method: str
) -> None:
    run = trained(shape, method)
    found, other = shrink(run, None, 1.0, tmp_path / "same"), copied(run)
    shutil.copytree(tmp_path / "same", other / "adapter", dirs_exist_ok=True)
    logits = []
    for each in (run, open_run(other)):
        model, tokenizer = loading.as_run(each)
        logits.append(score.logits(model, score.Rows.of(each, tokenizer), loading.numerics(each)))
    assert score.relative(logits[1], logits[0]) < 1e-5
    assert found["difference"]["value"] == 0 and found["kept_energy"] == pytest.approx(1)


def test_energy_gives_every_module_the_least_rank_that_keeps_it(trained: Trained, tmp_path: Path) -> None:
    run = trained("gpt2")
    found = shrink(run, None, 0.8, tmp_path / "small")
    small = read(tmp_path / "small", "test")
    for name, delta in read(run.adapter, "test").deltas.items():
        squared = torch.linalg.svdvals(delta.dense()) ** 2
        rank = small.ranks[name]
        assert float(squared[:rank].sum() / squared.sum()) >= 0.8 > float(squared[: rank - 1].sum() / squared.sum())
    assert len(set(small.ranks.values())) > 1  # so that patterns of ranks are read back
    assert found["ranks"]["after"]["total"] == sum(small.ranks.values())


def test_ranks_by_pattern_are_respected(trained: Trained, tmp_path: Path) -> None:
    run = trained("bert", targets__ranks={"query": 2}, targets__alphas={"query": 1})
    shrink(run, 4, None, tmp_path / "small")
    before, after = (read(place, "test") for place in (run.adapter, tmp_path / "small"))
    assert {rank for name, rank in after.ranks.items() if name.endswith("query")} == {2}
    assert {rank for name, rank in after.ranks.items() if not name.endswith("query")} == {4}
    for name in (name for name in after.ranks if name.endswith("query")):
        torch.testing.assert_close(after.deltas[name].dense(), before.deltas[name].dense(), rtol=1e-4, atol=1e-7)


def test_the_dense_change_is_never_made(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sizes = trained("llama"), []
    lora = read(run.adapter, "test")
    real = torch.linalg.svd

    def watched(matrix: torch.Tensor, *args: object, **keys: object) -> object:
        sizes.append(tuple(matrix.shape))
        return real(matrix, *args, **keys)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.linalg, "svd", watched)
    shrink(run, 2, None)
    assert len(sizes) == len(lora.deltas) and set(sizes) == {(8, 8)}


def test_a_correlation_is_compared_in_pairs_too(trained: Trained) -> None:
    run = trained("bert", task__kind="regression", task__metric="spearman", objective="val/spearman")
    found = shrink(run, 1, None)
    gap = found["after"]["value"] - found["before"]["value"]
    assert found["difference"]["value"] == pytest.approx(gap, abs=1e-5)
    assert 0 < found["difference"]["se"] < found["before"]["se"] + found["after"]["se"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rank 0", "--rank 0: 1 to 8"), ("--rank 9", "--rank 9: 1 to 8"), ("--rank x", "invalid int"),
        ("--energy 0", "--energy 0: above 0"), ("--energy 1.1", "at most 1"), ("--energy nan", "--energy nan"),
        ("--rank 2 --energy 0.5", "not allowed with"), ("", "required"),
    ],
)  # fmt: skip
def test_wrong_sizes_are_refused(trained: Trained, capsys: pytest.CaptureFixture[str], flags: str, said: str) -> None:
    assert main(["adapter", "shrink", str(trained().folder), *flags.split()]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out


@pytest.mark.parametrize("method", ["dora", "ia3", "adalora"])
def test_other_adapters_are_refused_by_name(trained: Trained, capsys: pytest.CaptureFixture[str], method: str) -> None:
    assert main(["adapter", "shrink", str(trained("bert", method).folder), "--rank", "1"]) == 2
    assert {"dora": "use_dora", "ia3": "IA3", "adalora": "ADALORA"}[method] in capsys.readouterr().err


def test_a_run_that_was_tested_on_other_rows_is_refused(trained: Trained, copied: Callable[[Run], Path]) -> None:
    place = copied(trained())
    table = pq.read_table(place / "predictions.parquet").to_pandas()
    pq.write_table(pa.Table.from_pandas(table.assign(item=table["item"] + 1)), place / "predictions.parquet")
    with pytest.raises(Refused, match="tested on other rows"):
        shrink(open_run(place), 2, None)


def test_output(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trained().folder)
    assert main(["adapter", "shrink", folder, "--rank", "2", "--out", str(tmp_path / "small")]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown and "Σσ² kept" in shown and f"saved in {tmp_path / 'small'}" in shown
    assert "truncated after training" in (tmp_path / "small/README.md").read_text()
    assert main(["adapter", "shrink", folder, "--rank", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 2
