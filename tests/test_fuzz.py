"""Whatever a user types or hands over is accepted, or refused in one line, with exit code 2 and nothing written.

Hypothesis makes the inputs up, the same 1,000 every time; ``RANKWISE_FUZZ=20000 pytest tests/test_fuzz.py`` makes so
many, other ones. An accepted input is not run: it ends where the run, the plan or the search would begin.
"""

import atexit
import contextlib
import copy
import functools
import importlib
import io
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from synthetic_study import write_run
from tiny_configs import tiny

from rankwise import assets
from rankwise.cli import COMMANDS, main
from rankwise.config import Task, flat, known_keys, plain
from rankwise.errors import Refused
from rankwise.metrics import KINDS
from rankwise.synonyms import GROUPS
from rankwise.tasks import data

INPUTS = int(os.environ.get("RANKWISE_FUZZ", "1000"))
DEADLINE_S = 60  # of one input, on a machine that others use too
SEAMS = (("assets", "resolve"), ("plan.estimate", "plan"), ("find.story", "find"), ("find.show", "stages"))


def inputs(share: float) -> Any:
    """Settings of a test that takes this share of all inputs."""
    return settings(
        max_examples=max(1, int(INPUTS * share)),
        deadline=None,
        derandomize="RANKWISE_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )


class Accepted(BaseException):
    """The input has passed every check."""


def accept(*arguments: Any, **options: Any) -> NoReturn:
    raise Accepted


@pytest.fixture(autouse=True)
def seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checks end, and what takes long begins."""
    for module, name in SEAMS:
        monkeypatch.setattr(importlib.import_module(f"rankwise.{module}"), name, accept)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """An empty folder, to work in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    def late(*_: Any) -> NoReturn:
        raise TimeoutError(f"no answer within {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def answer(line: list[str]) -> None:
    """Give the command line; what must hold of every answer."""
    out, err, before = io.StringIO(), io.StringIO(), contents(Path())
    try:
        with deadline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(line)
    except Accepted:
        code = 0
    said = err.getvalue()
    assert code in (0, 2), said
    assert contents(Path()) == before
    if code == 2:
        *left_out, refusal, end = said.split("\n")
        assert end == "" and refusal.startswith("rankwise: ") and out.getvalue() == ""
        assert all(text.startswith("rankwise: left out: ") for text in left_out)
        assert refusal.isprintable() and len(refusal) < 1500
        said.encode()


SPACES = ["", *" \n\t", "a b", "a\rb", "\x1b[31mred", *"\u202e\u2028\udcff\ud800é", "漢字", "x" * 5000]
SIGNS = r"""[ ] { } ' " \ , : ; = ~ * ** ? % %s {0} $ ${ ${} ${x} ${seed} ${oc.env:HOME} ${oc.env:HOME,} ${oc.env:NO,1}
    ${now:%Y} ${hydra:x} $(id) a,b a=b a:b 1,2,3 1, glob(*) range(1,4) range(1,999999999) choice(1,2) sort(2,1)
    interval(0,1) tag(x,1) shuffle(1,2) int(1) str(x) [1 1] {a:1 (.*)*(.*)*! (a+)+$ (?P<x [z-a]"""
WORDS = r"""null None none NaN nan inf -inf 1e400 1e-400 007 1_000 0x10 ² ½ yes on ../x ../../.. /dev/null /dev/zero
    /proc/self/mem . .. ~/x C:/x C:\x NUL lora full qv custom local auto wandb val/accuracy val/loss test/accuracy loss
    -1 0 1 2 1.5 true false -- - -m --x 2r 16sqrt 24GB 0B -1GB 30m 0s 200% -1% r=8 r=0 full cuda fp16 os.system
    peft.LoraConfig rankwise __class__ a.b.c"""
ODD_TEXTS = st.sampled_from([*SPACES, *SIGNS.split(), *WORDS.split(), "9" * 400, "-" + "9" * 5000])
ODD_NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 10**9, 10**30, 10**400, -(2**63), 2**63, 0.5, -0.5, 1e-300, 1e300])
SCALARS = st.one_of(st.none(), st.booleans(), ODD_NUMBERS, st.floats(), st.integers(), ODD_TEXTS, st.text(max_size=8))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXTS, inner, max_size=3), max_leaves=5
)
NESTED = st.sampled_from([50, 500, 20_000]).map(lambda depth: "[" * depth + "1" + "]" * depth)


@functools.cache
def snapshot() -> dict[str, Any]:
    return plain(tiny("bert"))


@functools.cache
def keys() -> list[str]:
    return sorted({*known_keys(), *flat(snapshot())})


def changed(values: dict[str, Any], changes: dict[tuple[str, ...], Any]) -> str:
    """The values with changes at some paths, as JSON, which is YAML, too."""
    values, texts = copy.deepcopy(values), {}
    for (*parents, last), value in changes.items():
        node = values
        for parent in parents:
            node = node[parent] if isinstance(node.get(parent), dict) else node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        else:
            mark = f"mark {len(texts)}"
            node[last], texts[mark] = mark, value if isinstance(value, Raw) else json.dumps(value)
    text = json.dumps(values)
    for mark, value in texts.items():
        text = text.replace(json.dumps(mark), value)
    return text


class Raw(str):
    """A piece of the file as it stands there."""


def changes(places: list[str], separator: str = ".") -> st.SearchStrategy[dict[tuple[str, ...], Any]]:
    paths = st.sampled_from(places).map(lambda place: tuple(place.split(separator)))
    return st.dictionaries(paths, VALUES | NESTED.map(Raw), min_size=1, max_size=3)


@inputs(0.46)
@given(st.deferred(lambda: changes(keys())))
def test_a_snapshot(change):
    with temporary() as folder:
        (folder / "config.yaml").write_text(changed(snapshot(), change), encoding="utf-8")
        answer(["train", "--config", "config.yaml"])


HYDRA = """hydra.sweeper.pairs hydra.sweeper.exclude hydra.sweeper.tune hydra.sweeper.params
    hydra.sweeper.max_batch_size hydra.launcher.jobs hydra.launcher.returns hydra.launcher._target_
    hydra.run.dir hydra.mode hydra.verbose hydra.job.name hydra.callbacks
    hydra.searchpath hydra/launcher hydra/sweeper hydra"""
FLAGS = {
    "train": "-m --multirun --join --rerun --dry-run --json --config= --jobs= --cfg= --config-dir= -cn=",
    "find": "--dry-run --json --budget= --margin= --seeds= --rates= --reference= --replay= --jobs=",
    "plan": "-m --multirun --params --json --gpu= --gpus= --fit= --mfu= --power= --margin=",
    "sweep": "--convert --rerun --json --count= --seed= --jobs=",
    "report": "--json --csv --markdown --latex --methods --by= --score= --out= --columns= --figures= --pack=",
    "claims": "--json --only= --tier= --markdown=",
    "analyze": "--json --layer= --module= --side= --of= --out=",
    "adapter": "--json --out= --push= --dtype= --rank= --weights= --how= --density= --energy=",
    "dashboard": "--json --push --entity= --project=",
    "fetch": "--json",
}
UNTRIED = {"--help", "--simulate", "--measure", "--open"}  # no input, long, or a browser
SUBCOMMANDS = {
    "adapter": ["merge", "export", "swap", "combine", "shrink", "diff"],
    "analyze": ["spectrum", "subspaces", "x"],
}


def unquoted(value: Any) -> str:
    """As Hydra writes it: keys and texts without quotes."""
    return json.dumps(value).replace('"', "")


def overrides() -> st.SearchStrategy[str]:
    names = st.sampled_from(keys()) | st.sampled_from([*GROUPS, *HYDRA.split()]) | ODD_TEXTS
    several = st.lists(ODD_TEXTS, min_size=2, max_size=3).map(",".join)
    value = VALUES.map(json.dumps) | VALUES.map(unquoted) | ODD_TEXTS | several | NESTED
    signs = st.sampled_from(["", "", "", "", "", "+", "++", "~"])
    return st.tuples(signs, names, st.just("="), value).map("".join)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(["train", "train", "plan", *FLAGS]))
    line = [command, *([draw(st.sampled_from(SUBCOMMANDS[command]))] if command in SUBCOMMANDS else [])]
    for flag in draw(st.lists(st.sampled_from([*FLAGS[command].split(), "--no"]), max_size=2)):
        line.append(flag + draw(ODD_TEXTS | VALUES.map(unquoted)) if flag.endswith("=") else flag)
    composes = command in ("train", "plan", "find", "fetch", "sweep")
    return line + draw(st.lists(overrides() | ODD_TEXTS if composes else ODD_TEXTS, max_size=2))


@inputs(0.2)
@given(st.deferred(lines) | st.lists(ODD_TEXTS, max_size=3))
def test_a_command_line(line):
    with temporary():
        answer([word.replace("\0", "") for word in line])  # which no system passes on


SWEEP = {
    "method": "grid",
    "run_cap": 3,
    "parameters": {"method.rank": {"values": [1, 2]}, "seed": {"min": 0, "max": 1}},
    "command": ["${env}", "rankwise", "train", "debug=fast", "${args_no_hyphens}"],
}
SWEEP_PLACES = """method run_cap parameters command name metric early_terminate parameters/method parameters/point
    parameters/method.rank parameters/seed parameters/seed/min parameters/seed/max parameters/seed/q
    parameters/seed/distribution parameters/seed/values parameters/seed/value parameters/seed/probabilities
    parameters/method.lr parameters/method.lr/mu parameters/method.lr/sigma parameters/task.labels/values"""


@inputs(0.06)
@given(changes(SWEEP_PLACES.split(), "/"), st.sampled_from(["grid", "random"]))
def test_a_sweep_file(change, method):
    with temporary() as folder:
        (folder / "sweep.yaml").write_text(changed(SWEEP | {"method": method}, change), encoding="utf-8")
        answer(["sweep", "sweep.yaml", "--count", "3"])


READERS = """report STUDY --json; report STUDY --csv; analyze spectrum STUDY/one; adapter export STUDY/one;
    adapter merge STUDY/one; adapter diff STUDY/one STUDY/two; claims STUDY --json --only lora_t6_rank1;
    find --replay STUDY; train --config STUDY/one/result.json"""


@functools.cache
def study() -> Path:
    root = Path(tempfile.mkdtemp(prefix="fuzz-")) / "STUDY"
    for rank, name in enumerate(("one", "two"), 1):
        Path(write_run(root, rank=rank).folder or "").rename(root / name)
    atexit.register(shutil.rmtree, root.parent)
    return root


def of_record() -> list[str]:
    """Every key of a record, and every group."""
    leaves = [key.split(".") for key in flat(json.loads((study() / "one/result.json").read_text()))]
    return sorted({".".join(parts[:depth]) for parts in leaves for depth in range(1, len(parts) + 1)})


@inputs(0.13)
@given(st.deferred(lambda: changes(of_record())), st.sampled_from(READERS.split(";")))
def test_a_record(change, line):
    with temporary():
        shutil.copytree(study(), "STUDY")
        record = Path("STUDY/one/result.json")
        record.write_text(changed(json.loads(record.read_text()), change))
        answer(line.split())


ROWS = [(f"good {i}", "pos") if i % 2 else (f"bad {i}", "neg") for i in range(16)]
FILES = {
    "csv": "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS),
    "tsv": "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS),
    "json": json.dumps([{"text": text, "label": label} for text, label in ROWS]),
    "txt": "".join(f"{label}\t{text}\n" for text, label in ROWS),
    "parquet": "PAR1" + "\0" * 40 + "PAR1",
}
ODD = [b"\0", b'"', b"\r", b"\xff\xfe", b"[" * 50_000, b"NaN", b"9" * 5000]
ODD_BYTES = st.binary(max_size=8) | st.sampled_from(ODD)
CUTS = st.tuples(st.integers(0, 400), st.integers(0, 30), ODD_BYTES)


@inputs(0.15)
@given(st.sampled_from(sorted(FILES)), st.lists(CUTS, max_size=3), st.sampled_from(KINDS))
def test_the_bytes_of_a_data_file(suffix, cuts, kind):
    content = FILES[suffix].encode("latin-1")
    for start, length, instead in cuts:
        content = content[:start] + instead + content[start + length :]
    with temporary() as folder:
        path = folder / f"data.{suffix}"
        path.write_bytes(content)
        task = Task("x", kind=kind, path=str(path), completion="text" if kind == "causal_lm" else None)
        with deadline(), contextlib.suppress(Refused):
            data.load(task, assets.Asset(path, None, str(path), "x"), 0)


def test_every_command_and_flag_is_fuzzed(capsys):
    assert {*FLAGS, "doctor", "bench"} == set(COMMANDS)
    for command, flags in FLAGS.items():
        for line in [[command, name] for name in SUBCOMMANDS.get(command, []) if command == "adapter"] or [[command]]:
            assert main([*line, "--help"]) == 0
            told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out))
            assert told - UNTRIED <= {flag.rstrip("=") for flag in flags.split()}, line
