"""What the world does to a run or a command: disks, locales, readers that go, memory, strangers. Each is one line, and
what is done is kept."""

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from rankwise.check import check_here
from rankwise.cli import main
from rankwise.config import plain
from rankwise.errors import Refused
from rankwise.files import read_json, read_yaml
from rankwise.identity import folder
from rankwise.paths import readable
from rankwise.report.export import _cell
from rankwise.run import _no_memory, run
from rankwise.study.compose import to_config
from rankwise.study.single import single
from rankwise.tracking import record as records

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("outputs", ["C:/x", "exp:1", "s3://x/y", "~/x", "a::b"])
def test_signs_in_the_name_of_outputs_lose_nothing(outputs, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    record = run(tiny("bert", outputs=outputs))
    assert str(record.folder).startswith(outputs.replace("//", "/").replace("~", os.environ["HOME"]))
    assert {"adapter", "predictions.parquet"} <= {path.name for path in record.folder.iterdir()}
    assert not (tmp_path / "~").exists()


UNFIT = [
    ({"targets": "custom", "targets__modules": ["nope"]}, "nope"),
    ({"method__rank": 20}, "^method.rank=20: at most 16"),
]


@pytest.mark.parametrize(("keys", "line"), UNFIT)
def test_what_does_not_fit_the_model_is_refused_and_nothing_stays(keys, line, tiny, tmp_path):
    with pytest.raises(Refused, match=line):
        run(tiny("llama", **keys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("most_bytes", "state"), [(20, "new"), (1_000, "new"), (40_000, "failed")])
def test_no_room_is_one_line_and_the_record_says_failed(most_bytes, state, tiny):
    config, limits = tiny("bert", "full"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        with pytest.raises(Refused, match=r"File too large.*make room there, or give another outputs=FOLDER"):
            single(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records.state(config) == state and folder(config).exists() == (state == "failed")
    assert run(config).status == "finished"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory_says_what_the_plan_said_and_which_batch_is_smaller(error, tiny):
    def full(step: int, total: int, text: str) -> None:
        raise error

    config = tiny("bert", trainer__batch_size=8, trainer__eval_batch_size=8)
    line = r"out of memory: a step needs .* GB by the plan, .* GB are here; trainer.batch_size=4 trainer.accumulate=2"
    with pytest.raises(Refused, match=line):
        run(config, full)
    record = records.read(folder(config))
    assert record.status == "failed"
    record.compute["device"], needed = "cuda", record.memory["train"]["predicted"]["peak_bytes"] / 1e9
    short, plan = "a smaller task.max_length", f"out of memory: a step needs {needed:.1f} GB by the plan; "
    for method, kind, smaller in (("lora", None, ", or quant=nf4,"), ("lora", "nf4", ""), ("full", None, "")):
        said = _no_memory(tiny("bert", method, trainer__batch_size=33, quant__kind=kind), record)
        assert said == f"{plan}{short}{smaller} helps"
    record.memory["eval"]["predicted"]["peak_bytes"] = 5_000_000_000
    fewer = f"trainer.eval_batch_size=3 reads fewer rows at once; {short}"
    large = "out of memory: an evaluation needs 5.0 GB by the plan; "
    assert _no_memory(tiny("bert", "full", trainer__eval_batch_size=7), record) == f"{large}{fewer} helps, too"
    record.memory = {}
    said = _no_memory(tiny("bert", "probe", trainer__eval_batch_size=7), record)
    assert said == f"out of memory; {fewer} helps, too"


def test_a_folder_that_cannot_be_written_is_refused_at_once(tiny, monkeypatch):
    config = tiny("bert")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere but on a read-only disk
    with pytest.raises(Refused, match=r"cannot be written; give another outputs=FOLDER"):
        check_here(config)


def test_help_is_printed_in_latin_1_and_to_a_reader_that_goes():
    command = [sys.executable, "-c", "from rankwise.cli import main; raise SystemExit(main())"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run([*command, "--help"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and b"COMMAND \\u2026" in done.stdout
    read, write = os.pipe()
    os.close(read)
    assert subprocess.run([*command, "--help"], stdout=write, stderr=write).returncode == 0
    os.close(write)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_on_stderr_is_seen_at_once_also_where_python_buffers_nothing(unbuffered):
    ends_without_flushing = "import os; from rankwise.cli import main; main(); os._exit(0)"
    command = [sys.executable, "-c", ends_without_flushing, "no-command"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr.startswith("rankwise: no-command: no such command")


def test_no_home_is_one_line_where_one_is_needed(monkeypatch, capsys):
    monkeypatch.setattr("rankwise.assets._cache.user_cache_dir", lambda name: str(Path("~x/y").expanduser()))
    monkeypatch.delenv("RANKWISE_CACHE", raising=False)
    assert "set RANKWISE_CACHE, or HOME" in refused(["train", "model=minilm", "method.rank=4"], capsys)


def test_records_are_as_private_as_the_umask_says(tiny):
    before = os.umask(0o077)
    try:
        record = run(tiny("bert", "tfidf"))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in record.folder.iterdir()}
    assert modes == {0o600}


def test_a_folder_is_opened_to_others_and_loses_no_permission(tmp_path, monkeypatch):
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o2700)  # what is made in it belongs to its group
    (file := shared / "weights").touch(0o600)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "chmod", Mock(side_effect=PermissionError))  # one that knows no permissions
        readable(shared)
    readable(shared)
    (usual := tmp_path / "usual").mkdir()
    assert shared.stat().st_mode == usual.stat().st_mode | 0o2000
    (usual / "file").touch()
    assert file.stat().st_mode == (usual / "file").stat().st_mode


def test_what_a_terminal_would_obey_is_written_as_an_escape(tmp_path, capsys):
    assert "\\x1b[31mred" in refused(["\x1b[31mred"], capsys)
    (tmp_path / "r.json").write_text(json.dumps({"name\x1b[2J": ["a\u202eb…", "two\nlines", "p\xa0= 1"]}))
    assert read_json(tmp_path / "r.json", "x") == {"name\\x1b[2J": ["a\\u202eb…", "two\nlines", "p\xa0= 1"]}


def test_a_cell_is_no_formula():
    assert [_cell(text) for text in ("=cmd()", "+1", "-x", "@x")] == ["'=cmd()", "'+1", "'-x", "'@x"]
    assert [_cell(value) for value in ("lora", -1.5, None)] == ["lora", -1.5, ""]


@pytest.mark.parametrize("key", ["name", "study", "outputs", "tracking.project", "task.text", "method.alpha"])
def test_the_environment_does_not_end_in_the_record(key, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    said = refused(["train", "debug=fast", f"{key}=${{oc.env:SECRET}}"], capsys)
    assert "${oc.env:SECRET}" in said and "hush" not in said


SYSTEM = {"_target_": "os.system", "command": "touch ran"}
LOGGING = {"version": 1, "formatters": {"x": {"()": "os.system", "command": "touch ran"}}}
TUNE = "${model.shape}"
BROUGHT = {  # by an option of somebody else's
    "hydra.callbacks.x._target_=os.system": {"hydra": {"callbacks": {"x": SYSTEM}}},
    "hydra.launcher.jobs._target_=os.system": {"hydra": {"launcher": {"jobs": SYSTEM}}},
    "hydra.sweeper.pairs.0._target_=os.system": {"hydra": {"sweeper": {"pairs": [SYSTEM]}}},
    "hydra.job_logging.formatters.x.()=os.system": {"hydra": {"job_logging": LOGGING}},
    "hydra.hydra_logging.formatters.x.()=os.system": {"hydra": {"hydra_logging": LOGGING}},
    "hydra.job.env_set.LD_PRELOAD=./x.so": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "./x.so"}}}},
    "callbacks.x._target_=os.system": {"callbacks": {"x": SYSTEM}},
    "hydra.sweeper.tune._target_=os.system": {"model": {"shape": SYSTEM}, "hydra": {"sweeper": {"tune": TUNE}}},
}


@pytest.mark.parametrize("word", BROUGHT)
def test_code_of_a_conf_folder_is_asked_for_by_name(word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for group in ("experiment", "method", "callbacks"):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / f"conf/{group}/theirs.yaml").write_text("# @package _global_\n" + yaml.safe_dump(BROUGHT[word]))
    lines = ["plan experiment=theirs", "train -m method=lora,theirs", "find experiment=theirs"]
    more = ["train callbacks=[theirs,none]"] if word.startswith("hydra") else []
    more += ["train experiment=theirs callbacks.x={patience:3}"] if word.startswith("callbacks") else []
    for line in [*lines, *more]:
        said = refused([*line.split(), "debug=fast"], capsys)
        assert f"{word.partition('=')[0]} runs code; if that is wanted, add {word}" in said
    (tmp_path / "conf").rename(tmp_path / "received")
    for line in ("train -cd received experiment=theirs", "plan hydra.searchpath=[file://received] experiment=theirs"):
        assert "runs code; if that is wanted, add" in refused([*line.split(), "debug=fast"], capsys)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "outputs").exists()


BOMB = "b: &b0 [1]\n" + "".join(f"b{i}: &b{i} [{','.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 11))
RUNS_CODE = "a: !!python/object/apply:os.system [x]"
TEXTS = [BOMB, RUNS_CODE, "a: &a [*a]", "a: " + "[" * 5000, "- " * 5000, "a: " + "9" * 5000, "[]", "\0"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_yaml_takes_for_ever_or_runs_anything(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(Refused, match=r"x\.yaml: not a thing \("):
        read_yaml(tmp_path / "x.yaml", "a thing")


@pytest.mark.parametrize("name", ["pipe", "huge", ".", "none", "\0"])
def test_what_is_no_file_of_sane_size_is_refused(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Refused, match=r"not a thing \("):
        read_json(tmp_path / name, "a thing")


def test_an_interpolation_of_a_snapshot_cannot_read_the_environment_either(tiny):
    with pytest.raises(Refused, match="for all to read"):
        to_config(plain(tiny("bert")) | {"name": "${oc.env:HOME}"})
