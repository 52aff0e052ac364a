"""Bottleneck adapters: a small network with a skip connection behind a sublayer's last product.

h ── linear ──┬───────────────────────────── + ── dropout, residual, norm: as before
              └── down d→m ── GELU ── up m→d ┘
"""

import math

import torch
from torch import nn

from rankwise.errors import Refused
from rankwise.methods import Method
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.targets import block_linears, is_last_of_mlp, role, shape


class Bottleneck(nn.Module):
    """x + up(GELU(down(x))) (Houlsby et al. 2019, §2.1). ``up`` starts at zero, theirs near it: the identity, exactly.

    Layer norms stay frozen, so that it costs 2·d·m + m + d parameters (Hu et al. 2021, §5.1, L_LN = 0).
    """

    def __init__(self, width: int, size: int, device: torch.device, seed: int):
        super().__init__()
        self.down = nn.Linear(width, size, device=device)
        self.up = nn.Linear(size, width, device=device)
        if device.type == "meta":
            return
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = torch.empty(self.down.weight.shape)
            self.down.weight.copy_(nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """In the type of the adapter's weights, back in that of ``x``."""
        inner = nn.functional.gelu(self.down(x.to(self.down.weight.dtype)))
        return x + self.up(inner).to(x.dtype)


def insert(base: nn.Module, method: Method, seed: int) -> None:
    """Put a trainable bottleneck behind the last linear layer of each MLP, and of each attention with place=both.

    The layers keep their names and weights: the bottleneck is their child and a hook calls it.
    Raises Refused where the base has no such layers.
    """
    roles = {"mlp": is_last_of_mlp} | ({} if method.place == "mlp" else {"attention": lambda name: role(name) == "o"})
    linears = dict(block_linears(base))
    for layer, fits in roles.items():
        chosen = [name for name in linears if fits(name)]
        if not chosen:
            raise Refused.value("method.name", "bottleneck", f"a model whose {layer} output layers are known by name")
        for name in chosen:
            linear, size = linears[name], int(method.size or 0)
            _, width = shape(linear)
            device = next(linear.parameters()).device
            linear.register_module("bottleneck", Bottleneck(width, size, device, derived_seed(seed, name, size)))
            linear.register_forward_hook(lambda module, args, output: module.bottleneck(output))
