"""Evidence from predictions, against variances that are known from how the predictions were drawn."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from synthetic_study import ITEMS, write_run, write_study

from rankwise.commands.plan import main
from rankwise.compare import Scores
from rankwise.errors import Refused
from rankwise.find.evidence import gather
from rankwise.find.power import LIKELY, Spreads, needs, spreads
from rankwise.find.replay import ALSO, OPEN, ORDERS, OTHER, SAME, Replay, _verdict, replay
from rankwise.find.rule import Evidence
from rankwise.find.show import replayed
from rankwise.metrics import named
from rankwise.statistics import unseen
from rankwise.tracking import predictions
from rankwise.tracking.record import Record, find

MANY = 4000


def run(
    folder: Path, correct_n: np.ndarray, items: np.ndarray | None = None, seed: int = 0, **more: np.ndarray
) -> Record:
    """A finished run that answered these items right."""
    folder.mkdir(parents=True)
    label = np.zeros(len(correct_n), dtype=np.int64)
    columns = {"label": label, "prediction": (~correct_n).astype(np.int64), "score": np.zeros(len(correct_n)), **more}
    predictions.write(folder, np.arange(len(correct_n)) if items is None else items, columns)
    metrics = {"test": {"accuracy": {"value": float(correct_n.mean())}}}
    config = {"seed": seed, "method": {"name": "lora"}, "task": {"n_train": 64}}
    return Record({"name": folder.name, "status": "finished"}, config, metrics=metrics, folder=folder)


def pairs(tmp_path: Path, seeds: int, steady: float, loose: float) -> tuple[list[Record], list[Record]]:
    """The reference is always right; the arm is wrong on a fixed share of the items, and on others by luck."""
    rng = np.random.default_rng(1)
    always_wrong = rng.random(MANY) < steady
    arm = [run(tmp_path / f"a{s}", ~(always_wrong | (rng.random(MANY) < loose)), seed=s) for s in range(seeds)]
    return arm, [run(tmp_path / f"f{s}", np.ones(MANY, dtype=bool), seed=s) for s in range(seeds)]


@pytest.mark.parametrize(("steady", "loose"), [(0.1, 0.0), (0.0, 0.1), (0.06, 0.05)])
def test_the_error_over_items_is_the_part_that_no_number_of_seeds_averages_out(tmp_path, steady, loose):
    arm, full = pairs(tmp_path, 5, steady, loose)
    found = gather(arm, full, named("accuracy"))
    assert found.seeds == 5
    assert found.gain == pytest.approx(-(steady + (1 - steady) * loose), abs=0.01)
    # An item's chance to be missed is 1 for the steady ones and ``loose`` for the others.
    between = steady * (1 - steady) * (1 - loose) ** 2
    assert found.over_items**2 == pytest.approx(between / MANY, rel=0.15, abs=2e-6)
    scores = [record.metrics["test"]["accuracy"]["value"] for record in arm]
    assert found.over_seeds == pytest.approx(np.std(scores, ddof=1) / math.sqrt(5), abs=1e-6)
    within = (1 - steady) * loose * (1 - loose)
    assert within / MANY / 5 / 5 <= found.over_seeds**2 <= 3 * within / MANY / 5
    # The report counts the rest over items, too, as a note of the answer and docs/find.md say.
    of_report = Scores([*arm, *full], named("accuracy")).contrast([(1.0, arm), (-1.0, full)])
    assert of_report.over_seeds == found.over_seeds
    assert of_report.over_items**2 == pytest.approx(found.over_items**2 + found.loose**2 / 5, rel=1e-3)


@pytest.mark.parametrize(("wrong", "size"), [(0, 1), (1, 1), (5, 1), (0, 5), (1, 5), (10, 5)])
def test_few_items_or_groups_that_differ_are_no_certainty_that_no_more_would(tmp_path, wrong, size):
    differ, group = np.arange(200) < wrong, np.arange(200) // size
    arm = [run(tmp_path / f"a{s}", ~differ, seed=s, cluster=group) for s in range(3)]
    full = [run(tmp_path / f"f{s}", np.ones(200, dtype=bool), seed=s, cluster=group) for s in range(3)]
    found, units = gather(arm, full, named("accuracy")), 200 // size
    assert (found.gain, found.over_seeds, found.units) == (pytest.approx(-wrong / 200), 0, units)
    # As if four more items differed, or groups of items.
    expected = math.hypot(differ.reshape(units, size).mean(1).std() / math.sqrt(units), 2 / (units + 2))
    assert found.over_items == pytest.approx(expected, rel=0.02)
    ten = math.hypot(differ.reshape(units, size).mean(1).std() / math.sqrt(10 * units), 2 / (10 * units + 2))
    assert found.with_size(3, 10).over_items == pytest.approx(ten, rel=0.05)  # as that many would have it


@pytest.mark.parametrize(
    ("sizes", "units"), [([4] * 50, 50), ([100, 50, 25, 25], 3), ([197, 1, 1, 1], 2)]
)  # (Σm)² / Σm²: 200² / 13,750 = 2.9 and 200² / 38,812 = 1.03, of which t has at least one degree of freedom
def test_groups_of_unlike_sizes_count_as_fewer_of_one_size(tmp_path, sizes, units):
    group = np.repeat(np.arange(len(sizes)), sizes)
    arm, full = ([run(tmp_path / f"{name}{s}", group != s, seed=s, cluster=group) for s in range(3)] for name in "af")
    found = Scores([*arm, *full], named("accuracy")).contrast([(1.0, arm), (-1.0, full)])
    assert (found.units, found.clusters, found.items) == (units, len(sizes), 200)
    assert gather(arm, full, named("accuracy")).units == units
    assert found.lacking == unseen(len(sizes))


def test_a_loss_that_is_lower_is_a_gain(tmp_path):
    def model(name: str, nats: float) -> Record:
        (tmp_path / name).mkdir()
        rng = np.random.default_rng(len(name))
        columns = {"label": np.full(200, 10), "score": 10 * nats + rng.normal(0, 0.1, 200), "bytes": np.full(200, 40)}
        predictions.write(tmp_path / name, np.arange(200), columns)
        value = float(columns["score"].astype(np.float32).sum() / 2000)
        return Record(
            {"name": name, "status": "finished"},
            {"seed": len(name)},
            metrics={"test": {"loss": {"value": value}}},
            folder=tmp_path / name,
        )

    found = gather([model("a", 1.0), model("aa", 1.0)], [model("b", 1.2), model("bb", 1.2)], named("loss"))
    assert found.gain == pytest.approx(0.2, abs=0.005)


def test_other_test_items_are_refused(tmp_path):
    arm, full = pairs(tmp_path, 2, 0.1, 0.1)
    other = run(tmp_path / "other", np.ones(MANY, dtype=bool), items=np.arange(MANY) + 1, seed=1)
    with pytest.raises(Refused, match="a0: no comparison: the arms were tested on different items"):
        gather(arm, [full[0], other], named("accuracy"))


def test_seeds_that_are_crossed_with_data_seeds_are_refused(tmp_path):
    arm, full = pairs(tmp_path, 4, 0.1, 0.1)
    for number, one in enumerate((*arm, *full)):
        one.config.update(seed=number % 2, data_seed=number % 4 // 2)
    with pytest.raises(Refused, match="a0: seeds and data seeds of its arm vary apart: keep runs in which each seed"):
        gather(arm, full, named("accuracy"))


GOOD, BAD = 0.82, 0.74


def test_a_replay_gives_the_grids_answer_from_the_right_guess_with_fewer_runs(tmp_path):
    write_study(tmp_path, {1: BAD, 2: BAD, 4: GOOD, 8: GOOD, 16: GOOD}, seeds=range(5))
    (grid,) = replay(tmp_path)
    assert (grid.answer, grid.reported, grid.enough, grid.runs) == (4, 4, {4, 8, 16}, 6 * 5)
    by_guess = {told.guess: told for told in grid.told}
    # The pilot; rank 4 and its reference on 3 seeds; rank 2, given up after 2 seeds of the same reference.
    assert by_guess[4].verdicts == {SAME: ORDERS} and median(by_guess[4].runs) == 1 + 6 + 2
    # From a guess that is too low the largest rank comes next, and then those above the guess.
    assert median(by_guess[16].runs) == 1 + 3 + 3 * 3 + 2
    # No adapter can be cut here: every pilot starts from the middle rank.
    assert {guess: told.pilots for guess, told in by_guess.items() if told.pilots} == {4: 5}
    assert grid.piloted() == ({SAME: 5 * ORDERS}, 9)
    headers, (row,) = replayed([grid])
    shown = dict(zip(headers, row, strict=True))  # as --json has it
    assert (shown["runs"], shown["runs of find"], len(shown)) == (30, "9", len(headers))


def test_what_is_said_is_held_against_what_the_grid_shows():
    assert [_verdict(said, 4, {4, 8}) for said in (4, 8, None, 2, 16)] == [SAME, ALSO, OPEN, OTHER, OTHER]
    assert [_verdict(said, None, {8}) for said in (None, 8, 4)] == [SAME, ALSO, OTHER]


def test_a_rank_of_which_runs_diverged_is_told_as_find_itself_judges_it(tmp_path):
    write_study(tmp_path, {1: BAD, 2: BAD, 8: GOOD}, seeds=range(5))
    for seed in range(5):  # any three of which have one that diverged
        write_run(tmp_path, "lora", 4, test=GOOD, seed=seed, diverged=seed < 3)
    (grid,) = replay(tmp_path)
    assert (grid.answer, grid.reported, grid.enough) == (8, 8, {8})
    told = {of.guess: of.verdicts for of in grid.told}
    assert told[4] == told[8] == {SAME: ORDERS}


def test_where_no_rank_is_enough_no_guess_names_one(tmp_path):
    write_study(tmp_path, {1: BAD, 8: BAD, 64: BAD}, seeds=range(3))
    (grid,) = replay(tmp_path)
    assert grid.answer is None and all(told.verdicts == {SAME: ORDERS} for told in grid.told)


def test_a_grid_ends_at_its_first_rank_from_the_top_that_is_not_enough():
    good, bad = Evidence(5, 0.0, 0.001, 0.001), Evidence(5, -0.03, 0.001, 0.001)
    grid = Replay("", 0.02, None, 0, {1: good, 4: bad, 8: good, 16: good}, [])
    assert (grid.enough, grid.answer) == ({1, 8, 16}, 8)
    assert Replay("", 0.02, None, 0, {1: good, 8: bad}, []).answer is None


@pytest.mark.parametrize(
    ("read", "seeds", "said"),
    [
        (replay, 2, "2 seeds that all ranks and full fine-tuning share; a replay needs 3"),
        (spreads, 1, "no two arms that share two seeds"),
    ],
)
def test_a_study_of_too_few_seeds_is_refused(tmp_path, read, seeds, said):
    write_study(tmp_path, {1: GOOD, 8: GOOD}, seeds=range(seeds))
    with pytest.raises(Refused, match=said):
        read(tmp_path)


def test_a_reference_that_is_a_rank_is_called_so(tmp_path):
    write_study(tmp_path, {1: GOOD, 4: GOOD, 8: GOOD}, seeds=range(2))
    eight = next(run for run in find([tmp_path]) if run.config["method"]["rank"] == 8)
    asked = {"sentence": "Rank 4.", "metric": "accuracy", "ranks": [], "notes": [], "reference_run": eight.run["id"]}
    (tmp_path / "answer-0a1b2c3d.json").write_text(json.dumps(asked))
    with pytest.raises(Refused, match="2 seeds that all ranks and rank 8 share; a replay needs 3"):
        replay(tmp_path)


def made(known: Evidence, rows: int = 1000) -> Spreads:
    return Spreads(known, rows, named("accuracy"), 0.02)


def test_spreads_of_seeds_and_items_are_told_apart(tmp_path):
    rng, seeds = np.random.default_rng(0), range(6)
    steady = rng.random(ITEMS) < 0.05  # items that the rank always misses
    for seed in seeds:
        for method, missed in (("full", np.zeros(ITEMS, bool)), ("lora", steady)):
            correct = ~(missed | (rng.random(ITEMS) < 0.04))
            write_run(tmp_path, method, 8, correct=correct, test=float(correct.mean()), seed=seed)
    found = spreads(tmp_path)
    assert found.rows == ITEMS and found.margin == 0.02
    assert found.known.over_items**2 == pytest.approx(0.05 * 0.95 * 0.96**2 / ITEMS + unseen(ITEMS) ** 2, rel=0.1)
    loose = (0.95 * 0.04 * 0.96 + 0.04 * 0.96) / ITEMS
    assert found.known.loose**2 == pytest.approx(loose, rel=0.1)
    assert found.luck < 0.004  # no seed was better than another


@pytest.mark.parametrize(("method", "rank", "diverged"), [("head", None, False), ("lora", 64, True)])
def test_spreads_are_those_of_ranks_that_are_not_at_fault(tmp_path, method, rank, diverged):
    write_study(tmp_path, {8: 0.81})
    alone = spreads(tmp_path)
    for seed in range(4):
        write_run(tmp_path, method, rank, test=0.5, seed=seed, diverged=diverged)
    assert spreads(tmp_path) == alone


def test_more_seeds_need_fewer_rows_and_a_loss_needs_more_of_both():
    found = {(need.gain, need.seeds): need for need in needs(made(Evidence(1, 0.0, 0.006, 0.004, 0.004)), 0.02)}
    equal, half = ([found[gain, seeds] for seeds in (3, 5, 8)] for gain in (0.0, -0.01))
    for cases in (equal, half):
        assert [need.chance for need in cases] == sorted(need.chance for need in cases)
        rows = [need.rows or np.inf for need in cases]
        assert rows == sorted(rows, reverse=True)
    for whole, loss in zip(equal, half, strict=True):
        assert whole.chance > loss.chance and (whole.rows or np.inf) < (loss.rows or np.inf)
    assert all((need.chance >= LIKELY) == (need.rows is not None and need.rows <= 1000) for need in found.values())


def test_where_seeds_vary_by_the_margin_no_number_of_rows_is_enough():
    assert {need.rows for need in needs(made(Evidence(1, 0.0, 0.05, 0.001, 0.0)), 0.02)} == {None}


def test_the_command_prints_what_a_margin_needs_and_refuses_in_one_line(tmp_path, capsys):
    write_study(tmp_path, {4: 0.8, 8: 0.82}, seeds=range(3))
    assert main(["--power", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == [asdict(need) for need in needs(spreads(tmp_path), 0.02)]
    assert main(["--power", str(tmp_path), "--margin", "3 points"]) == 0
    assert "The margin is 3 points of accuracy." in (said := capsys.readouterr().out) and "Plan with care" not in said
    write_study(tmp_path / "short", {8: 0.82}, losses=(0.7, 0.6, 0.5, 0.45, 0.4))
    assert main(["--power", str(tmp_path / "short")]) == 0
    short = "under-trained: validation loss still falls, by 0.05 in the last fifth of the steps"
    told = " ".join(capsys.readouterr().out.split())
    assert f"nothing may be concluded: rank 8: {short}; full fine-tuning: {short}." in told
    for wrong, said in (
        (["--power", str(tmp_path), "--margin", "2"], "2 points are --margin 2%"),
        (["--power", str(tmp_path), "--margin", "70%"], "--margin 70%: below 50%"),
        *(
            (["--power", str(tmp_path), more], "takes nothing else but --margin")
            for more in ("method.rank=4", "--gpus=4", "-m")
        ),
        (["--margin", "2%"], "--power STUDY"),
        (["--power", str(tmp_path / "none")], "none"),
    ):
        with pytest.raises(Refused, match=said):
            main(wrong)
