"""Runs that cost nothing, for tests of the launcher: the run's name says what it does.

``python -m fake_task OUTPUTS NAME…`` is a study in a process of its own, for tests that kill it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Lock
from pathlib import Path

from rankwise import assets, machine
from rankwise.config import Config, Model, Optim, Quant, Targets, Task
from rankwise.errors import Refused
from rankwise.identity import folder
from rankwise.methods import Method
from rankwise.study.launcher import launch
from rankwise.study.slurm import Work
from rankwise.tasks import data
from rankwise.tracking.journal import Journal
from rankwise.tracking.lease import owned
from rankwise.tracking.record import FINISHED, RUNNING, STOPPED, Record, begin, read

DEADLINE_S = 60.0


def config(outputs: Path, name: str, seed: int = 0, threads: int | None = None, device: str = "auto") -> Config:
    made = Config(
        model=Model(name="none"),
        task=Task(name="none"),
        method=Method(name="lora", lr=1e-3, rank=4, alpha="2r"),
        targets=Targets(name="attention"),
        quant=Quant(name="none"),
        optim=Optim(lr=1e-3),
        name=name,
        seed=seed,
        outputs=str(outputs),
        objective="val/accuracy",
    )
    made.trainer.threads, made.trainer.device = threads, device
    return made


def run(config: Config) -> Record:
    """Behaves as the real task promises: owns its folder, records running first, and stopped on KeyboardInterrupt."""
    home = folder(config)
    if config.name == "unfit":
        raise Refused("task.text=nope: no such")
    with owned(home) as mine:
        record = begin(config, None)
        if not mine:
            return record
        if config.name == "count" and (home / "result.json").exists() and read(home).status == FINISHED:
            return read(home)
        record.write()
        try:
            globals()[f"do_{config.name}"](config, home)
            record.run["status"], record.objective = FINISHED, 0.821
        except KeyboardInterrupt:
            record.run["status"] = STOPPED
            raise
        finally:
            if record.run["status"] != RUNNING:
                record.write()
    return record


def worker(work: Work) -> None:
    """A job of a Slurm array, of runs of this file."""
    launch(work.configs, work.jobs, "fake_task:run", ["fake_task"], join=work.tries)


def until(condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    """Wait for a condition; its failing to come is an error."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def do_report(config: Config, home: Path) -> None:
    torch = sys.modules.get("torch")
    info = {
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "session": os.getsid(0) == os.getpid(),
        "threads": torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"]),
        "environment": {k: os.environ.get(k) for k in ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "PYTHONPATH")},
        "modules": list(sys.modules),
    }
    if torch:  # hangs where the fork server has started threads
        ones = torch.ones(500, 500)
        info["product"] = (ones @ ones).sum().item()
    (home / "info.json").write_text(json.dumps(info))


def do_meet(config: Config, home: Path) -> None:
    """Ends when three of them are there at once."""
    (home.parent / f"here-{config.seed}").touch()
    until(lambda: len(list(home.parent.glob("here-*"))) == 3)


def do_gpu(config: Config, home: Path) -> None:
    """Ends when another has a GPU too; nobody else may have the same."""
    mine = home.parent / f"gpu-{os.environ['CUDA_VISIBLE_DEVICES']}"
    mine.touch(exist_ok=False)
    (home.parent / f"here-{config.seed}").touch()
    until(lambda: len(list(home.parent.glob("here-*"))) >= 2)
    mine.unlink()


def do_gone(config: Config, home: Path) -> None:
    """Nothing."""


def do_load(config: Config, home: Path) -> None:
    """Has its data without reading them."""
    data._Index = None  # type: ignore[assignment,misc]
    loaded = data.load(config.task, assets.resolve(config.task), config.data_seed)
    (home / "info.json").write_text(json.dumps(loaded.train.texts))


def do_error(config: Config, home: Path) -> None:
    raise ValueError("two\nlines")


def do_refuse(config: Config, home: Path) -> None:
    raise Refused("trainer.precision=fp16: not on a CPU")


def do_quit(config: Config, home: Path) -> None:
    os._exit(3)


def do_die(config: Config, home: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def do_crash(config: Config, home: Path) -> None:
    ctypes.string_at(0)


def do_moved(config: Config, home: Path) -> None:
    """Its folder is given another name, and with it its log."""
    home.rename(home.with_name("elsewhere"))


def do_orphan(config: Config, home: Path) -> None:
    """Dies and leaves a process behind."""
    subprocess.Popen(["sleep", "1000"])
    os.kill(os.getpid(), signal.SIGKILL)


def do_server(config: Config, home: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    until(lambda: False)


def do_wait(config: Config, home: Path) -> None:
    (home / "ready").touch()
    until(lambda: False)


def do_semaphore(config: Config, home: Path) -> None:
    """Leaves a semaphore to the resource tracker, as tqdm does."""
    kept = Lock()
    with kept:
        os._exit(3)


def do_deaf(config: Config, home: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    do_wait(config, home)


def do_print(config: Config, home: Path) -> None:
    print("by print")
    print("to stderr", file=sys.stderr)
    os.write(1, b"by write\n")
    subprocess.run(["echo", "by echo"], check=True)


def do_log(config: Config, home: Path) -> None:
    """Trains for three epochs, with one validation at the end."""
    log = Journal(home / "metrics.jsonl", 1)
    for step in range(1, 301):
        log({"step": step, "epoch": step / 100, "train/loss": step / 1000})
        time.sleep(0.002)
    log({"step": 300, "epoch": 3.0, "val/loss": 2.0, "val/accuracy": 0.75})


def do_count(config: Config, home: Path) -> None:
    """Leaves a line for every time that it has been through."""
    time.sleep(0.2)
    with (home / "did").open("a") as file:
        file.write("once\n")


def do_memory(config: Config, home: Path) -> None:
    filled = bytearray(os.urandom(1024) * 1024 * (200 if config.seed == 0 else 1))
    (home / "peak").write_text(f"{machine.peak_rss_bytes()} {len(filled)}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    outputs, *names = sys.argv[1:]
    study = [config(Path(outputs), name, seed) for seed, name in enumerate(names)]
    join = {} if "FAKE_JOIN" in os.environ else None
    try:
        ends = launch(study, 2, "fake_task:run", preload=os.environ.get("FAKE_PRELOAD", "").split(), join=join)
        sys.exit(any(end.failed for end in ends))
    except KeyboardInterrupt:
        sys.exit(130)
