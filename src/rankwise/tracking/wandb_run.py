"""A run in Weights & Biases: online, or offline in ``wandb/`` of the study, for ``wandb sync`` and ``wandb leet``."""

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rankwise.errors import one_line
from rankwise.metrics import named
from rankwise.tracking.fields import results, setup
from rankwise.tracking.record import FINISHED, Record

NO_KEY = "no W&B key is configured; 'wandb login' sets one"
PROJECT = "rankwise"  # unless the config or WANDB_PROJECT names another
FILES = {"record.json": "result.json", "predictions.parquet": "predictions.parquet"}  # what a report needs, and ours
MOST_BYTES = 10**9  # of an adapter that goes to W&B as well
INIT_S = 15.0  # for a server to take a new run
FINISH_S = 30.0  # at the end of a run, for what is still to be written or uploaded
_KEY = ".study"
_NO_TIME = "00000000_000000"
_ANSWER_S = 5.0  # of a server that is asked whether it is there
ANSWER_S = 30  # of one request


class WandbRun:
    """Made from the record alone, so that it can be made again from it, at any time and place.

    What the user asks of W&B by its own environment variables holds where rankwise's config does not say otherwise.
    """

    def __init__(self, record: Record, run_pid: int | None = None, mode: str | None = None):
        _quiet(record)
        import wandb

        mark(record.folder.parent)
        self.problem: str | None = None
        self._record, self._wandb = record, wandb
        wanted = asked(mode or (record.config.get("tracking") or {}).get("mode") or "auto")
        try:
            mode = mode_of(wanted)
            if mode == "online":
                self.problem = _unreachable(wandb)
            elif wanted == "online":
                self.problem = NO_KEY
        except Exception as error:  # a key of the wrong form
            self.problem = one_line(error)
        mode = "offline" if self.problem else str(mode)
        try:
            self.run = self._start(mode, run_pid)
        except Exception as error:
            if mode == "offline":
                raise
            self.problem, mode = one_line(error), "offline"
            wandb.teardown()
            self.run = self._start(mode, run_pid)
        if self.problem:
            self.problem = f"{self.problem}; tracked offline"
        self._lost = _Lost(self.run)
        _link(self.run, record.folder.parent)
        self.about = {
            "id": self.run.id,
            "mode": mode,
            "entity": self.run.entity or None,
            "project": self.run.project,
            "group": self.run.group,
            "url": self.run.url if mode == "online" else None,
        }

    def _start(self, mode: str, run_pid: int | None) -> Any:
        wandb, record = self._wandb, self._record
        git = record.provenance.get("git") or {}
        arguments = shlex.split(record.provenance.get("command") or "rankwise train")
        sys.argv = arguments  # where W&B looks for what was typed
        live = run_pid is not None and mode == "online"
        run = wandb.init(
            **placed(record),
            mode=mode,
            tags=_tags(record),
            config=setup(record),
            reinit="create_new",
            resume=None if run_pid else "allow",  # what is sent again goes on behind what is there
            settings=wandb.Settings(
                console="off",
                silent=True,
                symlink=False,
                disable_git=True,
                git_commit=git.get("commit"),
                program=arguments[0],
                x_executable=sys.executable,
                x_disable_stats=not live,
                x_stats_pid=run_pid or os.getpid(),
                x_disable_machine_info=run_pid is None,
                # The server's "Stop run": the run ends as it does when it is stopped from outside.
                stop_fn=(lambda: os.kill(run_pid, signal.SIGTERM)) if run_pid else lambda: None,
                init_timeout=seconds("WANDB_INIT_TIMEOUT", INIT_S),
                finish_timeout=seconds("WANDB_FINISH_TIMEOUT", FINISH_S),
                finish_timeout_raises=True,
            ),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        # While the run goes on, the best so far; the record's values take their place at its end.
        for name in {"val/loss", str(record.config.get("objective") or "val/loss")}:
            run.define_metric(name, step_metric="step", summary="min" if named(name).sign < 0 else "max")
        return run

    def log(self, row: dict[str, Any]) -> None:
        """Add a row; the attempt that made it is no curve."""
        self.run.log({key: value for key, value in row.items() if key != "attempt"})

    def end(self, record: Record) -> None:
        """Send the results and the files, and wait until W&B has it all."""
        self.run.config.update(setup(record), allow_val_change=True)
        self.run.summary.update(results(record))
        with contextlib.suppress(OSError):
            self.run.write_logs((record.folder / "log").read_text(encoding="utf-8", errors="replace"))
        failed: list[BaseException] = []
        self._save(record, self.about["mode"] == "offline")
        # wandb asks the server things before it takes an artifact, and would wait for an answer before all else.
        sending = threading.Thread(target=_log_adapter, args=(self.run, record, failed), daemon=True)
        sending.start()
        sending.join(seconds("WANDB_FINISH_TIMEOUT", FINISH_S) / 3)
        failed += [TimeoutError()] if sending.is_alive() else []
        try:
            self.run.finish(exit_code=0 if record.status == FINISHED else 1)
        except TimeoutError as error:
            failed.append(error)
        if failed and not self.problem:
            late = isinstance(failed[0], TimeoutError)
            self.problem = "not all of it reached the server in time" if late else one_line(failed[0])
        if self._lost.any and not self.problem:
            self.problem = "the server refused some of it"

    def settle(self, stays: bool) -> None:
        """Leave one run of its attempts, once all of it is there: W&B adds to a run, and replaces nothing in it.

        What only W&B has of other attempts, where this one is offline, goes when this one is sent.
        """
        own, made, online = self.run.id, {*attempts(self._record)}, self.about["mode"] == "online"
        gone = made - {own} if stays else {own}
        if own not in made or (stays and online and self.problem):  # not ours to name, or not all there
            return
        for name in gone:
            for folder in Path(self.run.dir).parents[1].glob(f"*run-????????_??????-{name}"):
                shutil.rmtree(folder, ignore_errors=True)
            (self._record.folder.parent / "leet" / f"run-{_NO_TIME}-{name}").unlink(missing_ok=True)
        if gone and online:
            # Of its service, GraphQL or HTTP; the next push finds it there and tries again.
            with contextlib.suppress(Exception):
                filters = {"group": {"$regex": f"^{re.escape(self.run.group)}$"}}
                path = f"{self.run.entity}/{self.run.project}"
                for run in self._wandb.Api(timeout=ANSWER_S).runs(path, filters=filters, lazy=False):
                    if run.id in gone:
                        run.delete()

    def _save(self, record: Record, with_adapter: bool) -> None:
        """The record and the predictions, as files of the W&B run.

        Offline the adapter as well: ``wandb sync`` finds a run's files wherever the study has been moved, and an
        artifact's only where they were.
        """
        own = Path(self.run.dir)
        for name, source in FILES.items():
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(record.folder / source, own / name)
                self.run.save(str(own / name), base_path=str(own), policy="end")
        if with_adapter and is_sent(record):
            (own / "adapter").symlink_to(os.path.relpath(record.folder / "adapter", own))
            for file in (own / "adapter").rglob("*"):
                if file.is_file():
                    self.run.save(str(file), base_path=str(own), policy="end")


def _log_adapter(run: Any, record: Record, failed: list[BaseException]) -> None:
    """The adapter (or what else was trained) as an artifact, unless it is huge. Its files are read where they lie."""
    import wandb

    if not is_sent(record):
        return
    try:
        adapter = (record.folder / "adapter").resolve()
        kind = "lora-adapter" if (adapter / "adapter_config.json").exists() else "weights"
        artifact = wandb.Artifact(f"adapter-{run.id}", kind, metadata=setup(record)["arm"])
        artifact.add_dir(str(adapter), policy="immutable")
        run.log_artifact(artifact)
    except BaseException as error:
        failed.append(error)


def is_sent(record: Record) -> bool:
    """Whether there is something trained that goes to W&B."""
    sizes = [file.stat().st_size for file in (record.folder / "adapter").rglob("*") if file.is_file()]
    return record.status == FINISHED and 0 < sum(sizes) < MOST_BYTES


def placed(record: Record) -> dict[str, Any]:
    """Which W&B run this is, for ``wandb.init``: the run's config, else W&B's environment, else ours.

    Ids and groups are of one study folder (see ``study_key``), so that two people, machines or studies that meet in a
    project leave each other's runs alone; they stay the same when a run is sent again, and are another for each attempt
    at it. Under ``wandb agent`` the sweep decides.
    """
    env, tracking = os.environ, record.config.get("tracking") or {}
    known = {key: value for key, value in (record.run.get("wandb") or {}).items() if value}  # it was there before
    study = record.folder.parent
    key = study_key(study)
    where = {
        "group": known.get("group") or env.get("WANDB_RUN_GROUP") or f"{record.run['study']}-{key[:4]}",
        "name": record.config.get("name") or env.get("WANDB_NAME") or record.run["name"],
        "job_type": env.get("WANDB_JOB_TYPE") or "train",
        "dir": env.get("WANDB_DIR") or str(study.resolve()),
    }
    if env.get("WANDB_SWEEP_ID"):
        return where
    return where | {
        "project": known.get("project") or tracking.get("project") or env.get("WANDB_PROJECT") or PROJECT,
        "entity": known.get("entity") or tracking.get("entity") or env.get("WANDB_ENTITY"),
        "id": known.get("id") or env.get("WANDB_RUN_ID") or attempts(record)[-1],
    }


def attempts(record: Record) -> list[str]:
    """The ids that the attempts at a run have in W&B, which takes no id twice."""
    readable, key = re.sub(r"[^\w-]+", "_", str(record.run["name"]))[:50], study_key(record.folder.parent)
    tried = ["", *(f"/{number}" for number in range(2, record.run["attempts"] + 1))]
    full = (f"{key}/{record.run['id']}{one}" for one in tried)
    return [f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" for text in full]


def study_key(study: Path) -> str:
    """What tells this study folder from all others; it goes where the folder goes. Nothing is written here."""
    try:
        return (study / _KEY).read_text(encoding="utf-8").strip()
    except OSError:  # nobody has told a tracker of it yet, or nobody may write there
        return hashlib.sha256(str(study.resolve()).encode()).hexdigest()[:16]


def mark(study: Path) -> None:
    """Give a study folder its key, unless it has one or cannot be written."""
    own = study / f"{_KEY}.{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        if not (study / _KEY).exists():
            own.write_text(secrets.token_hex(8), encoding="utf-8")
            with contextlib.suppress(FileExistsError):
                os.link(own, study / _KEY)  # one of several processes wins
            own.unlink()


def seconds(variable: str, otherwise: float) -> float:
    """How long to wait: the user's own setting of W&B's, or ours where that is none or no limit."""
    with contextlib.suppress(KeyError, ValueError):
        if 0 < (value := float(os.environ[variable])) < 1e6:  # the system can wait for no more
            return value
    return otherwise


def asked(wanted: str) -> str:
    """``tracking.mode``, unless that is auto: then WANDB_MODE, where that is set."""
    if os.environ.get("WANDB_MODE") == "":  # which W&B's own settings refuse
        del os.environ["WANDB_MODE"]
    mode = (os.environ.get("WANDB_MODE") or "auto") if wanted == "auto" else wanted
    return {"dryrun": "offline", "run": "online"}.get(mode, mode)


def mode_of(wanted: str) -> str:
    """``asked``, and auto is online. Without a key offline: W&B never prompts.

    Raises what W&B raises for a key of the wrong form.
    """
    import wandb

    if (wanted := asked(wanted)) == "offline":
        return wanted
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _unreachable(wandb: Any) -> str | None:
    """Why the server cannot be had; any answer will do. wandb itself would try for minutes."""
    url = str(wandb.setup().settings.base_url)
    try:
        urllib.request.urlopen(url, timeout=seconds("WANDB_INIT_TIMEOUT", _ANSWER_S)).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return f"{url} does not answer ({getattr(error, 'reason', error)})"
    return None


def _link(run: Any, study: Path) -> None:
    """A link in ``leet/`` of the study, for ``wandb leet``: it orders runs by the names of their folders."""
    link = study / "leet" / f"run-{_NO_TIME}-{run.id}"
    with contextlib.suppress(OSError):
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(Path(run.dir).parent, link.parent.resolve()))


def _tags(record: Record) -> list[str]:
    told = setup(record)  # a task may be called by its path; W&B takes 64 signs
    own = [told["run"].get("task", "")[:64], told["arm"]["method"], told["arm"].get("targets")]
    typed = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")]
    return [tag for tag in [*own, *((record.config.get("tracking") or {}).get("tags") or []), *typed] if tag]


def _quiet(record: Record) -> None:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    data = Path(os.environ.get("WANDB_DIR") or record.folder.parent) / "wandb" / "data"
    os.environ.setdefault("WANDB_DATA_DIR", str(data.resolve()))  # staged artifacts stay with the study


class _Lost:
    """Listens to wandb, which is silent to users, for data that it has given up on: it raises nothing then."""

    def __init__(self, run: Any):
        self.any = False
        with contextlib.suppress(AttributeError):  # not in its documentation
            sys.modules["wandb"].termsetup(run.settings, self)

    def warning(self, text: str) -> None:
        self.any |= "will not be synced" in text

    def info(self, text: str) -> None:
        """Of no interest."""

    error = warning
