"""The process that runs are forked from: it has imported what they need, and nothing else."""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import FrameType
from typing import Any

from rankwise.errors import Refused
from rankwise.forks import preload

_LONGEST = 60  # bytes of the temporary folder: the socket's own name takes 40


class Signals:
    """Counts SIGINT and SIGTERM, so that neither breaks into the bookkeeping; ``raising()`` while there is none."""

    def __init__(self) -> None:
        self.count = 0
        self._raise = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A signal in here is a KeyboardInterrupt at once."""
        self._raise = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._raise = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._raise:
            raise KeyboardInterrupt


_keep = False


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """In here one server is used again and again, since its imports take seconds; gone after the outermost."""
    global _keep
    outer, _keep = _keep, True
    try:
        yield
    finally:
        _keep = outer
        if not outer:
            _end()


def begin(modules: Sequence[str], on_gpus: bool) -> ForkServerContext:
    """Let a fork server import ``modules`` while this process goes on, in ``kept()``, unless there is one."""
    if on_gpus and importlib.util.find_spec("bitsandbytes"):  # which PEFT imports, and which asks CUDA at once
        modules = [name for name in modules if not name.startswith(("peft", "rankwise"))]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload.__name__])
    with _short_temporary_folder():
        # It cleans up after runs that were killed; that it had to is nobody's concern.
        with _environment({"PYTHONWARNINGS": "ignore:resource_tracker"}):
            resource_tracker.ensure_running()
        with _environment(_variables(modules)):
            forkserver.ensure_running()
    return context


@contextlib.contextmanager
def started(modules: Sequence[str], signals: Signals, on_gpus: bool) -> Iterator[ForkServerContext]:
    """A fork server that has imported ``modules``; gone afterwards, but in ``kept()``."""
    try:
        with signals.raising():
            context = begin(modules, on_gpus)
            first = context.Process(target=_idle)
            if not fork(first):
                raise Refused(
                    "the process that loads the libraries was killed (out of memory?); give the same command again"
                )
            first.join()
        yield context
    finally:
        if not _keep:
            _end()


def fork(process: ForkServerProcess) -> bool:
    """Start it; False where it, or the server, is killed meanwhile. The next is forked from a new server."""
    try:
        process.start()
    except (EOFError, ConnectionError):
        time.sleep(0.5)  # a server that dies takes no more requests soon, but not at once
        return False
    return True


def end_with_parent() -> None:
    """From now on this fork ends at once when the process that asked for it does, as nobody else waits for it."""
    threading.Thread(target=_end_with_parent, name="watch-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _idle() -> None:
    """Do nothing: the first child is back when the server has imported everything."""


@contextlib.contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """The server is reached by a socket in a temporary folder, and the kernel takes 107 bytes of its path.

    Raises Refused where no temporary folder can be written.
    """
    before = tempfile.tempdir
    try:
        if len(tempfile.gettempdir()) > _LONGEST and os.access("/tmp", os.W_OK):
            tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # made now, and used from then on
        yield
    except FileNotFoundError as error:
        raise Refused(f"no temporary folder: {error.strerror}; set TMPDIR to one that can be written") from None
    finally:
        tempfile.tempdir = before


def _end() -> None:
    """Kill the server: asked to end, it would first finish its imports."""
    server: Any = forkserver._forkserver  # there is no public way
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def _variables(modules: Sequence[str]) -> dict[str, str]:
    """What the fork server, and so every run, gets besides this process's environment."""
    yielding = {
        # Threads that spin at barriers slow a shared machine by an order of magnitude; libgomp reads this on loading.
        "OMP_WAIT_POLICY": "passive",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's: no thread in the server
    }
    return {
        **preload.environment(modules),
        "OMP_NUM_THREADS": "1",  # threads do not survive a fork; every run sets its own number
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # "is there a GPU?" must not initialise CUDA before the fork
        **{name: value for name, value in yielding.items() if name not in os.environ},
    }


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """The environment with ``changes``; put back afterwards."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
