"""What every subcommand refuses, in one line and with nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from rankwise.adapters.runs import Run
from rankwise.cli import main

Trained = Callable[..., Run]
Shown = pytest.CaptureFixture[str]
COMMANDS = [
    ["merge", "RUN"], ["export", "RUN"], ["shrink", "RUN", "--rank", "2"], ["swap", "OTHER", "RUN"],
    ["combine", "OTHER", "RUN", "--how", "cat"],
]  # fmt: skip
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
def test_what_is_no_finished_run(
    trained: Trained, copied: Callable[[Run], Path], tmp_path: Path, capsys: Shown, command: list[str]
) -> None:
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
    (place / "config.yaml").unlink()
    assert "config.yaml" in refused(command, place, other, capsys)


@every
def test_full_fine_tuning(trained: Trained, capsys: Shown, command: list[str]) -> None:
    said = refused(command, trained("bert", "full").folder, trained().folder, capsys)
    assert "method=full" in said and "adapter" in said


@every
def test_a_torn_adapter_file(
    trained: Trained, copied: Callable[[Run], Path], capsys: Shown, command: list[str]
) -> None:
    place, other = copied(trained()), trained(data_seed=1).folder
    whole = adapter(place).read_bytes()
    for left in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        adapter(place).write_bytes(left)
        assert "not a readable adapter file" in refused(command, place, other, capsys)
    adapter(place).unlink()
    assert "adapter" in refused(command, place, other, capsys)


@every
def test_a_foreign_adapter_file(
    trained: Trained, copied: Callable[[Run], Path], capsys: Shown, command: list[str]
) -> None:
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
def test_an_adapter_for_another_base(
    trained: Trained, saved_base: Callable[[str], Path], copied: Callable[[Run], Path], tmp_path: Path, capsys: Shown,
    command: list[str],
) -> None:  # fmt: skip
    base = saved_base("bert")
    place = copied(trained(model__path=str(base)))
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["model"]["path"] = str(saved_base("llama"))
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    other = trained(model__path=str(base), data_seed=1).folder
    assert "for another base" in refused(command, place, other, capsys)


@writing
def test_a_target_that_is_taken(trained: Trained, tmp_path: Path, capsys: Shown, command: list[str]) -> None:
    out, run, other = tmp_path / "out", trained().folder, trained(data_seed=1).folder
    out.mkdir()
    (out / "mine").write_text("kept")
    assert "is not empty" in refused([*command, "--out", str(out)], run, other, capsys)
    assert [file.read_text() for file in out.iterdir()] == ["kept"]
    assert "is no folder" in refused([*command, "--out", str(out / "mine")], run, other, capsys)
    (out / "mine").unlink()
    words = {"RUN": str(run), "OTHER": str(other)}
    assert main(["adapter", *(words.get(word, word) for word in command), "--out", str(out)]) == 0  # an empty one
    assert any(out.iterdir()) and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("command", COMMANDS[2:3] + COMMANDS[4:], ids=lambda command: command[0])
def test_weights_that_are_not_finite(
    trained: Trained, copied: Callable[[Run], Path], capsys: Shown, command: list[str]
) -> None:
    place = copied(trained())
    own = load_file(adapter(place))
    own[next(name for name in own if name.endswith("lora_A.weight"))].fill_(float("nan"))
    save_file(own, adapter(place))
    assert "not finite" in refused(command, place, trained(data_seed=1).folder, capsys)


@every
def test_a_package_that_the_folder_names_is_not_fetched(
    trained: Trained, copied: Callable[[Run], Path], capsys: Shown, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
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


def test_changed_data(trained: Trained, copied: Callable[[Run], Path], capsys: Shown) -> None:
    place = copied(trained())
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["task"]["synthetic"] = 500
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    assert "its data have changed" in refused(["merge", "RUN"], place, place, capsys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mrege x", "did you mean merge?"), ("merge", "RUN"), ("merge a b", "unrecognized arguments"),
        ("diff a", "RUN"), ("swap", "RUN"), ("merge a --dtype fp16", "invalid choice"),
        ("--json", "no such subcommand"),
        ("shrink a --rnk 2", "see rankwise adapter shrink --help"),
    ],
)  # fmt: skip
def test_a_wrong_command_line(capsys: Shown, line: str, said: str) -> None:
    assert main(["adapter", *line.split()]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_help_names_every_subcommand(capsys: Shown) -> None:
    assert main(["adapter", "--help"]) == 0 == main(["adapter"])
    shown = capsys.readouterr().out
    for what in ("merge", "export", "swap", "combine", "shrink", "diff"):
        assert f"  {what} " in shown
        with pytest.raises(SystemExit) as done:
            main(["adapter", what, "--help"])
        assert done.value.code == 0 and what in capsys.readouterr().out
