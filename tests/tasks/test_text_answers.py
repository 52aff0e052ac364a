"""Right and wrong answers: text, numbers and JSON."""

from decimal import Decimal

import pytest

from rankwise.errors import Refused
from rankwise.tasks.text.answers import exact_match, final_number, json_keys, number_match


def test_exact_match_forgives_white_space_only() -> None:
    texts = ["a  b\n", "A b", "a b.", "c", ""]
    assert exact_match(texts, [["a b"], ["a b"], ["a b"], ["x", "c"], ["a"]]).tolist() == [1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### $1,234,567.50.", "1234567.5"),
        ("#### 12 apples and 3 pears", "12"),  # the first after the mark
        ("#### 5\n\nQuestion: 6\n#### 8 of 9", "8"),  # of the last mark
        ("he has 3, then 5.", "5"),
        ("3 #### none", "3"),
        ("it costs -$2.50", "-2.5"),
        ("it costs $-2.50!", "-2.5"),
        ("\u22124", "-4"),
        ("10-5", "5"),  # a range or a difference, not a sign
        ("pages 1,2", "2"),  # no thousands
        (".5", "0.5"),
        ("7.0", "7"),
        ("50%", "50"),
        ("£3", "3"),
        ("no number", None),
        ("####", None),
        ("", None),
    ],
)
def test_the_final_number_of_a_text(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_number_match_compares_numbers_and_not_texts() -> None:
    texts = ["#### 1,000.50", "the answer is $1000.5.", "1000.51", "nothing"]
    assert number_match(texts, [["so #### 1000.5"]] * 4).tolist() == [1, 1, 0, 0]
    assert number_match(["2"], [["1", "2"]]).tolist() == [1]


def test_number_match_refuses_a_reference_without_a_number() -> None:
    with pytest.raises(Refused, match=r"item 1 \(from 0\) has no number"):
        number_match(["1", "2"], [["1"], ["two"]])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "x", "age": 3}', 1),
        (' {"name": null, "age": [], "more": {}}\n', 1),
        ('{"name": "x"}', 0),
        ('```json\n{"name": "x", "age": 3}\n```', 0),
        ('{"name": "x", "age": 3} That is all.', 0),
        ('{"name": "x", "age": 3}{"name": "x", "age": 3}', 0),
        ('{"name": "x", "age": 3, "age": 4}', 0),
        ('{"name": "x", "age": {"a": 1, "a": 2}}', 0),
        ('{"name": "x", "age": NaN}', 0),
        ('{"name": "x", "age": -Infinity}', 0),
        ("{'name': 'x', 'age': 3}", 0),
        ('[{"name": "x", "age": 3}]', 0),
        ('"name age"', 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_json_keys_wants_one_object_and_nothing_else(text: str, right: int) -> None:
    assert json_keys([text], ["name", "age"]).tolist() == [right]
