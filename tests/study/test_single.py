"""What a run says of itself in one line."""

import pytest

from rankwise.config import typed
from rankwise.study.single import describe
from rankwise.tracking.record import Record


@pytest.mark.parametrize(
    ("metric", "value", "se", "said"),
    [("accuracy", 0.8123, 0.0111, "test accuracy 0.812 ± 0.011"), ("perplexity", 23.4567, 0.312, "23.46 ± 0.31"),
     ("perplexity", 12345.6, 12.3, "test perplexity 12346 ± 12"), ("loss", float("inf"), 1.0, "test loss inf")],
)  # fmt: skip
def test_the_line_has_the_task_s_metric_and_those_of_generated_text_in_sensible_digits(metric, value, se, said):
    config = typed({"task": {"name": "t", "metric": metric, "generation": {"metrics": ["bleu", "meteor"]}},
                    "method": {"name": "few_shot", "lr": 0.0}, "optim": {"lr": 0.0}, "model": {"name": "m"},
                    "targets": {"name": "qv"}, "quant": {"name": "none"}})  # fmt: skip
    score = {"value": value, "se": se, "n": 10}
    test = {metric: score, "f1": score, "bleu": {"value": 0.25, "se": 0.01, "n": 10}}  # METEOR is absent
    record = Record({"status": "finished"}, {}, metrics={"test": test}, compute={"seconds": {"train_s": 1.4}})
    line = describe(record, config)
    assert said in line and "test bleu 0.250 ± 0.010" in line and line.endswith("1 s of training")
    assert "f1" not in line and "meteor" not in line
