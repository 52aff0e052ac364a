"""What this machine has: cores, memory, GPUs, and how much memory this process has used. Imports nothing heavy.

Reads /proc, /sys and ``nvidia-smi`` and never initialises CUDA, so the launcher may ask before it forks.
"""

import contextlib
import errno
import functools
import gc
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is ARM's

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "not enough memory")


def cores() -> int:
    """Cores that this process may use, by affinity and cgroup quota; unlike nproc, whatever OMP_NUM_THREADS says."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without looking for garbage, which took a quarter of the time and found none.

    What they made is left out of later collections too, which a forked process then does not have to write to.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def memory_bytes() -> int:
    """Memory that can still be had: what the kernel calls available, within the cgroup's limit."""
    return min(int(psutil.virtual_memory().available), _cgroup_room())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what Python, torch on a CPU or GPU, or the system says when there is no memory left."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def is_no_room(error: BaseException) -> bool:
    """Whether a disk is full, a quota is reached or a file may not grow; libraries raise errors of their own then."""
    number = getattr(error, "errno", None)
    return number in _FULL or any(os.strerror(code) in str(error) for code in _FULL)


def gpus() -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES of the NVIDIA GPUs that this process may use; none is an empty list."""
    present = [identity for identity, _ in _nvidia()]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or not present:
        return present
    ids: list[str] = []
    for identity in wanted.split(","):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", identity.strip()):
            break  # CUDA ignores everything from the first invalid id on, "-1" and "" among them
        ids.append(identity.strip())
    return ids


def gpu_free_bytes(ids: Sequence[str]) -> int:
    """Memory that is free on each of these GPUs, the least of them; 0 where the driver does not say."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    rows = re.findall(r"^(\d+), (\S+), (\d+)$", output, re.M)
    free = [
        next((int(mib) for index, uuid, mib in rows if identity == index or uuid.startswith(identity)), 0)
        for identity in ids
    ]
    return min(free, default=0) * 2**20


def hardware() -> dict[str, Any]:
    """The machine for a record: cpu, cores, memory_bytes (in all), gpus (names), os, bf16 (the processor has it)."""
    first = _read("/proc/cpuinfo").split("\n\n")[0]  # the first processor
    fields = dict(re.findall(r"^(\S.*?)\s*:\s*(.*)$", first, re.M))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpus": [name for _, name in _nvidia()],
        "os": platform.platform(),
        "bf16": bool(flags & _BF16_FLAGS),
    }


def peak_rss_bytes() -> int:
    """The most memory this process has held since it began, or since ``reset_peak_rss``.

    VmHWM and not ru_maxrss where there is one: after exec ru_maxrss still reports the peak of the process before it.
    """
    match = re.search(r"^VmHWM:\s+(\d+) kB", _read("/proc/self/status"), re.M)
    if match:
        return int(match[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_rss() -> bool:
    """Let the peak begin at what is held now; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def process_age_s() -> float | None:
    """Seconds since this process was started, or forked; None on the second call.

    Only the first run of a process has start-up to account for.
    """
    global _age_told
    if _age_told == os.getpid():
        return None
    _age_told = os.getpid()
    return max(0.0, time.time() - psutil.Process().create_time())


_age_told: int | None = None  # the process that has been told


@functools.cache
def _nvidia() -> tuple[tuple[str, str], ...]:
    """Id and name of every NVIDIA GPU that is there.

    ``nvidia-smi`` first: in a container /proc may show the host's GPUs as well.
    """
    if shutil.which("nvidia-smi"):
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return ()  # the tool without a driver
        return tuple(re.findall(r"^GPU (\d+): (.+?) \(UUID", listed, re.M))
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [re.search(r"^Model:\s*(.+)", _read(file), re.M) for file in files]
    return tuple((str(i), name[1].strip() if name else "NVIDIA GPU") for i, name in enumerate(names))


def _quota() -> float:
    """Cores' worth of time that the cgroup grants; infinite without a limit."""
    match _read("/sys/fs/cgroup/cpu.max").split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    quota, period = (_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def _cgroup_room() -> int:
    """Bytes to the cgroup's memory limit, not counting cache that would be dropped; a huge number without a limit."""
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        bounds = [_read(f"{folder}/{name}").strip() for name in (limit, used)]
        if all(bound.isdigit() for bound in bounds):
            match = re.search(rf"^{cache} (\d+)", _read(f"{folder}/memory.stat"), re.M)
            return max(0, int(bounds[0]) - int(bounds[1]) + (int(match[1]) if match else 0))
    return sys.maxsize


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
