"""What every subcommand refuses, in one line and with nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from rankwise.adapters import loading
from rankwise.adapters.runs import Run
from rankwise.cli import main

COMMANDS = ["merge RUN", "export RUN", "shrink RUN --rank 2", "combine OTHER RUN --how cat", "swap OTHER RUN"]
every = pytest.mark.parametrize("command", COMMANDS)
writing = pytest.mark.parametrize("command", COMMANDS[:4])


@pytest.fixture
def refused(trained: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused("merge RUN", folder)``: the one line, with the folder's content as it was."""

    def refuse(command: str, place: Path, other: Path | None = None) -> str:
        before = sorted(place.rglob("*")) if place.is_dir() else []
        words = {"RUN": str(place), "OTHER": str(other or trained(data_seed=1).folder)}
        assert main(["adapter", *(words.get(word, word) for word in command.split())]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("rankwise: ") and said.err.count("\n") == 1 and not said.out
        assert (sorted(place.rglob("*")) if place.is_dir() else []) == before
        return said.err

    return refuse


def adapter(place: Path) -> Path:
    return place / "adapter/adapter_model.safetensors"


def change_config(place: Path, key: str, value: Any) -> None:
    OmegaConf.update(config := OmegaConf.load(place / "config.yaml"), key, value)
    OmegaConf.save(config, place / "config.yaml")


@every
def test_what_is_no_finished_run(trained, copied, tmp_path, refused, command):
    assert "no such folder" in refused(command, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "not a run's folder" in refused(command, tmp_path / "empty")
    place = copied(trained())
    record = json.loads((place / "result.json").read_text())
    (place / "result.json").write_text(json.dumps(record | {"run": record["run"] | {"status": "failed"}}))
    assert "has not finished (it is failed)" in refused(command, place)
    (place / "result.json").write_text("{")
    assert "not a run's record" in refused(command, place)
    (place / "result.json").write_text(json.dumps(record))
    for text in ("", "5", "a: &a [*a]", "method: {name: nope}", None):
        (place / "config.yaml").write_text(text) if text is not None else (place / "config.yaml").unlink()
        assert "config.yaml" in refused(command, place)


@every
def test_full_fine_tuning(trained, refused, command):
    said = refused(command, trained("bert", "full").folder, trained().folder)
    assert "method=full" in said and "adapter" in said


@every
def test_a_torn_adapter_file(trained, copied, refused, command):
    place = copied(trained())
    whole = adapter(place).read_bytes()
    for left in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        adapter(place).write_bytes(left)
        assert "not a readable adapter file" in refused(command, place)
    adapter(place).unlink()
    assert "adapter" in refused(command, place)


@every
def test_a_foreign_adapter_file(trained, copied, refused, command):
    place = copied(trained())
    own = load_file(adapter(place))
    factor = next(name for name in own if name.endswith("lora_A.weight"))
    changes = {
        "renamed": {name.replace("layer.1.", "layer.7."): value for name, value in own.items()},
        "fewer": {name: value for name, value in own.items() if name != factor},
        "more": own | {"base_model.model.extra.weight": own[factor].clone()},
        "narrow": own | {factor: own[factor][:, :16].contiguous()},
        "low": own | {factor: own[factor][:4].contiguous()},
    }
    for name, tensors in changes.items():
        save_file(tensors, adapter(place))
        said = refused(command, place)
        assert "adapter_model.safetensors" in said or "word_embeddings" in said or "beside LoRA" in said, (name, said)


@every
def test_an_adapter_for_another_base(trained, saved_base, copied, refused, command):
    base = str(saved_base("bert"))
    place = copied(trained(model__path=base))
    change_config(place, "model.path", str(saved_base("llama")))
    assert "for another base" in refused(command, place, trained(model__path=base, data_seed=1).folder)


@writing
def test_a_target_that_is_taken(trained, tmp_path, refused, command):
    out, run = tmp_path / "out", trained().folder
    out.mkdir()
    (out / "mine").write_text("kept")
    assert "is not empty" in refused(f"{command} --out {out}", run)
    assert [file.read_text() for file in out.iterdir()] == ["kept"]
    assert "is no folder" in refused(f"{command} --out {out}/mine", run)
    (tmp_path / "link").symlink_to("nowhere")
    assert "is no folder" in refused(f"{command} --out {tmp_path}/link", run)
    (tmp_path / "link").unlink()
    assert "--out /proc/x: cannot be made (" in refused(f"{command} --out /proc/x", run)
    (out / "mine").unlink()
    words = {"RUN": str(run), "OTHER": str(trained(data_seed=1).folder), "OUT": str(out)}
    assert main(["adapter", *(words.get(word, word) for word in f"{command} --out OUT".split())]) == 0  # an empty one
    assert any(out.iterdir()) and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("command", COMMANDS[2:4])
def test_weights_that_are_not_finite(trained, copied, refused, command):
    place = copied(trained())
    own = load_file(adapter(place))
    own[next(name for name in own if name.endswith("lora_A.weight"))].fill_(float("nan"))
    save_file(own, adapter(place))
    assert "not finite" in refused(command, place)


@every
def test_a_package_that_the_folder_names_is_not_fetched(trained, copied, refused, monkeypatch, command):
    monkeypatch.setattr("rankwise.assets._package.download", lambda *_: pytest.fail("fetched"))
    stranger = {"name": "stranger", "version": "1", "sha256": "0" * 64, "member": "model"}
    for group in ("model", "task") if command.startswith(("merge", "shrink")) else ("model",):
        place = copied(trained())
        change_config(place, f"{group}.package", stranger)
        said = refused(command, place)
        assert "package stranger 1 is not on this machine" in said and f"rankwise fetch {group}=" in said
        shutil.rmtree(place)


HOSTILE = {
    "is more than names": {"target_modules": "(.*)*(.*)*(.*)*!"},
    "the pattern (a+)+b": {"rank_pattern": {"(a+)+b": 4}},
    "XLORA is no adapter on layers": {"peft_type": "XLORA", "hidden_size": 32, "adapters": {"0": "stranger/adapter"}},
    "MULTITASK_PROMPT_TUNING is no": {"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 4},
    "has PEFT import the module": {"megatron_config": {}, "megatron_core": "stranger"},
    "not PEFT's config": {"peft_type": "UNHEARD"},
}


@every
def test_the_config_of_an_adapter_takes_no_time_and_no_other_files(trained, copied, refused, command):
    place = copied(trained())
    file = place / "adapter/adapter_config.json"
    config = json.loads(file.read_text())
    for said, values in HOSTILE.items():
        own = values if "peft_type" in values else config | values | {"of_a_newer_peft": 1}
        file.write_text(json.dumps(own | {"task_type": "SEQ_CLS"}))
        assert said in refused(command, place)


@every
def test_no_code_that_the_config_of_an_adapter_names_runs(trained, copied, tmp_path, refused, command):
    place, ran = copied(trained()), tmp_path / "ran"
    (tmp_path / "code").mkdir()
    (tmp_path / "code/tok.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Tok: pass\n")
    tokenizer = {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    (tmp_path / "code/tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = {"peft_type": "PROMPT_TUNING", "task_type": "SEQ_CLS", "num_virtual_tokens": 4, "inference_mode": False}
    config |= {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a", "num_transformer_submodules": 1}
    config |= {"tokenizer_name_or_path": str(tmp_path / "code"), "tokenizer_kwargs": {"trust_remote_code": True}}
    (place / "adapter/adapter_config.json").write_text(json.dumps(config))
    refused(command, place)
    assert not ran.exists()


def test_changed_data(trained, copied, refused):
    place = copied(trained())
    change_config(place, "task.synthetic", 500)
    assert "its data have changed" in refused("merge RUN", place)


LINES = [
    ("mrege x", "did you mean merge?"),
    ("merge", "RUN"),
    ("merge a b", "b: one word too many"),
    ("swap", "RUN"),
    ("merge a --dtype fp16", "merge: --dtype=fp16: one of fp32, bf16"),
    ("--json", "no such subcommand"),
    ("shrink RUN --rank 0", "--rank 0: 1 to 8"),
    ("shrink RUN --rank 9", "--rank 9: 1 to 8"),
    ("shrink RUN --energy 0", "--energy 0: above 0"),
    ("shrink RUN --energy 1.1", "at most 1"),
    ("shrink RUN --energy nan", "--energy nan"),
    ("shrink RUN --rank 2 --energy 0.5", "not allowed with"),
    ("shrink RUN", "shrink: give one of --rank, --energy; see"),
    ("combine OTHER RUN --how cat --weights 1", "2 numbers, one for each run"),
    ("combine OTHER RUN --how cat --weights 1,x", "numbers, by commas"),
    ("combine OTHER RUN --how cat --weights 0,0", "not all zero"),
    ("combine OTHER RUN --how cat --weights nan,1", "finite"),
    ("combine OTHER RUN --how cat --rank 4", "--rank 4: with --how svd only"),
    ("combine OTHER RUN --how svd --rank 0", "--rank 0: 1 to 32"),
    ("combine OTHER RUN --how svd --rank 33", "--rank 33: 1 to 32"),
    ("combine OTHER RUN --how linear --density 0.5", "--density 0.5: with --how ties"),
    ("combine OTHER RUN --how ties --density 0", "above 0"),
    ("combine OTHER RUN --how ties --density 1.5", "at most 1"),
    ("combine OTHER RUN --how mean", "combine: --how=mean: one of linear, cat, svd, ties, dare"),
    ("combine OTHER RUN", "combine: give --how (one of linear, cat, svd, ties, dare_linear, dare_ties); see"),
    ("eval RUN", "--tasks"),
    ("eval RUN --tasks a --limit 0", "--limit 0: a number of at least 1"),
    ("eval RUN --tasks a --shots -1", "--shots"),
]


@pytest.mark.parametrize(("line", "said"), LINES)
def test_a_wrong_command_line(trained, refused, monkeypatch, line, said):
    monkeypatch.setattr(loading, "stored_base", lambda *_: pytest.fail("loaded all the same"))
    assert said in refused(line, trained().folder)


SHOWN = [
    ("merge RUN --out OUT", ("merged into", "read back from the folder"), ("logits", "weight_bytes")),
    (
        "export RUN --out OUT",
        (" MB, LORA in PEFT): README.md, adapter_config.json", "base: "),
        ("peft_type", "files", "scores"),
    ),
    ("swap OTHER RUN", ("relative error of logits", "switching takes", "yes"), ("adapters", "switch_ms")),
    ("combine OTHER RUN --how ties", ("paired difference", "rank 8", "one standard error"), ("density", "tasks")),
    (
        "shrink RUN --rank 2 --out OUT",
        ("accuracy", "Σσ²", "rank 2: cut by singular values", "saved in"),
        ("modules", "kept_energy"),
    ),
    (
        "diff VERA RUN",
        ("method.name", "bert.encoder.layer.0.attention.self.query", "± one standard error over test rows"),
        ("config", "scores"),
    ),
]


@pytest.mark.parametrize(("line", "said", "keys"), SHOWN)
def test_what_is_found_is_shown_or_is_one_json_document(trained, tmp_path, capsys, line, said, keys):
    words = {"RUN": str(trained().folder), "OTHER": str(trained(data_seed=1).folder)}
    words["VERA"] = str(trained("bert", "vera").folder)
    for number, flags in enumerate(([], ["--json"])):
        words["OUT"] = str(tmp_path / str(number))
        assert main(["adapter", *(words.get(word, word) for word in line.split()), *flags]) == 0
        shown = capsys.readouterr().out
        assert set(keys) <= set(json.loads(shown)) if flags else all(part in shown for part in said)
        assert "nan" not in shown  # an error of exactly zero among them


def test_help_names_every_subcommand(capsys):
    assert (main(["adapter", "--help"]), main(["adapter"])) == (0, 2)
    shown = capsys.readouterr().out
    for what in ("merge", "export", "swap", "combine", "shrink", "eval", "diff"):
        assert f"  {what} " in shown
