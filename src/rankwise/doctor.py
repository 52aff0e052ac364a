"""What this machine can do, and what is missing for the rest. Nothing here raises: a probe that fails says why."""

import os
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import yaml

from rankwise import assets, machine
from rankwise.check import QUANT_LIBRARIES
from rankwise.errors import Refused, one_line
from rankwise.paths import conf_dir
from rankwise.tracking import provenance
from rankwise.tracking.remote import why_offline
from rankwise.tracking.wandb_run import asked

SECTIONS = ("machine", "packages", "wandb", "cache", "launchers")  # of ``here``
PACKAGES = (*provenance.PACKAGES, "bitsandbytes", "torchao", "gguf")
TOLERATED = 0.2  # relative error of a product of a random matrix; fp4's is 0.12
FOUND_S = 2.0  # for counting the cache


def here() -> dict[str, Any]:
    """What is known without torch: machine, packages, W&B, cache, launchers."""
    probes = (_machine, lambda: {name: provenance.installed(name) for name in PACKAGES}, _wandb, _cache, _launchers)
    return {name: _safely(probe) for name, probe in zip(SECTIONS, probes, strict=True)}


def with_torch() -> dict[str, Any]:
    """Devices as torch sees them, and every storage of the base, tried on the device that a run would take."""
    return {"devices": _safely(_devices), "quantization": _safely(_quantization)}


def _safely(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception as error:  # a broken installation can fail in any way
        return {"problem": one_line(error)}


def _machine() -> dict[str, Any]:
    threads = os.environ.get("OMP_NUM_THREADS")
    return machine.hardware() | {
        "memory_available_bytes": machine.memory_bytes(),
        "python": platform.python_version(),
        "omp_num_threads": int(threads) if threads and threads.isdigit() else None,
    }


def _wandb() -> dict[str, Any]:
    """The mode that ``tracking.mode=auto`` comes to, and why not online; if a key is right, only the server knows."""
    try:
        why = why_offline()
    except Refused as refused:  # a key of the wrong form
        why = str(refused)
    return {"mode": "disabled" if why and asked("auto") == "disabled" else "offline" if why else "online", "why": why}


def _cache() -> dict[str, Any]:
    """Folder, whether it can be written, its packages and bytes; ``complete`` is False where counting took too long."""
    root, start, size, complete = assets.cache_dir(), time.monotonic(), 0, True
    for file in root.rglob("*"):
        with suppress(OSError):  # it went away meanwhile
            size += file.lstat().st_size if file.is_file() else 0
        if time.monotonic() - start > FOUND_S:
            complete = False
            break
    near = next(path for path in (root, *root.parents) if path.exists())
    return {"folder": str(root), "writable": os.access(near, os.W_OK), "bytes": size, "complete": complete}


def _launchers() -> dict[str, Any]:
    """Those of ``hydra/launcher``; how many runs the local one starts at once at most, null on GPUs: as they fit."""
    names = sorted(file.stem for file in (conf_dir() / "hydra" / "launcher").glob("*.yaml"))
    return {"names": names, "local_slots": None if machine.gpus() else machine.cores()}


def _devices() -> dict[str, Any]:
    import torch

    from rankwise.model.numerics import has_bf16

    devices: dict[str, Any] = {"cpu": {"bf16": has_bf16(torch.device("cpu")), "threads": torch.get_num_threads()}}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "bf16": has_bf16(torch.device("cuda", index)),
        }
    return devices


def _quantization() -> dict[str, dict[str, Any]]:
    files = sorted((conf_dir() / "quant").glob("*.yaml"))
    options = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    return {name: _storage(option.get("kind"), option.get("double")) for name, option in options.items()}


def _storage(kind: str | None, double: bool | None) -> dict[str, Any]:
    """``works``, on which ``device``, with what relative ``error`` of a product; or ``why`` not."""
    library = QUANT_LIBRARIES.get(kind or "")
    if library and find_spec(library) is None:
        return {"works": False, "why": f"needs {library}: pip install 'rankwise[quant]'"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _tried(kind, double)
    except Exception as error:  # what a library does on hardware that it does not know
        return {"works": False, "why": one_line(error)}


def _tried(kind: str | None, double: bool | None) -> dict[str, Any]:
    """One layer, evaluated and then trained through, as a run does."""
    import torch

    from rankwise.config import Config, Quant
    from rankwise.model.quantize import store

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    block = torch.nn.ModuleDict({"linear": torch.nn.Linear(64, 64, bias=False)})
    base = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])})
    weight = torch.randn(64, 64, generator=generator)
    block["linear"].get_parameter("weight").data.copy_(weight)
    x = torch.randn(8, 64, generator=generator)
    store(base, Config(quant=Quant(name=str(kind), kind=kind, double=double)), [], "fp32", device)
    layer = base.to(device).get_submodule("blocks.0.linear")
    inputs = x.to(device, layer.get_parameter("weight").dtype if kind == "bf16" else torch.float32)
    with torch.no_grad():
        exact, computed = x @ weight.T, layer.eval()(inputs).float().cpu()
    error = float((computed - exact).norm() / exact.norm())
    layer.train()(inputs.requires_grad_()).sum().backward()
    expected, gradient = weight.sum(0).expand(8, 64), inputs.grad
    if gradient is None or float((gradient.float().cpu() - expected).norm() / expected.norm()) > TOLERATED:
        return {"works": False, "why": "sends back no or wrong gradients"}
    if not error < TOLERATED or (kind and not error):
        return {"works": False, "why": f"a product is off by {error:.2g}"}
    return {"works": True, "device": device.type, "error": error}
