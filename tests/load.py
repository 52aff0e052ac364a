"""How time and memory grow with a study, by hand: ``python tests/load.py report 1000 3000 10000`` (records, five seeds
of an arm each), ``python tests/load.py launch 2000`` (runs that do nothing), ``slurm 2000`` (the same by two jobs of a
Slurm array, and what it asks of the controller) and ``python tests/load.py mirror 1000``
(records mirrored offline, moved, synced to a server on the loopback, and compared by value).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path += [str(Path(__file__).parent / folder) for folder in ("study", "tracking")]
import fake_task
from synthetic_study import write_run
from wandb_server import ContractServer, of_nobody
from whole import check

from rankwise.study import slurm
from rankwise.study.launcher import launch
from rankwise.study.progress import Display

_SEEDS, _RANKS, _TARGETS = range(5), (1, 2, 4, 8, 16, 32, 64), ("qv", "all_linear", "attention", "mlp")


def report(records: int) -> None:
    """Processor time and peak memory of ``rankwise report``, with its files and with ``--json`` alone."""
    with tempfile.TemporaryDirectory() as folder:
        for n in range(records):
            grid, seed, rank = n // (len(_RANKS) * len(_SEEDS)), _SEEDS[n % len(_SEEDS)], _RANKS[n // 5 % len(_RANKS)]
            keys = {"targets__name": _TARGETS[grid % 4], "method__dropout": round(grid // 4 / 1000, 3)}
            if n < len(_SEEDS):
                write_run(Path(folder), "full", None, lr=1e-4, test=0.82, seed=seed)
            else:
                write_run(Path(folder), rank=rank, seed=seed, **keys)
        for words in ([], ["--json"]):
            command = [sys.executable, "-m", "rankwise", "report", folder, *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0
            took, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
            print(f"{records:>6} records, report {' '.join(words):<6} {took:6.1f} s of processor, {peak:5.0f} MiB")


def mirror(records: int) -> None:
    """Every value and file of so many runs of one process are at the server once the moved study is synced."""
    with tempfile.TemporaryDirectory() as root, ContractServer() as server:
        env = of_nobody(Path(root)) | server.env()
        os.environ |= env | {"WANDB_MODE": "offline"}
        from rankwise.tracking.wandb_run import WandbRun

        began, ids = time.perf_counter(), {}
        for n in range(records):
            arm = {"method": "full", "rank": None} if n % 8 == 7 else {"rank": _RANKS[n % 8]}
            record = write_run(Path(root) / "here", test=0.6 + n / 5 / records, seed=n // 8, **arm)
            (record.folder / "adapter").mkdir()
            (record.folder / "adapter/adapter_model.safetensors").write_bytes(os.urandom(2_000))
            tracker = WandbRun(record)
            for row in record.metrics["curve"]:
                tracker.log(row)
            tracker.end(record)
            assert tracker.problem is None
            ids[tracker.run.id] = record
        print(f"{records:>6} runs mirrored in {time.perf_counter() - began:.0f} s", flush=True)
        moved, began = (Path(root) / "here").rename(Path(root) / "there"), time.perf_counter()
        fragments = sorted(moved.glob("wandb/offline-run-*"))
        assert len(fragments) == len(ids) == records
        subprocess.run([sys.executable, "-m", "wandb", "sync", *fragments], env=os.environ | env, check=True)
        print(f"{records:>6} runs synced in {time.perf_counter() - began:.0f} s", flush=True)
        assert set(server.runs) == set(ids) and server.unknown == []
        for name, record in ids.items():
            got, folder = server.run(name), moved / record.folder.name
            check(record, got["config"], got["summary"])
            history = [{key: row[key] for key in row if not key.startswith("_")} for row in got["history"]]
            assert history == record.metrics["curve"] and got["state"] == "finished"
            for sent, own in (
                ("record.json", "result.json"),
                ("predictions.parquet", "predictions.parquet"),
                ("adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors"),
            ):
                assert server.store.stored[f"run/{name}/{sent}"] == (folder / own).read_bytes()
        print(f"{records:>6} runs of {len(server.runs)} are at the server with every value and file of theirs")


def launch_many(runs: int) -> None:
    """Seconds of so many runs through the launcher, and what this process holds after each tenth of them."""
    began, ended = time.perf_counter(), Display.ended

    def tell(shown: Display, *how: object) -> None:
        ended(shown, *how)  # type: ignore[arg-type]
        if shown.ended_n % (runs // 10) == 0:
            held = psutil.Process().memory_info().rss / 2**20
            print(f"{shown.ended_n:>6} runs  {time.perf_counter() - began:6.1f} s, {held:5.0f} MiB", flush=True)

    Display.ended = tell  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as folder:
        configs = [fake_task.config(Path(folder), "gone", seed) for seed in range(runs)]
        launch(configs, 2, task="fake_task:run", preload=["fake_task"])
    Display.ended = ended  # type: ignore[method-assign]


def on_slurm(runs: int) -> None:
    """Seconds of so many runs by two workers of a Slurm array, and the requests and seconds of its controller."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent / "study")
    controller = next(process for process in psutil.process_iter(["name"]) if process.info["name"] == "slurmctld")
    slurm.worker = fake_task.worker  # type: ignore[attr-defined]
    subprocess.run(["sdiag", "-r"], check=True, stdout=subprocess.DEVNULL)
    began, before = time.perf_counter(), controller.cpu_times()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), ignore_cleanup_errors=True) as folder:
        configs = [fake_task.config(Path(folder), "gone", seed) for seed in range(runs)]
        ended = slurm.launch_on(slurm.Slurm(workers=2, jobs=1), configs)
    assert [outcome.status for outcome in ended] == ["finished"] * runs
    after, asked = controller.cpu_times(), subprocess.run(["sdiag"], text=True, capture_output=True, check=True).stdout
    used = after.user + after.system - before.user - before.system
    requests = sum(map(int, re.findall(r"REQUEST_\w+ .*count:(\d+)", asked.split("by user")[0])))
    took = time.perf_counter() - began
    print(f"{runs} runs in {took:.0f} s; controller: {requests} requests, {used:.1f} s of processor")


if __name__ == "__main__":
    for count in sys.argv[2:]:
        {"report": report, "launch": launch_many, "slurm": on_slurm, "mirror": mirror}[sys.argv[1]](int(count))
