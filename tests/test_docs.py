"""The page that leads from a CSV to an answer: its commands and its Python run as they are printed."""

import doctest
import re
import shlex
from pathlib import Path

import make_reference

from rankwise.cli import main
from rankwise.tasks.sources import synthetic

PAGE = Path(__file__).parents[1] / "docs" / "index.md"
SMALL = {  # in place of what makes a command long
    "train": ["tracking=none"],
    "find": ["debug=fast", "trainer.max_steps=2", "method.rank=1,8", "tracking=none", "tracking.ledger=false"],
}
_LONG = ("method.rank=", "trainer.max_steps=")


def test_the_page_runs_from_a_csv_to_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = synthetic(400, "classification")
    lines = [f"{i},{row['text']},{('bad', 'good')[int(row['label'])]}\n" for i, row in enumerate(rows)]
    Path("reviews.csv").write_text("id,The review,verdict\n" + "".join(lines))
    text = PAGE.read_text()
    commands = [shlex.split(line) for line in re.findall(r"^rankwise .*$", text, re.M)]
    assert [words[1] for words in commands] == ["train", "find", "find", "report", "adapter"]
    for _, command, *words in commands:
        given = [word for word in words if not word.startswith(_LONG)]
        run = next(Path("outputs").glob("reviews/lora-r8-*"), Path())
        given = [str(run) if word.endswith("RUN") else word for word in given]
        assert main([command, *SMALL.get(command, []), *given]) == 0, words
    out = capsys.readouterr().out
    assert "test accuracy" in out and Path("outputs/reviews/report.html").is_file()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code
    exec(code[1], {})
    assert re.search(r"\[\{'label': '(bad|good)', 'score': 0\.\d+\}\]", capsys.readouterr().out)


CONCEPTS = Path(__file__).parents[1] / "docs" / "concepts.md"
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_CITED = re.compile(r"\((?:[^()]*\b(?:19|20)\d\d[^()]*)\)")  # (Hu et al. 2021)


def test_every_example_prints_what_the_page_says():
    failed, tried = doctest.testfile(str(CONCEPTS), module_relative=False)
    assert tried > 20 and failed == 0


def test_every_number_in_the_prose_is_one_of_an_example():
    text = CONCEPTS.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    known = {value for block in blocks for value in _values(block)}
    prose = _CITED.sub("", re.sub(r"```python\n.*?```", "", text, flags=re.S))
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose)
    unknown = sorted(
        value for value in _values(prose) if not any(abs(value - each) <= 0.004 * abs(each) for each in known)
    )
    assert not unknown


def _values(text: str) -> set[float]:
    return {float(number.replace(",", "").rstrip(".")) for number in _NUMBER.findall(text)}


def test_the_reference_is_up_to_date():
    written = make_reference.PAGE.read_text(encoding="utf-8")
    assert written == make_reference.page(), "run: python tests/make_reference.py"


def test_it_has_what_others_read():
    page = make_reference.PAGE.read_text(encoding="utf-8")
    for row in (
        "| `trainer.accumulate` | an integer from 1 to 100000 | 1 | micro-batches of a step |",
        "| `compute.quant_error_rows` | integer ≥ 0 | rows that it is over |",
        "| `memory.*.peak_bytes` | integer ≥ 0 | the largest sum |",
        "| `method.init` | one of zero_B, zero_A, gaussian, ",
        "| `method.freeze_a` | true or false or null | null | train B alone |",
        "| `metrics.{validation,test}.*.se` | number ≥ 0 or null | standard error over items |",
        "| `test_mean` | accuracy %: mean over runs | main, paper |",
        "| `test_interval` | accuracy %: what its interval is over: items, seeds, both, none | main, paper |",
        "| `total_s` | total s: all seconds but start_up_s, attempts that were cut included, a killed ",
        "| `forgetting_low` | forgetting: positive where it forgot, of its 95 % interval | forgetting |",
        "| `arms[].scores.*.low` | number |",
        "| `arms[].latency[].adapted_of_base.high` | number |",
        "| `memory/train/peak_bytes` | memory.train.peak_bytes |",
    ):
        assert row in page
