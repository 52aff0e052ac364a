"""Storage of the frozen base: the linear layers of its blocks in few bits, the rest in floating point.

Layers are replaced one by one after the model is loaded, not by ``from_pretrained(quantization_config=…)``: that knows
neither random weights nor GGUF files, and it quantizes what it finds outside the blocks. A plan does the same with
stand-ins that need no library.
"""

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from rankwise.config import Config, Quant
from rankwise.errors import Refused
from rankwise.model import fused
from rankwise.model.base import head_names
from rankwise.model.methods.intrinsic import PLACES
from rankwise.model.numerics import LOW, Numerics
from rankwise.model.outputs import all_logits
from rankwise.model.targets import block_linears, experts, modules_named, shape
from rankwise.tracking.groups import Compute

BLOCK, OUTER_BLOCK = 64, 256  # values per quantization constant, and constants per second-level constant (QLoRA, §3)
OUTLIER = 6.0  # activations above this are multiplied in 16 bit (Dettmers et al. 2022, §3.2)
ERROR_BATCHES = 2  # of the validation rows
Dense = Callable[[torch.dtype], torch.Tensor]


def store(
    base: nn.Module,
    config: Config,
    heads: list[str],
    precision: str,
    device: torch.device | None = None,
    mapped: bool = False,
) -> None:
    """Put the frozen base in the storage that ``config.quant`` asks for, in place, layer by layer.

    Few bits are for the linear layers of the blocks. Everything else is kept in the type of ``precision``, but for the
    task head and ``modules_to_save``, which are trained and stay in fp32; a ``mapped`` base is left in the type of its
    file. On the meta device the layers become stand-ins of the same size.
    Raises Refused where a quantized layer would have to be trained.
    """
    quant = config.quant
    if quant.kind is None:
        return
    fused.split(base, config)
    low = torch.bfloat16 if quant.kind == "bf16" else LOW.get(precision)
    apart = [*heads, *modules_named(base, config.method.modules_to_save)]
    if quant.kind != "bf16":
        if odd := next(experts(base), None):
            allowed = f"none or bf16: {odd} and the like are no linear layers, of which alone few bits are made"
            raise Refused.value("quant", quant.name, allowed)
        kept = getattr(base, "_keep_in_fp32_modules", None) or ()  # as T5's wo, which its code asks for a type
        names = [name for name, _ in block_linears(base) if name.split(".")[0] not in heads]
        names = [name for name in names if not any(f".{part}." in f".{name}." for part in kept)]
        for extra in config.method.modules_to_save or []:
            if any(f".{extra}." in f".{name}." for name in names):
                allowed = f"a module without quantized layers under quant={quant.name}, or null"
                raise Refused.value("method.modules_to_save", extra, allowed)
        for name in names:  # by name: a list of the layers would keep all dense weights to the end
            _replace(base, name, quant, low or torch.float32, device)
        if quant.kind != "int8_torchao":  # by this PEFT knows layers of bitsandbytes
            setattr(base, "is_loaded_in_8bit" if quant.kind == "int8" else "is_loaded_in_4bit", True)
    if low is not None:
        if not mapped:
            cast_base(base, apart, low)
        for name in apart:
            _bridge(base.get_submodule(name), low, is_head=name in heads)


def quantize(
    base: nn.Module,
    config: Config,
    numerics: Numerics,
    batches: Iterable[dict[str, torch.Tensor]],
    mapped: bool = False,
) -> Compute:
    """``store`` a loaded base and move it to the run's device; returns what that did to it, for the record.

    ``quant_error`` is the relative error of the logits, ‖q − exact‖ / ‖exact‖ over a few batches: ``exact`` in fp32
    before, q after as the run will compute, so in its precision; of a causal LM at learned tokens.
    ``quant_error_rows`` is how many rows that were.
    Of a ``mapped`` base neither is known: the whole of it would have to be read.
    """
    if config.quant.kind is None:
        return {}
    device, precision, heads = numerics.device, numerics.precision, head_names(base)
    if mapped:
        store(base, config, heads, precision, device, mapped)
        return {}
    few = list(islice(batches, ERROR_BATCHES))
    roomy = device if _has_room(base, device) else torch.device("cpu")
    exact = all_logits(base, few, replace(numerics, device=roomy, precision="fp32"))
    store(base, config, heads, precision, device)
    held = all_logits(base, few, numerics)
    error = float(torch.linalg.vector_norm(held - exact) / torch.linalg.vector_norm(exact))
    return {"quant_error": error, "quant_error_rows": sum(len(batch["input_ids"]) for batch in few)}


def cast_base(base: nn.Module, apart: list[str], dtype: torch.dtype) -> None:
    """Store the parameters of all but the modules ``apart`` in ``dtype``.

    Buffers keep their type, as when transformers loads a model in 16 bit: rotary frequencies would lose digits.
    """
    trained = {id(p) for name in apart for p in base.get_submodule(name).parameters()}
    for parameter in base.parameters():
        if id(parameter) not in trained and is_dense(parameter):
            parameter.data = parameter.data.to(dtype)


def hold_as_multiplied(model: nn.Module, precision: str) -> None:
    """Keep frozen weights of linear layers in the type in which autocast multiplies them, in place.

    The products are the same to the bit, the weights take half the bytes, and no step makes copies of them. A weight
    that is an embedding, too, or that a subspace moves, stays as it is. What is left is copied, so that the file
    that it was mapped from goes.
    """
    if precision not in ("bf16", "fp16"):
        return
    linear = {m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and f"weight{PLACES}" not in m._buffers}
    inside = {p for module in linear for p in module.parameters(recurse=False)}
    outside = {p for module in model.modules() if module not in linear for p in module.parameters(recurse=False)}
    for parameter in model.parameters():
        if is_dense(parameter) and parameter.dtype == torch.float32 and not parameter.requires_grad:
            multiplied = parameter in inside and parameter not in outside
            parameter.data = parameter.data.to(LOW[precision]) if multiplied else parameter.data.clone()


def is_dense(parameter: nn.Parameter) -> bool:
    """Whether it is floating point numbers of its own, neither quantized nor in parts."""
    return parameter.is_floating_point() and not is_traceable_wrapper_subclass(parameter)


def dequantize(base: nn.Module) -> None:
    """Turn quantized layers back into dense ones, in place and in fp32, with the values that they stood for.

    An adapter must be merged into these and not into the quantized layers, which would round it away.
    """
    for name, layer in list(block_linears(base)):
        if is_dense(layer.get_parameter("weight")):
            continue
        weight = _values(layer)
        with torch.device("meta"):
            dense = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None)
        dense.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            dense.bias = nn.Parameter(layer.get_parameter("bias").data.float(), requires_grad=False)
        base.set_submodule(name, dense)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
        base.__dict__.pop(mark, None)


class PlannedLinear(nn.Linear):
    """What a quantized linear layer holds and allocates, for plans: no kernel, no library, right bytes.

    4-bit storage keeps two values per byte and one fp32 constant per 64 values; double quantization keeps that constant
    in 8 bits and one fp32 per 256 of them (Dettmers et al. 2023, §3). 8-bit storage keeps one fp32 constant per row.
    The dense weight is made for each product and dropped, in forward and in backward.
    """

    def __init__(self, linear: nn.Module, quant: Quant, compute: torch.dtype | None = None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = shape(linear)
        numel = self.in_features * self.out_features
        self.compute = None if str(quant.kind).startswith("int8") else compute
        self.keeps_input = quant.kind == "int8"  # as bitsandbytes does, although no gradient needs it
        device = linear.get_parameter("weight").device
        constants = -(-numel // BLOCK)
        sizes: dict[str, tuple[int, torch.dtype]]
        if str(quant.kind).startswith("int8"):
            stored = torch.empty(self.out_features, self.in_features, dtype=torch.int8, device=device)
            sizes = {"scales": (self.out_features, torch.float32)}
            if quant.kind == "int8_torchao":
                sizes["zero_points"] = (self.out_features, torch.int8)
        else:
            stored = torch.empty((numel + 1) // 2, 1, dtype=torch.uint8, device=device)
            sizes = {"code": (16, torch.float32), "absmax": (constants, torch.float32)}
            if quant.double:
                outer = -(-constants // OUTER_BLOCK)
                sizes |= {"absmax": (constants, torch.uint8), "outer": (outer, torch.float32)}
                sizes |= {"outer_code": (256, torch.float32), "offset": (1, torch.float32)}
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.weight.logical_numel = numel  # type: ignore[attr-defined]
        for name, (count, dtype) in sizes.items():
            self.register_buffer(name, torch.empty(count, dtype=dtype, device=device))
        bias = getattr(linear, "bias", None)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @property
    def W_q(self) -> torch.Tensor:  # noqa: N802
        """By this name, which is HQQ's, PEFT knows that it must ask for the dense weight."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """A dense weight for methods that read it, such as DoRA."""
        return self._dense(self.compute or torch.float32)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product of the right shape and type; its values mean nothing."""
        computed = input.to(self.compute or input.dtype)
        return _product(computed, self.bias, self._dense, self.keeps_input).to(input.dtype)

    def _dense(self, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.new_empty(self.out_features, self.in_features, dtype=dtype)


class Int8Linear(nn.Linear):
    """torchao's int8 weight with one scale per row, computed with as floating point.

    torchao's own product leaves the dense weight to autograd, which keeps it until the backward pass: a whole model in
    floating point beside the quantized one. Here it is made anew.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """x·Wᵀ + b in the input's type."""
        return _product(input, self.bias, self._dense, False)

    def _dense(self, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.qdata.to(dtype).mul_(self.weight.scale)  # type: ignore[attr-defined]


def _product(input: torch.Tensor, bias: torch.Tensor | None, dense: Dense, keep: bool) -> torch.Tensor:
    """x·Wᵀ + b. The function sees a matrix: AdaLoRA changes the output in place, which no view from inside allows."""
    result: torch.Tensor = _Product.apply(input.reshape(-1, input.shape[-1]), bias, dense, keep)
    return result.view(*input.shape[:-1], result.shape[-1])


class _Product(torch.autograd.Function):
    """x·Wᵀ + b with W made anew in forward and in backward, so that only its quantized form is kept; b is frozen."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, bias: torch.Tensor | None, dense: Dense, keep: bool) -> torch.Tensor:
        ctx.dense, ctx.dtype, ctx.kept = dense, input.dtype, input if keep else None
        return nn.functional.linear(input, dense(input.dtype), None if bias is None else bias.to(input.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient.to(ctx.dtype) @ ctx.dense(ctx.dtype), None, None, None


def _replace(base: nn.Module, name: str, quant: Quant, compute: torch.dtype, device: torch.device | None) -> None:
    linear = base.get_submodule(name)
    weight = linear.get_parameter("weight").detach()
    if weight.is_meta:
        base.set_submodule(name, PlannedLinear(linear, quant, compute))
        return
    weight = (weight.T if isinstance(linear, Conv1D) else weight).to(device).contiguous()
    make = _torchao if quant.kind == "int8_torchao" else _bitsandbytes
    layer = make(weight, getattr(linear, "bias", None), quant, compute)
    layer.requires_grad_(False)
    base.set_submodule(name, layer.train(linear.training))


def _bitsandbytes(weight: torch.Tensor, bias: nn.Parameter | None, quant: Quant, compute: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    d_out, d_in = weight.shape
    layer: Any
    with torch.device("meta"):
        if quant.kind == "int8":
            layer = _movable()(d_in, d_out, bias is not None, has_fp16_weights=False, threshold=OUTLIER)
        else:
            layer = bnb.nn.Linear4bit(d_in, d_out, bias is not None, compute)
    if quant.kind == "int8":
        layer.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False).to(weight.device)  # from a CPU only
    else:
        held = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=bool(quant.double), quant_type=quant.kind, module=layer
        )
        layer.weight = held.to(weight.device)
        layer.weight.quant_state.dtype = compute  # what the backward pass makes of it
        # With it, the first pass without gradients packs the weights anew in place, for a kernel of inference only:
        # from then on nothing behind the layer gets a gradient, and no error says so (bitsandbytes issue 2078).
        layer.support_avx512bf16_for_cpu = False
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(weight.device), requires_grad=False)
    return layer


@functools.cache
def _movable() -> type[nn.Module]:
    """bitsandbytes' 8-bit layer with its scales kept together with its weight, which others take apart."""
    import bitsandbytes as bnb

    class Linear8bit(bnb.nn.Linear8bitLt):
        def init_8bit_state(self) -> None:
            if self.weight.SCB is not None:
                return super().init_8bit_state()
            self.weight.CB = None  # DoRA has put a new weight here; the state has the scales since the first pass

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            super()._apply(fn, recurse)  # a model's ``to`` calls this and not the layer's ``to``, which would do it
            for holder in (self.weight, self.state):  # before and after the first forward pass
                if getattr(holder, "SCB", None) is not None:
                    holder.CB, holder.SCB = self.weight.data, holder.SCB.to(self.weight.device)
            return self

    return Linear8bit


def _torchao(weight: torch.Tensor, bias: nn.Parameter | None, quant: Quant, compute: torch.dtype) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # How PEFT would merge in place, which rounds the adapter away.
    warnings.filterwarnings("ignore", ".*instantiated without `get_apply_tensor_subclass`.*")
    with torch.device("meta"):
        layer = Int8Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(weight.device), requires_grad=False)
    quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))
    return layer


def _values(layer: Any) -> torch.Tensor:
    """The dense fp32 weight (out, in) that a quantized layer stands for."""
    if isinstance(layer, Int8Linear):
        return layer._dense(torch.float32)
    import bitsandbytes as bnb

    if isinstance(layer, bnb.nn.Linear4bit):
        values: torch.Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return values.float()
    scale = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return layer.weight.data.float() * (scale / 127).unsqueeze(1)


def _bridge(module: nn.Module, low: torch.dtype, is_head: bool) -> None:
    """Let an fp32 module work on what a base in 16 bit gives it, which autocast does for products; and give it back."""

    def cast(value: Any, dtype: torch.dtype) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        device = next(module.parameters()).device.type
        casts = not torch.is_autocast_enabled("cpu" if device == "meta" else device)  # a plan computes on neither
        return tuple(cast(value, torch.float32) if casts else value for value in arguments)

    module.register_forward_pre_hook(enter)
    if not is_head:
        module.register_forward_hook(lambda _, arguments, output: cast(output, low))


def _has_room(base: nn.Module, device: torch.device) -> bool:
    """Whether the unquantized model, with a fifth for its activations, fits beside what the device holds."""
    if device.type != "cuda":
        return True
    return 1.2 * sum(p.numel() * p.element_size() for p in base.parameters()) < torch.cuda.mem_get_info(device)[0]
