"""The reference of keys and columns says what the code says."""

import make_reference


def test_the_reference_is_up_to_date() -> None:
    written = make_reference.PAGE.read_text(encoding="utf-8")
    assert written == make_reference.page(), "run: python tests/make_reference.py"


def test_it_has_what_others_read() -> None:
    page = make_reference.PAGE.read_text(encoding="utf-8")
    for row in (
        "| `trainer.accumulate` | integer | 1 | micro-batches of a step |",
        "| `compute.quant_error_rows` | integer ≥ 0 | rows that it is over |",
        "| `memory.*.peak_bytes` | integer ≥ 0 | the largest sum |",
        "| `method.freeze_a` | true or false or null | null | train B alone |",
        "| `metrics.{validation,test}.*.se` | number ≥ 0 or null | standard error over items |",
        "| `test_mean` | accuracy % | main, paper |",
        "| `arms[].scores.*.low` | number |",
        "| `arms[].latency[].adapted_of_base.high` | number |",
        "| `memory/train/peak_bytes` | memory.train.peak_bytes |",
    ):
        assert row in page
