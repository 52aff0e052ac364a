"""How many parameters: trainable, frozen, adapter, head; by layer and by type."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator

from torch import nn

from rankwise.tracking.groups import Params

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.")
_PEFT = "base_model.model."
Owned = tuple[str, nn.Module, nn.Parameter]  # a parameter with its name and the module that holds it


def count(model: nn.Module, heads: list[str]) -> Params:
    """Parameters by kind, and each of ``by_layer`` and ``by_type`` as ``{group: {trainable, frozen}}``.

    Layers are the numbers of the blocks, with the stack in front where there are several ("encoder.0"), and the names
    of what is outside them ("embeddings", "classifier"), in the model's order. Types are names of module classes.
    A weight that several modules share counts once, where it is seen first; a quantized one as the values that it
    stands for. PEFT keeps an untrained copy of each module that it trains in full; the copies are not counted.
    """
    owned = list(_owned(model))
    layer = _layers([name for name, _, _ in owned], heads)
    by_type = _grouped(owned, _type)
    trainable, frozen = (sum(sums[kind] for sums in by_type.values()) for kind in ("trainable", "frozen"))
    head = sum(numel(p) for name, _, p in owned if p.requires_grad and _within(name, heads))
    return {
        "trainable": trainable,
        "frozen": frozen,
        "total": trainable + frozen,
        "adapter": trainable - head,
        "head": head,
        "by_layer": _grouped(owned, lambda name, _: layer(name)),
        "by_type": by_type,
    }


def numel(parameter: nn.Parameter) -> int:
    """Values that a parameter stands for; 4-bit storage keeps two of them in one uint8 element."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    if shape is not None:
        return math.prod(shape)
    return int(getattr(parameter, "logical_numel", None) or parameter.numel())


def _owned(model: nn.Module) -> Iterator[Owned]:
    """Each distinct parameter with its name and the module that holds it, module by module."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            full = f"{path}.{name}" if path else name
            if parameter is not None and id(parameter) not in seen and not is_copy(full):
                seen.add(id(parameter))
                yield full, module, parameter


def _grouped(owned: Iterable[Owned], group: Callable[[str, nn.Module], str]) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for name, module, parameter in owned:
        sums = groups.setdefault(group(name, module), {"trainable": 0, "frozen": 0})
        sums["trainable" if parameter.requires_grad else "frozen"] += numel(parameter)
    return groups


def _type(name: str, module: nn.Module) -> str:
    """LoRA for its factors; a subclass of Linear or Embedding, quantized ones among them, as its base."""
    if any(part.startswith("lora_") for part in name.split(".")):
        return "LoRA"
    base = next((kind for kind in (nn.Linear, nn.Embedding) if isinstance(module, kind)), type(module))
    return base.__name__


def _layers(names: list[str], heads: list[str]) -> Callable[[str], str]:
    """The function from a parameter's name to its layer, given all names of the model."""
    blocks = [match for name in names if not _within(name, heads) and (match := _BLOCK.match(_plain(name)))]
    paths = {match[1]: match[1].split(".") for match in blocks}  # of the stacks: bert.encoder.layer
    before = _shared(paths.values())
    distinct = [path[before:][::-1] for path in paths.values()]
    behind = _shared(distinct)
    # encoder and decoder of transformer.encoder.block and transformer.decoder.block; nothing where there is one stack
    label = {stack: ".".join(path[before : len(path) - behind]) for stack, path in paths.items()}
    ancestors = {tuple(path[:depth]) for path in paths.values() for depth in range(1, len(path))}

    def layer(name: str) -> str:
        plain = _plain(name)
        match = _BLOCK.match(plain)
        if match and match[1] in label:
            return f"{label[match[1]]}.{match[2]}".lstrip(".")
        parts = plain.split(".")
        depth = 0
        while depth < len(parts) - 1 and tuple(parts[: depth + 1]) in ancestors:
            depth += 1  # what only leads to the blocks says nothing
        return ".".join([*(parts[before:depth] if len(paths) > 1 else []), parts[depth]])

    return layer


def _shared(paths: Iterable[list[str]]) -> int:
    """How many leading parts all paths have in common."""
    return len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))


def _plain(name: str) -> str:
    return name.removeprefix(_PEFT)


def is_copy(name: str) -> bool:
    """Whether a parameter is of a module as it was, which PEFT keeps beside the one that is trained."""
    return "original_module" in name.split(".")


def _within(name: str, modules: list[str]) -> bool:
    return any(f".{module}." in f".{name}." for module in modules)
