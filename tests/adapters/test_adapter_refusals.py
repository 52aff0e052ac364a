"""What every subcommand refuses, in one line and with nothing written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from rankwise.adapters import loading
from rankwise.cli import main

Shown = pytest.CaptureFixture[str]
COMMANDS = [
    ["merge", "RUN"],
    ["export", "RUN"],
    ["shrink", "RUN", "--rank", "2"],
    ["swap", "OTHER", "RUN"],
    ["combine", "OTHER", "RUN", "--how", "cat"],
]
every = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
WRITING = [command for command in COMMANDS if command[0] != "swap"]
writing = pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])


def refused(command: list[str], place: Path, other: Path, shown: Shown) -> str:
    """The one line, with the folder's content as it was."""
    before = sorted(place.rglob("*")) if place.is_dir() else []
    words = {"RUN": str(place), "OTHER": str(other)}
    assert main(["adapter", *(words.get(word, word) for word in command)]) == 2
    said = shown.readouterr()
    assert said.err.startswith("rankwise: ") and said.err.count("\n") == 1 and not said.out
    assert (sorted(place.rglob("*")) if place.is_dir() else []) == before
    return said.err


def adapter(place: Path) -> Path:
    return place / "adapter/adapter_model.safetensors"


@every
def test_what_is_no_finished_run(trained, copied, tmp_path, capsys, command):
    other = trained(data_seed=1).folder
    assert "no such folder" in refused(command, tmp_path / "nowhere", other, capsys)
    (tmp_path / "empty").mkdir()
    assert "not a run's folder" in refused(command, tmp_path / "empty", other, capsys)
    place = copied(trained())
    record = json.loads((place / "result.json").read_text())
    (place / "result.json").write_text(json.dumps(record | {"run": record["run"] | {"status": "failed"}}))
    assert "has not finished (it is failed)" in refused(command, place, other, capsys)
    (place / "result.json").write_text("{")
    assert "not a run's record" in refused(command, place, other, capsys)
    (place / "result.json").write_text(json.dumps(record))
    for text in ("", "5", "a: &a [*a]", "method: {name: nope}", None):
        (place / "config.yaml").write_text(text) if text is not None else (place / "config.yaml").unlink()
        assert "config.yaml" in refused(command, place, other, capsys)


@every
def test_full_fine_tuning(trained, capsys, command):
    said = refused(command, trained("bert", "full").folder, trained().folder, capsys)
    assert "method=full" in said and "adapter" in said


@every
def test_a_torn_adapter_file(trained, copied, capsys, command):
    place, other = copied(trained()), trained(data_seed=1).folder
    whole = adapter(place).read_bytes()
    for left in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        adapter(place).write_bytes(left)
        assert "not a readable adapter file" in refused(command, place, other, capsys)
    adapter(place).unlink()
    assert "adapter" in refused(command, place, other, capsys)


@every
def test_a_foreign_adapter_file(trained, copied, capsys, command):
    place, other = copied(trained()), trained(data_seed=1).folder
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
        said = refused(command, place, other, capsys)
        assert "adapter_model.safetensors" in said or "word_embeddings" in said or "beside LoRA" in said, (name, said)


@every
def test_an_adapter_for_another_base(trained, saved_base, copied, tmp_path, capsys, command):
    base = saved_base("bert")
    place = copied(trained(model__path=str(base)))
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["model"]["path"] = str(saved_base("llama"))
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    other = trained(model__path=str(base), data_seed=1).folder
    assert "for another base" in refused(command, place, other, capsys)


@writing
def test_a_target_that_is_taken(trained, tmp_path, capsys, command):
    out, run, other = tmp_path / "out", trained().folder, trained(data_seed=1).folder
    out.mkdir()
    (out / "mine").write_text("kept")
    assert "is not empty" in refused([*command, "--out", str(out)], run, other, capsys)
    assert [file.read_text() for file in out.iterdir()] == ["kept"]
    assert "is no folder" in refused([*command, "--out", str(out / "mine")], run, other, capsys)
    (tmp_path / "link").symlink_to("nowhere")
    assert "is no folder" in refused([*command, "--out", str(tmp_path / "link")], run, other, capsys)
    (tmp_path / "link").unlink()
    (out / "mine").unlink()
    words = {"RUN": str(run), "OTHER": str(other)}
    assert main(["adapter", *(words.get(word, word) for word in command), "--out", str(out)]) == 0  # an empty one
    assert any(out.iterdir()) and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("command", COMMANDS[2:3] + COMMANDS[4:], ids=lambda command: command[0])
def test_weights_that_are_not_finite(trained, copied, capsys, command):
    place = copied(trained())
    own = load_file(adapter(place))
    own[next(name for name in own if name.endswith("lora_A.weight"))].fill_(float("nan"))
    save_file(own, adapter(place))
    assert "not finite" in refused(command, place, trained(data_seed=1).folder, capsys)


@every
def test_a_package_that_the_folder_names_is_not_fetched(trained, copied, capsys, monkeypatch, command):
    monkeypatch.setattr("rankwise.assets._package.download", lambda *_: pytest.fail("fetched"))
    other = trained(data_seed=1).folder
    for group in ("model", "task"):
        place = copied(trained())
        config = yaml.safe_load((place / "config.yaml").read_text())
        config[group]["package"] = {"name": "stranger", "version": "1", "sha256": "0" * 64, "member": "model"}
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        if group == "model" or command[0] in ("merge", "shrink"):
            said = refused(command, place, other, capsys)
            assert "package stranger 1 is not on this machine" in said and f"rankwise fetch {group}=" in said
        shutil.rmtree(place)


HOSTILE = {
    "is more than names": {"target_modules": "(.*)*(.*)*(.*)*!"},
    "the pattern (a+)+b": {"rank_pattern": {"(a+)+b": 4}},
    "XLORA names other files": {"peft_type": "XLORA", "hidden_size": 32, "adapters": {"0": "stranger/adapter"}},
    "MULTITASK_PROMPT_TUNING names": {"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 4},
    "has PEFT import the module": {"megatron_config": {}, "megatron_core": "stranger"},
    "not PEFT's config": {"peft_type": "UNHEARD"},
}


@every
def test_the_config_of_an_adapter_takes_no_time_and_no_other_files(trained, copied, capsys, command):
    place, other = copied(trained()), trained(data_seed=1).folder
    file = place / "adapter/adapter_config.json"
    config = json.loads(file.read_text())
    for said, values in HOSTILE.items():
        own = values if "peft_type" in values else config | values | {"of_a_newer_peft": 1}
        file.write_text(json.dumps(own | {"task_type": "SEQ_CLS"}))
        assert said in refused(command, place, other, capsys)


@every
def test_no_code_that_the_config_of_an_adapter_names_runs(trained, copied, tmp_path, capsys, command):
    place, ran = copied(trained()), tmp_path / "ran"
    (tmp_path / "code").mkdir()
    (tmp_path / "code/tok.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Tok: pass\n")
    tokenizer = {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    (tmp_path / "code/tokenizer_config.json").write_text(json.dumps(tokenizer))
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_CLS",
        "num_virtual_tokens": 4,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "a",
        "tokenizer_name_or_path": str(tmp_path / "code"),
        "tokenizer_kwargs": {"trust_remote_code": True},
        "inference_mode": False,
        "num_transformer_submodules": 1,
    }
    (place / "adapter/adapter_config.json").write_text(json.dumps(config))
    refused(command, place, trained(data_seed=1).folder, capsys)
    assert not ran.exists()


def test_changed_data(trained, copied, capsys):
    place = copied(trained())
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["task"]["synthetic"] = 500
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    assert "its data have changed" in refused(["merge", "RUN"], place, place, capsys)


LINES = [
    ("mrege x", "did you mean merge?"),
    ("merge", "RUN"),
    ("merge a b", "unrecognized arguments: b"),
    ("diff a", "RUN"),
    ("swap", "RUN"),
    ("merge a --dtype fp16", "invalid choice"),
    ("--json", "no such subcommand"),
    ("shrink a --rnk 2", "see rankwise adapter shrink --help"),
    ("shrink RUN --rank 0", "--rank 0: 1 to 8"),
    ("shrink RUN --rank 9", "--rank 9: 1 to 8"),
    ("shrink RUN --rank x", "invalid int"),
    ("shrink RUN --energy 0", "--energy 0: above 0"),
    ("shrink RUN --energy 1.1", "at most 1"),
    ("shrink RUN --energy nan", "--energy nan"),
    ("shrink RUN --rank 2 --energy 0.5", "not allowed with"),
    ("shrink RUN", "required"),
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
    ("combine OTHER RUN --how ties --density nan", "at most 1"),
    ("combine OTHER RUN --how mean", "invalid choice: 'mean'"),
    ("combine OTHER RUN", "--how"),
    ("eval RUN", "--tasks"),
    ("eval RUN --tasks a --limit 0", "--limit 0: a number of at least 1"),
    ("eval RUN --tasks a --shots -1", "--shots"),
]


@pytest.mark.parametrize(("line", "said"), LINES)
def test_a_wrong_command_line(trained, capsys, monkeypatch, line, said):
    monkeypatch.setattr(loading, "stored_base", lambda *_: pytest.fail("loaded all the same"))
    assert said in refused(line.split(), trained().folder, trained(data_seed=1).folder, capsys)


SHOWN = [
    ("merge RUN --out OUT", ("merged into", "read back from the folder"), ("logits", "weight_bytes")),
    ("export RUN --out OUT", ("LORA adapter in", "adapter_config.json", "base: "), ("peft_type", "files", "scores")),
    ("swap OTHER RUN", ("relative error of logits", "switching takes", "yes"), ("adapters", "switch_ms")),
    ("combine OTHER RUN --how ties", ("paired difference", "rank 8", "one standard error"), ("density", "tasks")),
    ("shrink RUN --rank 2 --out OUT", ("accuracy", "Σσ²", "saved in"), ("modules", "kept_energy")),
    ("diff VERA RUN", ("method.name", "bert.encoder.layer.0.attention.self.query", "accuracy"), ("config", "scores")),
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
