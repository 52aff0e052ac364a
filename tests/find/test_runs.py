"""What is run within a budget, and what is run again at a second start."""

import contextlib
import signal
from dataclasses import replace

import psutil
import pytest
from tiny_configs import Tiny
from zygote import until

from rankwise.assets import resolve
from rankwise.config import Config, changed, typed
from rankwise.errors import Refused
from rankwise.find.pilot import Guess
from rankwise.find.question import TUNE, Budget, Question
from rankwise.find.rates import Rates, Tuned
from rankwise.find.story import Runs, Spent, answer_file, confirm
from rankwise.identity import folder
from rankwise.study.outcome import Outcome
from rankwise.study.worker import REFUSED
from rankwise.tracking.lease import owned
from rankwise.tracking.record import FAILED, FINISHED, begin


def asked(tiny: Tiny, budget: Budget) -> Question:
    return Question(tiny("bert", "lora", "qv"), tiny("bert", "full"), (2, 4, 8), tuned=False, budget=budget)


@pytest.mark.parametrize(("budget", "ran"), [(19, [2]), (30, [2, 2]), (31, [2, 2, 1])])
def test_a_budget_of_time_ends_before_it_is_exceeded(tiny, tmp_path, monkeypatch, budget, ran):
    monkeypatch.chdir(tmp_path)
    launched: list[int] = []

    def launch(configs: list[Config], stage: str) -> None:
        left = [config for config in configs if not (folder(config) / "result.json").exists()]
        launched.append(len(left))
        for record in (begin(config, None) for config in left):
            record.run["status"] = FINISHED
            record.compute["seconds"] = {"total_s": 10.0, "train_s": 6.0}
            record.write()

    runs = Runs(asked(tiny, Budget(seconds=budget)), launch, jobs=2)
    stages = [[runs.question.run_of(4, seed, share=1 / 3) for seed in range(4)], [runs.question.run_of(4, 0)]]
    with contextlib.suppress(Spent):
        for number, configs in enumerate(stages):
            runs(configs, str(number))
    assert launched == ran


def test_runs_that_are_there_are_read_whatever_is_left_of_the_budget(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs, config = Runs(asked(tiny, Budget(runs=3)), lambda *_: None), tiny("bert", "lora", "qv")
    runs.records |= {tmp_path / str(n): begin(config, None) for n in range(2)}
    record = begin(config, None)
    record.run["status"] = FINISHED
    record.write()
    assert [run.run["id"] for run in runs([config], "confirm")] == [record.run["id"]]
    other = changed(config, {"seed": 7})
    with pytest.raises(Spent):
        runs([config, other], "confirm")
    with pytest.raises(Spent):  # of an earlier start
        Runs(asked(tiny, Budget(runs=1)), lambda *_: None)([config, other], "confirm")
    with owned(folder(other)), pytest.raises(Refused, match="another process has this run; the same command goes on"):
        replace(runs, question=replace(runs.question, budget=Budget()))([other], "confirm")
    launched: list[list[Config]] = []
    free = Runs(replace(runs.question, budget=Budget()), lambda configs, _: launched.append([*configs]))
    assert [run.status for run in free([other], "confirm")] == [FAILED]  # it left nothing
    free([config, other, third := changed(config, {"seed": 8})], "confirm")  # what failed in this start is over
    assert launched == [[other], [config, third]]
    tuning = begin(runs.question.run_of(None, 0, stage=TUNE), None)
    tuning.run["status"] = FAILED
    tuning.write()
    for settled in (False, True):  # once the guess is, what failed in tuning stays so: the rates are as they were
        anew = Runs(free.question, free.launch)
        assert [run.status for run in anew([typed(tuning.config)], "learning-rate")] == [FAILED]
        assert len(launched) == 3, settled
        answer_file(free.question).write_text("{}")


@pytest.mark.parametrize("changed_since", [True, False])
def test_runs_of_other_data_are_refused_and_those_of_other_code_said(
    tiny, tmp_path, monkeypatch, capsys, changed_since
):
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "mine.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"word {i}\t{i % 2}\n" for i in range(40)))
    config = tiny("bert", "lora", "qv", task__path=str(rows))
    record = begin(config, None)
    record.run["status"] = FINISHED
    record.provenance |= {"code": "sha256:other", "data": {"asset": resolve(config.task).fingerprint}}
    record.write()
    if changed_since:
        rows.write_text(rows.read_text() + "one more\t1\n")
    runs = Runs(asked(tiny, Budget()), lambda *_: pytest.fail("nothing is left to run"))
    with (
        pytest.raises(Refused, match="has runs with other data than there are now; study=OTHER")
        if changed_since
        else (contextlib.nullcontext())
    ):
        for _ in range(2):
            runs([config], "pilot")
    said = "rankwise: runs (pilot) that finished before: with other code\n"
    assert capsys.readouterr().err == said * (not changed_since), "once"


def test_a_run_that_is_refused_ends_it_with_its_reason(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asks = asked(tiny, Budget())
    config, launched = asks.run_of(4, 0), []

    def launch(configs: list[Config], stage: str) -> list[Outcome]:
        launched.append(stage)
        return [Outcome(folder(config), REFUSED, "method.rank=4: at most 2")]

    with pytest.raises(Refused, match=f"{folder(config).name}: method.rank=4: at most 2"):
        confirm(asks, Guess(4), Rates(asks, Tuned(1e-4), Tuned(2e-3)), Runs(asks, launch))
    assert launched == ["rank 4"]


def no_memory(configs: list[Config], stage: str) -> None:
    raise Refused("the process that loads the libraries was killed (out of memory?)")


@pytest.mark.parametrize(("launch", "says"), [(lambda *_: None, "another process has"), (no_memory, "was killed")])
def test_what_passes_is_no_conclusion(launch, says, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    question = asked(tiny, Budget())
    rates = Rates(question, Tuned(1e-4), Tuned(2e-3))
    with owned(folder(question.run_of(4, 0, rates.of(4)))), pytest.raises(Refused, match=says):
        confirm(question, Guess(4), rates, Runs(question, launch))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_cuts_the_pilots_adapter_ends_with_the_command(number, zygote, tmp_path):
    child = zygote(tmp_path / "child", "cut_for_ever", str(tmp_path))
    until((tmp_path / "cutting").exists)
    child.kill(number)
    assert child.wait() == -number
    until(lambda: not any(map(is_there, (tmp_path / "cutting").read_text().split())))


def is_there(pid: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    return False
