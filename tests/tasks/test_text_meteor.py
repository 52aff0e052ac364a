"""METEOR 1.5: absent with a reason, or the program's own number."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from test_text_overlap import HYPOTHESES, REFERENCES, SAVED

from rankwise.tasks.text import meteor, score_of, text_items, text_scores


def put_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called java, the only one on the PATH, and a file that stands for METEOR's."""
    java, jar = folder / "java", folder / "meteor.jar"
    java.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    java.chmod(0o755)
    jar.touch()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("METEOR_JAR", str(jar))
    return jar


def reason() -> str:
    """Why METEOR is absent; it must be, and no other number stand in its place."""
    scores, absent = text_scores(["meteor", "exact_match"], ["a b"], [["a b"]])
    assert scores.keys() == {"exact_match"} and absent.keys() == {"meteor"}
    return absent["meteor"]


def test_without_the_program_meteor_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METEOR_JAR", str(tmp_path / "none.jar"))
    assert "none.jar: no such file" in reason()
    monkeypatch.delenv("METEOR_JAR")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where nothing is installed
    assert "set METEOR_JAR to meteor-1.5.jar, or pip install pycocoevalcap" in reason()


def test_without_java_meteor_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_java(tmp_path, "", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert reason() == "no java on the PATH"


def test_a_program_that_fails_makes_meteor_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_java(tmp_path, "sys.exit('Error: Invalid or corrupt jarfile')", monkeypatch)
    assert reason() == "METEOR gave 0 of 1 items (exit 1) Error: Invalid or corrupt jarfile"


def test_the_program_is_found_in_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "pycocoevalcap"
    (package / "meteor").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "meteor" / "meteor-1.5.jar").touch()
    monkeypatch.delenv("METEOR_JAR", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert meteor.jar() == (package / "meteor" / "meteor-1.5.jar").resolve()


def test_the_corpus_score_is_made_of_what_the_program_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = "\n".join(" ".join(f"{value}.0" for value in row) for row in SAVED["meteor_statistics"])
    script = f"open({str(tmp_path / 'in')!r}, 'w', encoding='utf-8').write(sys.stdin.buffer.read().decode())"
    put_java(tmp_path, f"{script}\nprint('''{rows}''')", monkeypatch)
    items, _ = text_items(["meteor"], HYPOTHESES, REFERENCES)
    score = score_of("meteor", items["meteor"])
    assert score["value"] == pytest.approx(SAVED["scores"]["meteor"], abs=1e-6)
    assert 0 < score["se"] < 0.1 and score["n"] == len(HYPOTHESES)
    each = meteor.pooled_meteor(items["meteor"])
    assert each == pytest.approx(np.array(SAVED["per_item"]["meteor"]), abs=1e-6)
    asked = (tmp_path / "in").read_text(encoding="utf-8").splitlines()
    assert len(asked) == len(HYPOTHESES) and asked[7].startswith("SCORE ||| ") and asked[7].endswith(" ||| ")


def test_meteor_itself_gives_the_published_score() -> None:
    try:
        meteor.jar()
    except meteor.Absent as absent:
        pytest.skip(str(absent))
    scores, absent = text_scores(["meteor"], HYPOTHESES, REFERENCES)
    if absent.get("meteor") == "no java on the PATH":
        pytest.skip("no java on the PATH")
    assert scores["meteor"]["value"] == pytest.approx(SAVED["scores"]["meteor"], abs=1e-4)
