"""What a run says of itself in one line."""

import errno

import pytest

from rankwise.config import typed
from rankwise.errors import Refused
from rankwise.study.single import describe, single
from rankwise.tracking.record import Record


@pytest.mark.parametrize(
    ("metric", "value", "se", "said"),
    [
        ("accuracy", 0.8123, 0.0111, "test accuracy 81.2 ± 1.1 %"),
        ("perplexity", 23.4567, 0.312, "23.46 ± 0.31"),
        ("perplexity", 12345.6, 12.3, "test perplexity 12346 ± 12"),
        ("loss", float("inf"), 1.0, "test loss –"),
    ],
)
def test_the_line_has_the_task_s_metric_and_those_of_generated_text_in_sensible_digits(metric, value, se, said):
    config = typed(
        {
            "task": {"name": "t", "metric": metric, "generation": {"metrics": ["bleu", "meteor"]}},
            "method": {"name": "few_shot", "lr": 0.0},
            "optim": {"lr": 0.0},
            "model": {"name": "m"},
            "targets": {"name": "qv"},
            "quant": {"name": "none"},
        }
    )
    score = {"value": value, "se": se, "n": 10}
    test = {metric: score, "f1": score, "bleu": {"value": 0.25, "se": 0.01, "n": 10}}  # METEOR is absent
    record = Record({"status": "finished"}, {}, metrics={"test": test}, compute={"seconds": {"train_s": 1.4}})
    line = describe(record, config)
    assert said in line and "test bleu 25.0 ± 1.0 %" in line and line.endswith("1 s of training")
    assert "f1" not in line and "meteor" not in line


def test_an_output_folder_that_cannot_be_is_one_line_and_a_file_of_ours_that_is_missing_is_a_bug(
    tiny, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    config = tiny(outputs=str(tmp_path / "file" / "x"))
    config.method.name = "tfidf"
    with pytest.raises(Refused, match=r"file/x: .*file cannot be written; give another outputs=FOLDER"):
        single(config)

    def missing(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "elsewhere/vocab.txt")

    monkeypatch.setattr("rankwise.study.single.run", missing)
    with pytest.raises(FileNotFoundError):
        single(tiny(outputs=str(tmp_path)))
