"""The page on concepts: its examples hold, and its prose has no number that they do not print or state."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "concepts.md"
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_CITED = re.compile(r"\((?:[^()]*\b(?:19|20)\d\d[^()]*)\)")  # (Hu et al. 2021)


def test_every_example_prints_what_the_page_says() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 20 and failed == 0


def test_every_number_in_the_prose_is_one_of_an_example() -> None:
    text = PAGE.read_text()
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
