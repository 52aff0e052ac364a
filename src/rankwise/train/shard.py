"""The frozen base in as many parts as a run has devices (FSDP2): each holds one and borrows the others block by block.

What is trained stays whole on every device and is averaged as under plain data parallel training, so its optimizer,
checkpoints and files are the same. Zhao et al. 2023, "PyTorch FSDP"; ``torch.distributed.fsdp.fully_shard``.
"""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rankwise.config import Trainer
from rankwise.measure.parameters import is_copy
from rankwise.model.quantize import hold_as_multiplied, is_dense


def is_sharded(trainer: Trainer) -> bool:
    """Whether the base of a run is shared out."""
    return trainer.strategy == "fsdp2" and trainer.devices > 1


def shard(model: nn.Module, ranks: int, device: torch.device, stored: torch.dtype, precision: str) -> None:
    """Leave of every frozen weight of ``model`` this rank's part out of ``ranks``, on ``device``, in type ``stored``.

    One block at a time is read from the file, cast and sent there: the whole base is never in one process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (ranks,))
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):  # LoRA-FA's A is not trained
            whole |= {p for name in layer.adapter_layer_names for p in getattr(layer, name).parameters()}
    as_is = whole | {parameter for name, parameter in model.named_parameters() if is_copy(name)}
    for module in [*blocks(model), model]:
        for parameter in module.parameters():
            if parameter not in as_is and is_dense(parameter):
                parameter.data = parameter.data.to(stored)
        hold_as_multiplied(module, precision)
        fully_shard(module, mesh=mesh, ignored_params=whole)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers that hold most of a model: the members of its outermost lists of modules."""
    lists: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists.append(name)
    return [block for name in lists for block in model.get_submodule(name).children()]


def leave_frozen(tuner: nn.Module) -> None:
    """Keep data parallel training, which sends every weight to all ranks at its start, from those that are in parts."""
    frozen = [name for name, parameter in tuner.named_parameters() if not parameter.requires_grad]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(tuner, frozen)


def frozen_and_lent(model: nn.Module) -> tuple[int, int]:
    """Bytes of all frozen weights, and of those that a device borrows at most: what is in no block throughout, a block
    while the one before is still there and the next is on its way.
    """
    sizes, every = [_frozen_bytes(block) for block in blocks(model)], _frozen_bytes(model)
    return every, every - sum(sizes) + 3 * max(sizes, default=0)


def _frozen_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad)
