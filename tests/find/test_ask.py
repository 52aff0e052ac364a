"""Questions that are refused, in one line, before anything is made."""

import re
from dataclasses import replace
from typing import Any

import pytest

from rankwise.commands.find import main
from rankwise.errors import Refused
from rankwise.find.ask import question, too_few
from rankwise.find.question import Budget, Question
from rankwise.find.rates import least_runs
from rankwise.find.rule import ENOUGH, Evidence, Rule, judge
from rankwise.find.show import stages
from rankwise.statistics import unseen

FAST = ["debug=fast"]
LANGUAGE = ["model=tiny_llama", "task=synthetic_lm"]
EVERY = "1,2,4,8,16,32"


def asked(*overrides: str, **options: Any) -> Question:
    given = {"budget": None, "margin": None, "rates": "default", "reference": "full", "seeds": 8} | options
    return question([*FAST, *overrides], **given)


def test_the_default_question_is_every_rank_against_full_fine_tuning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = asked("method.rank=1,2,4", "task.n_train=50", "targets=q", "quant=bf16")
    assert found.ranks == (1, 2, 4) and found.margin == 0.02
    one, reference = found.run_of(2, 3), found.run_of(None, 3)
    assert (one.method.name, one.method.rank, one.targets.name, one.quant.kind) == ("lora", 2, "q", "bf16")
    assert (reference.method.name, reference.quant.kind) == ("full", None)
    assert one.seed == reference.seed == 3 and one.task.n_train == reference.task.n_train == 50
    assert one.study == reference.study == "find-synthetic-tiny-bert-random"
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_one_question_whose_two_sides_have_rates_of_their_own():
    words = ["experiment=demo", "method.rank=4,16,64"]
    found = question(words, "15m", None, "default", "full method.lr=3e-4", seeds=5)
    assert found.ranks == (4, 16, 64) and found.margin == 0.05 and found.looks == (2, 3, 5)
    assert (found.run_of(64, 0).optim.lr, found.run_of(None, 0).optim.lr) == (4e-3, 3e-4)
    assert found.run_of(4, 0).task.n_train == found.run_of(None, 0).task.n_train == 600


def test_the_reference_has_nothing_of_the_methods_in_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "# @package _global_\ndefaults: [override /quant: bf16, override /targets: q, _self_]\n"
        "method: {lr: 5e-3, alpha: 32}\noptim: {warmup: 0.25}\n"
    )
    found = asked("experiment=mine", "method.rank=2")
    one, reference = found.run_of(2, 0), found.run_of(None, 0)
    assert (one.optim.lr, one.method.alpha, one.quant.kind, one.targets.name) == (5e-3, 32, "bf16", "q")
    assert (reference.optim.lr, reference.method.lr, reference.quant.kind) == (1e-4, 1e-4, None)
    assert one.optim.warmup == reference.optim.warmup == 0.25
    assert asked("experiment=mine", "method.rank=2", reference="full method.lr=3e-4").run_of(None, 0).optim.lr == 3e-4
    assert asked("optim=sgd", "method.rank=2").run_of(None, 0).optim.lr == 0.1


def test_the_rank_that_a_method_brings_is_no_candidate():
    assert asked("method=vera", "method.rank=2,4").ranks == (2, 4)
    assert asked("method=vera").ranks[-1] == 32


def test_a_model_is_asked_for_no_rank_above_its_width_and_another_rank_can_be_the_reference():
    assert [asked(f"model=tiny_{kind}").ranks[-1] for kind in ("bert", "gpt2")] == [32, 32]
    assert [asked(f"model=tiny_{kind}").ranks[-1] for kind in ("llama", "qwen2")] == [16, 16]  # heads share keys
    assert asked(reference="r=8").ranks == (1, 2, 4)
    found = asked("method.rank=1,2", reference="r=8")
    assert found.ranks == (1, 2) and found.reference.method.rank == 8 and found.reference_name == "rank 8"


def test_a_budget_is_a_time_or_a_number_of_runs_and_a_margin_may_be_in_points():
    assert [Budget.parse(text).seconds for text in ("30m", "10min", "1h30m", "45s")] == [1800, 600, 5400, 45]
    assert Budget.parse("40") == Budget(runs=40)
    assert asked("method.rank=1", margin="1%").margin == asked("method.rank=1", margin="1 point").margin == 0.01
    found = asked(*LANGUAGE, "method.rank=1", margin="1.5")  # of perplexity
    assert found.margin == found.reference.task.margin == 1.5
    of_mae = ("task=movie_rating", "task.metric=mae", "method.rank=1")  # the default, but said, as 0.03 would be
    assert [asked(*of_mae, f"task.margin={said}").margin for said in (0.02, 0.03)] == [0.02, 0.03]


@pytest.mark.parametrize(
    ("overrides", "options", "said"),
    [
        ([], {"budget": "0"}, "--budget 0: a time"),
        ([], {"budget": "²"}, "--budget ²: a time"),
        (["method.rank=1,2"], {"budget": "6"}, "--budget 6: at least 7 runs"),
        (["method.rank=1,2"], {"budget": "6s"}, "--budget 6s: at least 7 runs"),
        ([], {"margin": ""}, "--margin : a fraction"),
        (["method.rank=1,2"], {"budget": "10", "rates": "tune"}, "--budget 10: at least 22 runs"),
        ([], {"margin": "2"}, "--margin 2: a fraction such as 0.02; 2 points are --margin 2%"),
        ([], {"margin": "60%"}, "--margin 60%: below 50%"),
        (["task.margin=0.6"], {}, "task.margin=0.6: below 0.5"),
        (["task=movie_rating", "task.metric=mae"], {}, "--margin: give how much more of mae is still enough"),
        (LANGUAGE, {"margin": "2%"}, "--margin 2%: a number such as 0.02, of perplexity"),
        ([], {"margin": "-1"}, "--margin -1: a fraction such as 0.02"),
        ([], {"reference": "lora"}, "--reference lora: full, full with keys of its own"),
        (["method.rank=2,4,8"], {"reference": "r=4"}, "--reference r=4: a rank above all candidates; method.rank"),
        (["method.rank=2,1,2"], {}, "method.rank=2,1,2: each candidate once"),
        (["method=full"], {}, "method=full: a method that has a rank"),
        (["method.rank=1,13.67"], {}, "method.rank=13.67: candidates such as"),
        (["method.rank=1,64"], {}, "method.rank=64: at most 32, the width of"),
        (["seed=0,1"], {}, "seed=0,1: one value; only method.rank lists candidates"),
        (["name=x"], {}, "name: a question has many runs"),
        (["rerun=true"], {}, "rerun=true: what has finished is not run again"),
        (["optim.lr=0.01"], {}, "optim.lr=0.01: give method.lr, with which"),
        (["trainer.max_time=00:00:10:00"], {}, "trainer.max_time: of runs that are in no comparison"),
        (["debug=profiler"], {}, "trainer.profiler: of runs"),
        (["task.n_test=10"], {}, "task.n_test=10: 50 rows or more"),
        (["task.protocol=paper"], {}, "task.protocol=paper: clean"),
        (["method.rnk=3"], {}, "method.rnk"),
    ],
)
def test_bad_input_is_one_line(overrides, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused) as refused:
        asked(*([] if any("method" in o for o in overrides) else ["method.rank=1,2"]), *overrides, **options)
    assert str(refused.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_the_budget_is_no_part_of_the_question_but_the_margin_is():
    one = asked("method.rank=1,2")
    assert one.id() == asked("method.rank=1,2", budget="30m").id()
    assert len({one.id(), asked("method.rank=1,2", margin="1%").id(), asked("method.rank=1,4").id()}) == 3


@pytest.mark.parametrize(("ranks", "short", "least"), [("4", 8, 12), ("1,4", 11, 15), (EVERY, 14, 18)])
def test_rates_are_tried_at_either_end_that_is_not_the_middle(ranks, short, least):
    found = asked(f"method.rank={ranks}", rates="tune")
    assert stages(found, None, None)[1][0][1] == f"{short} short, 4 to 8 whole"
    assert least_runs(found) == least


@pytest.mark.parametrize(("rows", "shown"), [(64, "64 test rows"), (200, "199 groups of test rows")])  # two are alike
def test_it_is_said_that_test_rows_are_too_few_for_any_rank_that_is_only_as_good(rows, shown):
    said = too_few(found := asked("method.rank=1,2", f"task.n_test={rows}", "task.synthetic=2000"))
    assert said.startswith(
        f"rankwise: {shown} are too few for a margin of 2 points: even a rank that gives the very answers of "
    )
    told = re.search(r"use at least (\d+) of them .* or a --margin above ([\d.]+) points$", said)
    assert told

    def passes(units: int, margin: float) -> bool:
        same = Evidence(8, 0.0, 0.0, unseen(units), units=units)
        return (
            judge(Rule.of(found.ranks, 2, margin, found.looks), 2, [replace(same, sound=None)] * 3 + [same]) == ENOUGH
        )

    units, more, wider = int(shown.partition(" ")[0]), int(told[1]), float(told[2]) / 100
    assert not passes(units, 0.02) and passes(more, 0.02) and not passes(more - 8, 0.02)
    assert passes(units, wider + 1e-4) and not passes(units, wider - 1e-4)


@pytest.mark.parametrize(
    "words", [("method.rank=1,2", "task.n_test=220", "task.synthetic=2000"), (*LANGUAGE, "method.rank=1")]
)
def test_of_enough_rows_and_of_what_is_no_share_nothing_is_said(words):
    assert too_few(asked(*words)) == ""


ALONE = "takes nothing else but --json"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--simulate --margin 1%", f"--simulate: {ALONE}"),
        ("--simulate method.rank=2", f"--simulate: {ALONE}"),
        ("--replay s --seeds 3 --json", f"--replay: {ALONE}"),
        ("--margin 2 %", "%: a size and its unit are one word: --budget 10m, --margin 2%"),
        ("--budget 10 min", "min: a size and its unit are one word"),
        ("--seeds 4", "--seeds=4: one of 3, 5, 8"),
    ],
)
def test_what_simulations_and_replays_do_not_read_and_other_looks_are_refused(line, said):
    with pytest.raises(Refused, match=said):
        main(line.split())
