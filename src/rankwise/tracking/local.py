"""Runs in trackers that need no account: Trackio's SQLite file and TensorBoard's event files, both in the study."""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

from rankwise.tracking.fields import results, setup
from rankwise.tracking.record import FINISHED, Record


class Trackio:
    """``trackio show`` compares runs in a browser: TRACKIO_DIR, else ``trackio/`` of the study, says where they are."""

    problem: str | None = None

    def __init__(self, record: Record, run_pid: int | None = None):
        os.environ.setdefault("TRACKIO_DIR", str(record.folder.parent.resolve() / "trackio"))
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        trackio = importlib.import_module("trackio")
        project = (record.config.get("tracking") or {}).get("project") or record.run["study"]
        self.run = trackio.init(
            project=project,
            name=record.folder.name,
            group=record.run["study"],
            config=setup(record),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._trackio, self._project, self._name = trackio, project, record.folder.name
        self._curves = set[str]()
        self.about = {"project": project, "path": os.environ["TRACKIO_DIR"]}

    def log(self, row: dict[str, Any]) -> None:
        """Add a row."""
        values = {key: value for key, value in row.items() if key not in ("step", "attempt") and value is not None}
        self._curves |= values.keys()
        self.run.log(values, step=int(row["step"]))

    def end(self, record: Record) -> None:
        """Trackio has no summary: the results are the last row."""
        ended = _beside(self._curves, results(record))
        numbers = {key: value for key, value in ended.items() if isinstance(value, int | float)}
        self.run.log(numbers | {"finished": float(record.status == FINISHED)})
        self._trackio.finish()

    def settle(self, stays: bool) -> None:
        """Leave one run of its name."""
        for run in self._trackio.Api().runs(self._project):
            if run.name == self._name and (run.id == self.run.id) is not stays:
                run.delete()


class TensorBoard:
    """``tensorboard --logdir STUDY/tensorboard``: curves, and the results by arm under HParams."""

    problem: str | None = None

    def __init__(self, record: Record, run_pid: int | None = None):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._hparams = event_pb2.Event, summary_pb2.Summary, summary_v2.hparams_pb
        path = record.folder.parent / "tensorboard" / record.folder.name
        self._earlier = list(path.glob("events.out.tfevents.*"))
        self._file, self._name, self._step = EventFileWriter(str(path)), record.folder.name, 0
        self._curves = set[str]()
        self.about = {"path": str(path)}

    def log(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._step = int(row["step"])
        values = {key: value for key, value in row.items() if key not in ("step", "attempt")}
        self._curves |= values.keys()
        self._scalars(values)

    def end(self, record: Record) -> None:
        """Add the results at the last step, and the arm and setup that they are of."""
        self._scalars(_beside(self._curves, results(record)))
        own = {f"{group}.{key}": value for group in ("arm", "run") for key, value in setup(record)[group].items()}
        shown = {
            key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in own.items()
        }
        self._add(self._hparams(shown, trial_id=self._name))
        self._file.close()

    def settle(self, stays: bool) -> None:
        """Leave the events of one attempt: TensorBoard would draw several as one."""
        own = set(Path(self.about["path"]).glob("events.out.tfevents.*")) - {*self._earlier}
        for file in self._earlier if stays else own:
            file.unlink()

    def _scalars(self, values: dict[str, Any]) -> None:
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self._add(self._summary(value=[self._summary.Value(tag=k, simple_value=v) for k, v in numbers.items()]))

    def _add(self, summary: Any) -> None:
        self._file.add_event(self._event(wall_time=time.time(), step=self._step, summary=summary))


def _beside(curves: set[str], ended: dict[str, Any]) -> dict[str, Any]:
    """Results by names that are no curve's: those of the best checkpoint are no last point of it."""
    return {f"best/{key}" if key in curves else key: value for key, value in ended.items()}
