"""From run folders: the right W₀, ΔW and start; what cannot be analyzed is refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankwise import analysis
from rankwise.adapters import factors, loading
from rankwise.analysis import subspaces
from rankwise.analysis.measures import similarity
from rankwise.analysis.subspaces import directions
from rankwise.analysis.weights import labels, place
from rankwise.errors import Refused


def test_full_fine_tuning_is_what_its_file_holds(full):
    saved = load_file(full.adapter / "model.safetensors")
    for name, weights in analysis.load(full.folder).items():
        torch.testing.assert_close((weights.base.double() + weights.delta.b).float(), saved[f"{name}.weight"])
        assert weights.delta.rank is None


def test_lora_comes_as_factors_with_its_scale(low):
    found = analysis.load(low.folder)
    assert {place(name)[1] for name in found} == {"q", "v"}
    file = load_file(low.adapter / "adapter_model.safetensors")
    for name, weights in found.items():
        a, b = (file[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        assert weights.delta.rank == 2
        torch.testing.assert_close(weights.delta.dense(), low.record.lora["scale"] * b @ a)


def test_runs_together_have_the_layers_that_all_changed(low, full):
    lora, dense = analysis.together([low, full])
    assert list(lora.modules) == list(dense.modules) and {place(name)[1] for name in lora.modules} == {"q", "v"}
    (one,) = analysis.together([full], layer=1, module="output.dense")
    assert [place(name) for name in one.modules] == [(1, "output.dense")]
    assert place("decoder.block.3.layer.2.DenseReluDense.wi_0") == (3, "decoder.wi_0")


def test_parts_of_a_fused_layer_are_those_of_the_full_run(ran):
    parts = ran("gpt2", method__rank=2)
    whole = ran("gpt2", "full", optim__lr=0.003, trainer__save_full=True)
    lora, dense = analysis.together([parts, whole])
    assert {name.rpartition(".")[2] for name in lora.modules} == {"q", "v"}
    (fused,) = analysis.together([whole], layer=0, module="qkv")
    (name,) = fused.modules
    rows = fused.modules[name].base.shape[0] // 3
    for number, part in ((0, "q"), (2, "v")):
        mine = slice(number * rows, (number + 1) * rows)
        assert torch.equal(dense.modules[f"{name}.{part}"].delta.b, fused.modules[name].delta.b[mine])
        assert torch.equal(lora.modules[f"{name}.{part}"].base, fused.modules[name].base[mine])


def test_lora_on_a_fused_layer_is_taken_apart_beside_lora_on_its_parts(ran):
    whole, dora, parts = (
        ran("gpt2", method, method__rank=2, targets=targets)
        for method, targets in (("lora", "attention"), ("dora", "attention"), ("lora", "qv"))
    )
    one, _ = analysis.together([whole, parts])
    fused = factors.read(whole.adapter, "test").deltas
    assert {name.rpartition(".")[2] for name in one.modules} == {"q", "v"}
    for name, weights in one.modules.items():
        rows = fused[name.rpartition(".")[0]].dense().chunk(3)["qkv".index(name[-1])]
        torch.testing.assert_close(weights.delta.dense(), rows)
        assert weights.delta.rank == 2
    (pair, *_) = analysis.analyze("subspaces", [dora.folder, parts.folder], module="q")["pairs"]
    starts = [subspaces.drawn_factors(run) for run in (dora, parts)]
    names = [name for name in one.modules if name.endswith(".q")]
    q = [
        similarity(*(directions(start[n].a, "right") for start, n in zip(starts, (name[:-2], name), strict=True)))
        for name in names
    ]
    assert pair["points"][0]["start"] == pytest.approx(float(torch.stack(q).mean(0)[0, 0]))


def test_a_matrix_of_a_block_that_was_trained_whole_is_among_those_that_changed(ran, low):
    run = ran(method__rank=2, method__modules_to_save=["intermediate.dense"])
    found = analysis.load(run.folder)
    assert {place(name)[1] for name in found} == {"q", "v", "intermediate.dense"}
    saved, ours = load_file(run.adapter / "adapter_model.safetensors"), factors.read(run.adapter, "test").deltas
    for name, weights in found.items():
        if name in ours:
            torch.testing.assert_close(weights.delta.b, ours[name].dense(), rtol=1e-3, atol=1e-6)
        else:
            torch.testing.assert_close(
                (weights.base + weights.delta.b).float(), saved[f"base_model.model.{name}.weight"]
            )
    (unknown,) = analysis.analyze("subspaces", [run.folder], module="intermediate.dense")["start_unknown"].values()
    assert unknown == "bert.encoder.layer.0.intermediate.dense was trained without factors"
    with pytest.raises(Refused, match="was trained without factors; leave --of A away"):
        analysis.analyze("subspaces", [run.folder], of="A")
    assert analysis.analyze("subspaces", [run.folder, low.folder], of="A")["pairs"]


def test_a_dense_update_of_a_fused_layer_in_few_bits(ran):
    few = {"quant__name": "nf4", "quant__kind": "nf4", "quant__double": False}
    dora, lora = (ran("gpt2", method, method__rank=2, **few) for method in ("dora", "lora"))
    assert {place(name)[1] for name in analysis.load(dora.folder)} == {"qkv"}
    apart, plain = analysis.together([dora, lora])
    for name, weights in apart.modules.items():
        assert name.endswith((".q", ".v")) and weights.delta.rank is None and plain.modules[name].delta.rank == 2
    assert apart.rank == 2


@pytest.mark.parametrize(("method", "rank"), [("vera", 8), ("adalora", 4)])
def test_what_rounding_leaves_of_a_merge_is_no_direction(ran, method, rank):
    run = ran(method=method, method__rank=rank)
    file = load_file(run.adapter / "adapter_model.safetensors")
    for name, weights in analysis.load(run.folder).items():
        drawn = file.get(f"base_model.model.{name}.lora_E")  # AdaLoRA's singular values: it sets some to zero
        wanted = rank if drawn is None else int(drawn.count_nonzero())
        assert len(analysis.decomposed(weights.delta).s) == wanted < 32
        assert len(torch.linalg.svdvals(weights.delta.b).nonzero()) == 32


def test_a_base_in_few_bits_is_what_it_stood_for(ran, low):
    few = ran(method__rank=2, quant__name="nf4", quant__kind="nf4", quant__double=False)
    exact, stored = (analysis.load(run.folder) for run in (low, few))
    lm, _ = loading.dense_base(few)
    for name, weights in stored.items():
        assert torch.equal(weights.base, lm.get_submodule(name).weight)
        assert not torch.equal(weights.base, exact[name].base)


def test_the_start_is_what_the_run_drew(ran):
    frozen = ran(method="lora_fa", method__rank=2)  # its A is never trained
    drawn = subspaces.drawn_factors(frozen)
    assert isinstance(drawn, dict)
    for name, delta in factors.read(frozen.adapter, "test").deltas.items():
        assert torch.equal(drawn[name].a, delta.a) and not drawn[name].b.any()


def test_a_start_out_of_the_base_is_read_from_the_file(ran):
    pissa = ran(method="pissa", method__rank=2)
    drawn, trained = subspaces.drawn_factors(pissa), subspaces.trained_factors(pissa)
    assert isinstance(drawn, dict)
    for name, delta in factors.read(pissa.adapter, "test").deltas.items():
        torch.testing.assert_close(trained[name].b @ trained[name].a + drawn[name].b @ drawn[name].a, delta.b @ delta.a)
        assert drawn[name].a.shape[0] == 2


@pytest.mark.parametrize(("key", "value", "why"), [("init", "eva", "data"), ("init_from", "RUN", "init_from")])
def test_a_start_that_is_not_known_says_why(low, key, value, why):
    other = replace(low, config=replace(low.config, method=replace(low.config.method, **{key: value})))
    assert why in str(subspaces.drawn_factors(other))


def test_a_start_out_of_the_base_is_not_known_of_what_is_no_plain_lora(ran):
    run = ran(method="dora", method__rank=2, method__init="pissa")
    (why,) = analysis.analyze("subspaces", [run.folder])["start_unknown"].values()
    assert why == "its start was taken out of W (method.init=pissa) and is not in its file (use_dora)"


def test_attentions_of_one_block_are_told_apart():
    names = {
        "transformer.encoder.block.0.layer.0.SelfAttention.q": (0, "q"),
        "transformer.decoder.block.0.layer.0.SelfAttention.q": (0, "decoder.q"),
        "transformer.decoder.block.0.layer.1.EncDecAttention.q": (0, "decoder.cross.q"),
        "bert.encoder.layer.1.output.dense": (1, "output.dense"),
    }
    assert {name: place(name) for name in names} == names


def test_labels_tell_runs_apart(low, high, ran):
    again = ran(method__rank=2, seed=1)
    assert labels([low, high]) == ["lora r=2", "lora r=4"]
    assert labels([low, again]) == ["lora r=2 seed 0", "lora r=2 seed 1"]


@pytest.mark.parametrize("name", ["truncation", "spectrum"])
def test_a_run_that_learned_nothing_has_no_update(low, tmp_path, name):
    place = shutil.copytree(low.folder, tmp_path / low.name)
    file = place / "adapter/adapter_model.safetensors"
    save_file({key: value.zero_() if "lora_B" in key else value for key, value in load_file(file).items()}, file)
    with pytest.raises(Refused, match=f"{place}: its ΔW is zero everywhere"):
        analysis.analyze(name, [place])


def test_what_cannot_be_analyzed_is_refused_in_one_line(ran, low, full):
    unkept = ran(method="full", optim__lr=0.004)
    for run in (unkept, ran(method="head"), ran(method="probe")):
        with pytest.raises(Refused, match=r"; give runs of method=lora, or of method=full with trainer.save_full=true"):
            analysis.load(run.folder)
    with pytest.raises(Refused, match="another base"):
        analysis.together([low, ran("gpt2", method__rank=2)])
    with pytest.raises(Refused, match="given twice"):
        analysis.together([low, low])
    with pytest.raises(Refused, match="in common"):
        analysis.together([low, ran(targets="mlp", method__rank=2)])
    with pytest.raises(Refused, match=r"--layer 9: one of 0, 1"):
        analysis.together([full], layer=9)
    with pytest.raises(Refused, match=r"--module dense: one of .*intermediate\.dense.*, q, v"):
        analysis.together([full], module="dense")
    with pytest.raises(Refused, match="--side left: of ΔW only"):
        analysis.analyze("subspaces", [low.folder], side="left", of="A")
    with pytest.raises(Refused, match="method=full has no A"):
        analysis.analyze("subspaces", [low.folder, full.folder], of="A")
    with pytest.raises(Refused, match="method=full trains all weights"):
        analysis.analyze("truncation", [low.folder, full.folder])
    few = [ran(method__rank=2, task__n_test=2, task__synthetic=size) for size in (600, 1200)]  # both rows of one class
    with pytest.raises(Refused, match="tested on other rows"):
        analysis.analyze("truncation", [run.folder for run in few])
    with pytest.raises(Refused, match="--side left: with"):
        analysis.analyze("layers", [low.folder], side="left")
