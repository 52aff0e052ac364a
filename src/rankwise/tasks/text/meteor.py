"""METEOR 1.5 (Denkowski & Lavie 2014) by its own Java program: matches by word, stem, synonym and paraphrase."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rankwise.tasks.text.overlap import References
from rankwise.tasks.text.tokens import treebank_tokens

STATISTICS = 23  # numbers that the program gives for an item
_TIMEOUT_S = 600
# The program's parameters for English (task "rank").
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase


class Absent(Exception):
    """METEOR cannot be had here; the message says why."""


def jar() -> Path:
    """The program: ``METEOR_JAR``, else the one that an installed pycocoevalcap brings. Raises Absent."""
    if named := os.environ.get("METEOR_JAR"):
        if not Path(named).is_file():
            raise Absent(f"METEOR_JAR={named}: no such file")
        return Path(named).resolve()
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package and package.submodule_search_locations) or ():
        if (found := Path(folder, "meteor", "meteor-1.5.jar")).is_file():
            return found.resolve()
    raise Absent("no METEOR 1.5: set METEOR_JAR to meteor-1.5.jar, or pip install pycocoevalcap")


def meteor(hypotheses: Sequence[str], references: References) -> np.ndarray:
    """Statistics of METEOR (N, 23) against the best reference of each item, summed by ``pooled_meteor``.

    Raises Absent where Java or the program is missing, or where it fails.
    """
    program, java = jar(), shutil.which("java")
    if java is None:
        raise Absent("no java on the PATH")
    lines = [
        " ||| ".join(["SCORE", *map(_words, texts), _words(hypothesis)])
        for hypothesis, texts in zip(hypotheses, references, strict=True)
    ]
    command = [java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(program), "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        done = subprocess.run(
            command, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", errors="replace",
            cwd=program.parent, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"METEOR did not run: {error}") from error
    rows = [[float(part) for part in line.split()] for line in done.stdout.splitlines() if _is_row(line)]
    if len(rows) != len(lines):
        said = done.stderr.strip().splitlines()
        raise Absent(f"METEOR gave {len(rows)} of {len(lines)} items (exit {done.returncode}) {''.join(said[-1:])}")
    return _without_whole_chunks(np.array(rows))


def _without_whole_chunks(rows_NK: np.ndarray) -> np.ndarray:
    """The rows with no chunk where every word is matched in one: the program counts none of those in a corpus."""
    whole_N = (rows_NK[:, 20] == 1) & (rows_NK[:, 21] == rows_NK[:, 0]) & (rows_NK[:, 22] == rows_NK[:, 1])
    rows_NK[whole_N, 20] = 0
    return rows_NK


def _words(text: str) -> str:
    return " ".join(treebank_tokens(text)).replace("|||", "")


def _is_row(line: str) -> bool:
    return len(line.split()) == STATISTICS and line.replace(".", "").replace(" ", "").isdigit()


def pooled_meteor(sums: np.ndarray) -> np.ndarray:
    """METEOR (0–1) of summed statistics (…, 23), by equations 1 to 5 of the paper.

    The statistics: words and function words of the hypothesis and the reference, matched content and function words
    of both for each of four matchers, chunks, and matched words of both.
    """
    hypothesis, reference, hypothesis_function, reference_function = np.moveaxis(sums[..., :4], -1, 0)
    matched = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)  # by matcher: content of both, function words of both
    chunks, matches = sums[..., 20], sums[..., 21:23].mean(-1)
    weighted = _DELTA * matched[..., :2] + (1 - _DELTA) * matched[..., 2:]
    found = (weighted * _MATCHERS[:, None]).sum(-2)
    precision = _over(found[..., 0], _DELTA * (hypothesis - hypothesis_function) + (1 - _DELTA) * hypothesis_function)
    recall = _over(found[..., 1], _DELTA * (reference - reference_function) + (1 - _DELTA) * reference_function)
    mean = _over(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    return mean * (1 - _GAMMA * _over(chunks, matches) ** _BETA)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient, 0 where nothing is below."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
