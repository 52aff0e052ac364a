"""Evidence from predictions, against variances that are known from how the predictions were drawn."""

from pathlib import Path

import numpy as np
import pytest

from rankwise.errors import Refused
from rankwise.find.evidence import gather
from rankwise.metrics import named
from rankwise.tracking import predictions
from rankwise.tracking.record import Record

ITEMS = 4000


def run(folder: Path, correct_n: np.ndarray, items: np.ndarray | None = None) -> Record:
    """A finished run that answered these items right."""
    folder.mkdir(parents=True)
    label = np.zeros(len(correct_n), dtype=np.int64)
    columns = {"label": label, "prediction": (~correct_n).astype(np.int64), "score": np.zeros(len(correct_n))}
    predictions.write(folder, np.arange(len(correct_n)) if items is None else items, columns)
    metrics = {"test": {"accuracy": {"value": float(correct_n.mean())}}}
    return Record({"name": folder.name, "status": "finished"}, {}, metrics=metrics, folder=folder)


def pairs(tmp_path: Path, seeds: int, steady: float, loose: float) -> tuple[list[Record], list[Record]]:
    """The reference is always right; the arm is wrong on a fixed share of the items, and on others by luck."""
    rng = np.random.default_rng(1)
    always_wrong = rng.random(ITEMS) < steady
    arm = [run(tmp_path / f"a{s}", ~(always_wrong | (rng.random(ITEMS) < loose))) for s in range(seeds)]
    return arm, [run(tmp_path / f"f{s}", np.ones(ITEMS, dtype=bool)) for s in range(seeds)]


@pytest.mark.parametrize(("steady", "loose"), [(0.1, 0.0), (0.0, 0.1), (0.06, 0.05)])
def test_the_error_over_items_is_the_part_that_no_number_of_seeds_averages_out(
    tmp_path: Path, steady: float, loose: float
) -> None:
    found = gather(*pairs(tmp_path, 5, steady, loose), named("accuracy"))
    assert found.seeds == 5
    assert found.gain == pytest.approx(-(steady + (1 - steady) * loose), abs=0.01)
    # An item's chance to be missed is 1 for the steady ones and ``loose`` for the others.
    between = steady * (1 - steady) * (1 - loose) ** 2
    assert found.over_items**2 == pytest.approx(between / ITEMS, rel=0.15, abs=2e-6)
    within = (1 - steady) * loose * (1 - loose)
    assert found.over_seeds**2 == pytest.approx(within / ITEMS / 5, rel=2.5, abs=1e-9)


def test_a_loss_that_is_lower_is_a_gain(tmp_path: Path) -> None:
    def model(name: str, nats: float) -> Record:
        (tmp_path / name).mkdir()
        rng = np.random.default_rng(len(name))
        columns = {"label": np.full(200, 10), "score": 10 * nats + rng.normal(0, 0.1, 200), "bytes": np.full(200, 40)}
        predictions.write(tmp_path / name, np.arange(200), columns)
        value = float(columns["score"].astype(np.float32).sum() / 2000)
        return Record(
            {"name": name, "status": "finished"},
            {},
            metrics={"test": {"loss": {"value": value}}},
            folder=tmp_path / name,
        )

    found = gather([model("a", 1.0), model("aa", 1.0)], [model("b", 1.2), model("bb", 1.2)], named("loss"))
    assert found.gain == pytest.approx(0.2, abs=0.005)


def test_other_test_items_are_refused(tmp_path: Path) -> None:
    arm, full = pairs(tmp_path, 2, 0.1, 0.1)
    other = run(tmp_path / "other", np.ones(ITEMS, dtype=bool), items=np.arange(ITEMS) + 1)
    with pytest.raises(Refused, match="other: its test items are not those"):
        gather(arm, [full[0], other], named("accuracy"))
