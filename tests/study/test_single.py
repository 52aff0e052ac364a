"""What a run says of itself in one line."""

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from hydra.core.plugins import Plugins
from rich.cells import cell_len
from rich.console import Console

from rankwise import machine
from rankwise.check import check, check_here
from rankwise.cli import main
from rankwise.config import changed, typed
from rankwise.errors import Refused, tell
from rankwise.identity import folder
from rankwise.metrics import duration
from rankwise.plan.estimate import Question, plan
from rankwise.plan.hardware import CONTEXT_BYTES, Hardware
from rankwise.study import progress
from rankwise.study.compose import composed
from rankwise.study.micro_batch import settled
from rankwise.study.outcome import Outcome, show_end
from rankwise.study.single import describe, single
from rankwise.tracking.record import FINISHED, Record, begin


@pytest.mark.parametrize(
    ("metric", "value", "se", "said"),
    [
        ("accuracy", 0.8123, 0.0111, "test accuracy 81.2 ± 2.2 % (95 % over test items)"),
        ("accuracy", 1.0, 0.0, "test accuracy 100.0 (72.2 to 100.0) %"),
        ("perplexity", 12345.6, 12.3, "test perplexity 12346 ± 28"),  # 12.3 · t of 9 degrees of freedom
        ("loss", None, None, "test loss –"),
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
    record = Record({"status": "finished"}, {}, metrics={"test": test}, compute={"seconds": {}})
    line = describe(record, config)
    assert said in line and "test bleu 25.0 ± 2.0 %" in line
    assert "f1" not in line and "meteor" not in line
    for seconds, end in (({"train_s": 0.04}, ", 0.04 s of training"), ({"train_s": 10800}, ", 3 h 00 min of training")):
        record.compute["seconds"] = seconds
        assert describe(record, config).endswith(end)
    record.compute["seconds"] = {"test_s": 1.0}
    assert "of training" not in describe(record, config), "few_shot trains nothing"


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


def test_outputs_below_a_file_are_refused(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"^outputs=.*file: .*file is a file, not a folder$"):
        check(tiny(outputs=str(tmp_path / "file")))


def test_outputs_below_a_folder_that_one_may_not_enter_are_refused(tiny, tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    own, other = os.getresuid(), 65534
    os.setresuid(*((other, other, 0) if 0 in own else own))
    try:
        with pytest.raises(Refused, match=r"^outputs=.*shut/a/b: /.* cannot be written; give another outputs=FOLDER$"):
            config = tiny(outputs=str(tmp_path / "shut/a/b"))
            check(config)
            check_here(config)
    finally:
        os.setresuid(*own)


def test_outputs_among_the_data_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data, outputs in ((".", "outputs"), ("..", "outputs"), (str(tmp_path), "."), (".", str(tmp_path / "x/y"))):
        with pytest.raises(Refused, match=rf"^outputs={outputs}: a folder outside of task.path={data}, all files"):
            check_here(tiny(task__path=data, outputs=outputs))
    check_here(tiny(task__path=".", outputs="../outputs"))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_moving_progress_fits_the_terminal_without_colours_where_none_are_wanted(width, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    name = "lora-r16-attention-lr0.002-s0-0123456789"
    with progress.Display(2, 1, "tuning", console=console) as shown:
        shown.started(name)
        shown.moved(name, 0.5, "loss [0.5], val/accuracy 75.0 %")
        shown.tick()
        drawn = screen.tell()
        shown.ended(name, "finished", 31.0, "val/accuracy 50.0 %")
        shown.ended("two", "failed", 1.0, "", f"[bad] {'news ' * 40}")
    assert not re.search(r"\x1b\[[0-9;]*[39][0-7]m", screen.getvalue())
    ups = screen.getvalue()[drawn:].partition("[1/2]")[0].rpartition("tuning ")[2]
    assert "\x1b[2K" in ups and "\x1b[1A" not in ups  # above the one bar that is left
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    said = " ".join(" ".join(line for line in lines if "━" not in line).split())
    assert f"[1/2] {name} finished val/accuracy 50.0 % in 31 s" in said
    assert f"[2/2] two failed in 1 s: [bad]{40 * ' news'}" in said and max(map(cell_len, lines)) <= width
    bars = [line.rstrip() for line in lines if "━" in line]
    assert any(line.startswith("tuning ") for line in bars) and max(map(cell_len, bars)) <= width
    (halfway, *_) = [line for line in bars if "50%" in line]
    assert halfway.startswith("lora-r16-attention-lr0.002") and "loss [0.5]" in halfway
    assert width == 80 or halfway.endswith("val/accuracy 75.0 %")


def test_notes_on_the_data_and_what_a_tracker_lacks_are_said_once_a_study(tiny):
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    for seed in (0, 1):
        record = begin(tiny(seed=seed, tracking__name="wandb"), None)
        record.run |= {"status": FINISHED, "wandb": {"problem": "no answer from x.org"}}
        record.provenance = {"data": {"notes": ["9 of 10 rows lose their end"]}}
        record.write()
        with progress.Display(1, 1, "", console=console) as shown:
            show_end(shown, tiny(seed=seed, tracking__name="wandb"), Outcome(record.folder, FINISHED, None, 1.0))
    assert screen.getvalue().count("rankwise: 9 of 10 rows lose their end\n") == 1
    assert screen.getvalue().count("rankwise: wandb: not all of the run is there (no answer from x.org); its own") == 1


def test_remaining_time():
    share = 1 / 0.9  # of the steps, where 0.9 of a run's time is its steps
    assert progress.remaining_s([], [(5.0, 0.0)], waiting=3, jobs=1) is None
    assert progress.remaining_s([10.0, 20.0], [], waiting=4, jobs=2) == pytest.approx(30)
    last = progress.remaining_s([], [(10.0, 0.5 * share)], waiting=0, jobs=4)
    assert last == pytest.approx(10), "not faster than its last"
    assert progress.remaining_s([10.0], [(5.0, 0.5 * share)], waiting=1, jobs=1) == pytest.approx(15)
    tested = progress.remaining_s([], [(90.0, 1.0)], waiting=0, jobs=1)
    assert tested == pytest.approx(10), "a test follows the last step"


@pytest.mark.parametrize(("terminal", "lines"), [(True, [72, 25]), (False, [98])])
def test_a_line_is_broken_between_words_on_a_terminal_alone(terminal, lines, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    tell("outputs/a-study/a-run  " + " ".join(["ninechars"] * 7 + ["12345"]))
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == lines


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.04 s"), (31.2, "31 s"), (99.6, "2 min"), (3599, "1 h 00 min"), (3900, "1 h 05 min")],
)
def test_duration(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize("before", [0, 1])
def test_a_foreign_launcher_that_gives_up_is_one_line_and_the_runs_it_left_are_named(
    before, tmp_path, monkeypatch, capsys
):
    Plugins.instance()  # which makes the class anew
    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher
    real = basic.launch

    def launch(self: Any, rows: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        real(self, rows[:before], initial_job_idx)
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(basic, "launch", launch)
    line = "train -m debug=fast method=tfidf seed=0,1 hydra/launcher=basic"
    assert main(line.split()) == 2 - before
    said = capsys.readouterr().err
    assert 'rankwise: hydra/launcher=basic: RuntimeError: Could not detect "srun"' in said and "Traceback" not in said
    assert [name for name in ("s0", "s1") if f"-{name}-" in said] == (["s1"] if before else [])
    assert len(list(tmp_path.glob("outputs/*/*/result.json"))) == before
    assert before or not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fits", "chosen"), [(8, (8, 3)), (5, (4, 6)), (0, None)])
def test_an_automatic_batch_is_the_same_step_in_the_largest_parts_that_fit_all_runs(
    fits, chosen, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["debug=fast", "trainer.batch_size=8", "trainer.accumulate=3", "trainer.eval_batch_size=1"]
    full = composed([*words, "method=full"])
    sizes, memory = (fits or 1, fits + 1), Question(Hardware.here(), 0, only_memory=True)
    rows = plan([changed(full, {"trainer.batch_size": size}) for size in sizes], memory)["runs"]
    least, most = (row["memory"]["train"]["peak_bytes"] for row in rows)
    room = (least + most) // 2 if fits else least - 1
    monkeypatch.setattr(machine, "memory_bytes", lambda: CONTEXT_BYTES["cpu"] + room)
    runs = [composed([*words, "method=lora"]), full]
    line = ["debug=fast", "trainer.accumulate=3", "trainer.batch_size=auto"]
    if chosen is None:
        with pytest.raises(Refused, match="batch_size=auto: not even one row fits into"):
            settled(line, lambda _: runs)
        return
    said = [f"trainer.batch_size={chosen[0]}", f"trainer.accumulate={chosen[1]}"]
    assert settled(line, lambda _: runs) == ["debug=fast", *said]
    assert capsys.readouterr().err == f"rankwise: trainer.batch_size=auto: {' '.join(said)}\n"
    if fits < 8:
        return
    with pytest.raises(Refused, match=r"batch_size=auto: "):  # in half of the memory
        settled([*line, "hydra.launcher.jobs=2"], lambda _: runs)
    with pytest.raises(Refused, match=r"batch_size=auto: an evaluation takes .* lower trainer.eval_batch_size"):
        settled(line, lambda _: [changed(full, {"trainer.eval_batch_size": 4000})])
    begun = ["trainer.batch_size=2", "trainer.accumulate=12"]
    file = folder(composed(["debug=fast", "method=full", "trainer.eval_batch_size=1", *begun])) / "result.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert settled(line, lambda _: runs) == ["debug=fast", *begun], "what is free later makes no other runs of a study"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "debug=fast", "trainer.batch_size=auto"], "of train and find; plan --fit SIZE says which batch fits"),
        (["train", "-m", "debug=fast", "trainer.batch_size=auto,8"], "a number of rows, or auto alone for all runs"),
        (
            ["sweep", "--convert", "seed=0,1", "trainer.batch_size=auto"],
            "auto: of train and find; plan --fit SIZE says",
        ),
        (
            ["train", "experiment=optuna", "trainer.batch_size=auto"],
            ", as plan, --dry-run and trainer.batch_size=auto n",
        ),
        (["train", "debug=fast", "method=tfidf", "trainer.batch_size=auto"], "of no use with a method that trains"),
        (
            ["train", "-m", "debug=fast", "trainer.batch_size=auto", "hydra/launcher=slurm"],
            "auto: not with hydra/launcher=slurm, which runs on other machines; rankwise plan --gpu NAME --fit",
        ),
        (["train", "-m", "debug=fast", "trainer.batch_size=auto", "--join"], "auto: not with hydra.launcher.join=true"),
    ],
)
def test_an_automatic_batch_that_means_nothing_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in (error := capsys.readouterr().err) and error.count("\n") == 1 and not any(tmp_path.iterdir())


def test_a_dry_run_of_a_snapshot_is_refused_inside_a_launcher_of_ranks_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun and Slurm set it
    assert main(["train", "--config", "c.yaml", "--dry-run"]) == main(["train", "hydra.run.dir=x"]) == 2
    said = capsys.readouterr().err
    assert "--dry-run: not with --config" in said and "hydra.run.dir=x: runs go to outputs=FOLDER" in said


def test_a_trial_on_a_file_that_has_changed_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"word {i},{i % 2}\n" for i in range(60))
    words = ["task=local", "task.path=a.csv", "task.text=text", "task.label=label", "method=tfidf"]
    for study, more, code in (("debug", "one more,1\n", 0), ("debug", "one more,\n", 2), ("kept", "one more,1\n", 0)):
        (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
        command = ["train", "debug=fast", *words, f"study={study}"]
        assert main(command) == 0
        (tmp_path / "a.csv").write_text(f"text,label\n{rows}{more}")
        capsys.readouterr()
        assert main(command) == code
        said = capsys.readouterr()
        assert ("finished before (with other data); --rerun" in said.err) == (study == "kept")
        assert bool(said.out) == (code == 0) and ("line 62 holds ''" in said.err) == (code == 2)


def test_a_config_of_a_search_run_again_says_that_it_stays_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "debug=fast", "method=tfidf", "stage=search"]) == 0
    (snapshot,) = map(str, tmp_path.rglob("config.yaml"))
    said = "rankwise: stage=search as in that config: in no comparison; stage=null makes it a result"
    for more, lines in ([], [said]), (["stage=null"], []):
        capsys.readouterr()
        assert main(["train", "--config", snapshot, "study=again", *more]) == 0
        assert [line for line in capsys.readouterr().err.splitlines() if "stage=" in line] == lines
    stages = {yaml.safe_load(path.read_text())["stage"] for path in (tmp_path / "outputs/again").rglob("config.yaml")}
    assert stages == {"search", None}
