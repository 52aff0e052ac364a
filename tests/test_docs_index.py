"""The page that leads from a CSV to an answer: its commands and its Python run as they are printed."""

import re
import shlex
from pathlib import Path

import pytest

from rankwise.cli import main
from rankwise.tasks.sources import synthetic

PAGE = Path(__file__).parents[1] / "docs" / "index.md"
SMALL = {  # in place of what makes a command long
    "train": ["tracking=none"],
    "find": ["debug=fast", "trainer.max_steps=2", "method.rank=1,8", "tracking=none"],
}
_LONG = ("method.rank=", "trainer.max_steps=")


def test_the_page_runs_from_a_csv_to_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = synthetic(400, "classification")
    rows = rows.assign(label=rows["label"].map({0.0: "bad", 1.0: "good"}))
    rows.set_axis(["The review", "verdict"], axis=1).to_csv("reviews.csv", index_label="id")
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
