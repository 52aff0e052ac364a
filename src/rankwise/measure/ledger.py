"""Bytes of live tensors by what holds them, at every moment of a real or a fake step."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from rankwise import machine
from rankwise.tracking.groups import PARTS


@dataclass(frozen=True)
class Footprint:
    """Bytes of each part at the moment when their sum was largest, and the most that each part held at any moment.

    The parts' own peaks happen at different moments, so they sum to more than the peak. ``activations`` are tensors
    saved for the backward pass, ``other`` is what none of the four names: temporaries, the batch, what checkpointing
    computes a second time.
    """

    by_phase: dict[str, dict[str, int]]  # parts at the largest sum within forward, backward and step
    peaks: dict[str, int]

    @property
    def phases(self) -> dict[str, int]:
        """The largest sum within each."""
        return {phase: sum(parts.values()) for phase, parts in self.by_phase.items()}

    @property
    def phase(self) -> str:
        """Where the sum was largest."""
        return max(self.phases, key=self.phases.__getitem__)

    @property
    def parts(self) -> dict[str, int]:
        """They sum to ``peak``."""
        return self.by_phase[self.phase]

    @property
    def peak(self) -> int:
        """The largest sum, in bytes."""
        return sum(self.parts.values())

    def beside(self, size: int) -> "Footprint":
        """The same with ``size`` bytes of something else there throughout."""
        with_it = [held | {"other": held["other"] + size} for held in (*self.by_phase.values(), self.peaks)]
        return Footprint(dict(zip(self.by_phase, with_it, strict=False)), with_it[-1])

    def shared_out(self, devices: int, frozen: int, lent: int) -> "Footprint":
        """The same where ``frozen`` bytes of weights are in as many parts as devices, each of which borrows ``lent``
        bytes of them while it computes.
        """
        less = frozen - frozen // devices

        def on_one(held: dict[str, int], borrowed: int) -> dict[str, int]:
            return held | {"weights": held["weights"] - less, "other": held["other"] + borrowed}

        by_phase = {phase: on_one(held, lent * (phase != "step")) for phase, held in self.by_phase.items()}
        return Footprint(by_phase, on_one(self.peaks, lent))

    def to_dict(self) -> dict[str, Any]:
        """For the record: ``{part}_bytes`` and ``peak_bytes`` at the peak, its ``phase``; ``phases`` and ``peaks``."""
        held = {f"{part}_bytes": size for part, size in self.parts.items()}
        own = {f"{part}_bytes": size for part, size in self.peaks.items()}
        return held | {"peak_bytes": self.peak, "phase": self.phase, "phases": self.phases, "peaks": own}


@dataclass
class _Held:
    """One storage that is alive."""

    alive: weakref.ref[Any]
    part: str
    size: int


class Ledger(TorchDispatchMode):
    """While entered, follows every storage from the operation that makes it until it is freed.

    A storage counts once, however many tensors view it, and whole, even where a view needs a part of it. It belongs to
    one part at a time: "other" when it appears, relabelled when autograd saves it, or when it turns out to be a
    gradient or a state of the optimizer. Weights stay weights although autograd saves them too.

    Enter it when the optimizer has its states already (the second step or later), else these count as "other" until
    the step ends. What was alive before and is not the model's or the optimizer's is not seen unless ``hold`` says so;
    nor is the workspace that a kernel allocates without an operation of its own, nor a saved random state.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None):
        super().__init__()
        self.model, self.optimizer, self.phase = model, optimizer, "forward"
        self._held: dict[int, _Held] = {}
        self._now = dict.fromkeys(PARTS, 0)
        self._sum, self._peaks = 0, dict.fromkeys(PARTS, 0)
        self._most, self._at_peak = dict[str, int](), dict[str, dict[str, int]]()  # by phase
        for tensor in [*model.parameters(), *model.buffers(), *quant_states(model)]:
            self._label(tensor, "weights")

    def __enter__(self) -> "Ledger":
        self._undo = contextlib.ExitStack()
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # a hook on a frozen one would be an error
                if parameter.grad is not None:
                    self._label(parameter.grad, "gradients")
                hook = parameter.register_post_accumulate_grad_hook(lambda p: self._label(p.grad, "gradients"))
                self._undo.callback(hook.remove)
        if self.optimizer is not None:
            self._states(self.optimizer)
            self._undo.callback(self.optimizer.register_step_post_hook(self._states).remove)
        self._undo.enter_context(saved_tensors_hooks(self._save, lambda tensor: tensor))
        self._undo.enter_context(_resizes_told(self._resized))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._undo.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that were there before, such as the batch."""
        for tensor in tensors:
            self._see(tensor)

    def footprint(self) -> Footprint:
        """What has been seen so far."""
        return Footprint(dict(self._at_peak), dict(self._peaks))

    def _see(self, tensor: torch.Tensor, part: str = "other") -> None:
        for storage in _storages(tensor):
            if storage._cdata not in self._held:
                freed = self._freed(storage._cdata)
                self._held[storage._cdata] = _Held(weakref.ref(storage, freed), part, 0)
            self._resized(storage)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        held, size = self._held.get(storage._cdata), storage.nbytes()
        if held and held.size != size:
            self._add(held.part, size - held.size)
            held.size = size

    def _label(self, tensor: torch.Tensor, part: str) -> None:
        self._see(tensor, part)
        for storage in _storages(tensor):
            held = self._held[storage._cdata]
            if held.part != part and held.part != "weights":
                self._now[held.part] -= held.size
                held.part = part
                self._now[part] += held.size
                self._peaks[part] = max(self._peaks[part], self._now[part])
                if self._sum == self._most.get(self.phase):
                    self._at_peak[self.phase] = dict(self._now)

    def _add(self, part: str, size: int) -> None:
        self._now[part] += size
        self._sum += size
        self._peaks[part] = max(self._peaks[part], self._now[part])
        if self._sum > self._most.get(self.phase, 0):
            self._most[self.phase], self._at_peak[self.phase] = self._sum, dict(self._now)

    def _freed(self, key: int) -> Any:
        ledger = weakref.ref(self)  # storages outlive the ledger and must not keep it

        def free(_: Any) -> None:
            if (mine := ledger()) is not None and (held := mine._held.pop(key, None)):
                mine._add(held.part, -held.size)

        return free

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        for storage in _storages(tensor):
            held = self._held.get(storage._cdata)
            if held is None or held.part == "other":
                self._label(tensor, "activations")
        return tensor

    def _states(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    self._label(value, "optimizer")


@contextlib.contextmanager
def _resizes_told(on_resize: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Within, ``told`` hears of every storage whose size is changed without an operation, as FSDP lends weights."""
    resize = torch.UntypedStorage.resize_

    def resized(storage: torch.UntypedStorage, size: int) -> Any:
        result = resize(storage, size)
        on_resize(storage)
        return result

    torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]


def reset_peak(device: torch.device) -> None:
    """Let the peak begin here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.reset_peak_rss()


def system_peak(device: torch.device) -> dict[str, int]:
    """Bytes since ``reset_peak``.

    On a GPU ``allocated_peak_bytes`` of tensors and ``reserved_peak_bytes`` that the allocator took for them; on a CPU
    ``process_peak_bytes``, resident, which holds the interpreter, its libraries and what malloc has not given back.
    """
    if device.type == "cuda":
        return {
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_peak_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"process_peak_bytes": machine.peak_rss_bytes()}


def held_bytes(model: nn.Module, parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of ``parameters`` as they are stored, each storage once, and of the constants beside quantized ones."""
    tensors = [*parameters, *quant_states(model)]
    return sum({storage._cdata: storage.nbytes() for tensor in tensors for storage in _storages(tensor)}.values())


def bucket_bytes(model: nn.Module, devices: int) -> int:
    """What data parallel training keeps on each of several devices throughout: a second copy of all gradients."""
    return sum(p.nbytes for p in model.parameters() if p.requires_grad) if devices > 1 else 0


def quant_states(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that bitsandbytes keeps beside a quantized weight, neither parameters nor buffers."""
    # The scales of 8 bits move from the weight to the layer's state in the first forward pass.
    holders = [*model.parameters(), *(getattr(module, "state", None) for module in model.modules())]
    for holder in holders:
        pending = [getattr(holder, name, None) for name in ("quant_state", "CB", "SCB")]
        while pending:
            value = pending.pop()
            if isinstance(value, torch.Tensor):
                yield value
            elif value is not None:
                pending += [getattr(value, name, None) for name in ("absmax", "code", "offset", "state2")]


def _storages(tensor: torch.Tensor) -> Iterator[torch.UntypedStorage]:
    if is_traceable_wrapper_subclass(tensor):  # keeps its data in other tensors
        names, _ = tensor.__tensor_flatten__()
        for inner in (getattr(tensor, name) for name in names):
            if isinstance(inner, torch.Tensor):  # a part of one that is shared out names its devices too
                yield from _storages(inner)
    elif tensor.layout == torch.strided:
        yield tensor.untyped_storage()
