"""FLOPs of a training step: counted, and in closed form for any batch from one forward pass.

A multiplication and an addition are two operations. Only matrix products count, as in torch's counter; causal and
padded scores count in full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from rankwise.measure.counting import counter
from rankwise.measure.shape import Shape
from rankwise.model.methods.bottleneck import Bottleneck
from rankwise.model.methods.intrinsic import is_moved
from rankwise.model.targets import role, shape

aten = torch.ops.aten
_LINEAR_OPS = (aten.mm, aten.addmm, aten._scaled_mm)
_CLOSE_LINEAR, _CLOSE_ATTENTION = 0.005, 0.02  # rotary embeddings are a small product beside the scores


def linear_share(rho: float) -> float:
    """FLOPs of training with LoRA as a share of full fine-tuning's, linear layers only: (2 + 3ρ) / 3.

    ρ = Σ r·(d_in + d_out) / Σ d_in·d_out. A layer costs full fine-tuning three equal products: forward, gradient of the
    input, gradient of the weight. LoRA leaves out the third and adds all three for its factors, which are ρ times as
    large. The 2/3 for small ranks: Schulman et al. 2025, "LoRA Without Regret" (Thinking Machines Lab).
    """
    return (2 + 3 * rho) / 3


def mfu(flops: float, seconds: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilisation, 0–1: achieved over peak FLOP/s (Chowdhery et al. 2022, appendix B).

    ``flops`` are those that the model needs: ``Cost.model``, not what checkpointing computes again.
    """
    return flops / (seconds * peak_flops_per_s)


@dataclass(frozen=True)
class Cost:
    """FLOPs of one step on one batch."""

    forward: int
    backward: int
    recompute: int = 0  # of the forward, by gradient checkpointing

    @property
    def model(self) -> int:
        """Forward and backward, without what is computed twice."""
        return self.forward + self.backward

    @property
    def total(self) -> int:
        """All that is computed."""
        return self.model + self.recompute

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)


@dataclass(frozen=True)
class Linear:
    """One call of a linear layer."""

    d_in: int
    d_out: int
    per: str  # token | label (a causal LM's output layer) | row (poolers and heads of encoders)
    trained: bool
    input_grad: bool  # the input requires a gradient
    rank: int | None = None  # of the adapter that this is a factor of
    added: bool = False  # by a method; full fine-tuning has no such layer
    recomputed: bool = False  # a second time in the backward pass
    recomputed_full: bool = False  # the same in full fine-tuning

    def cost(self, shape: Shape) -> Cost:
        """x·W forward; ∂L/∂x where the input needs it and ∂L/∂W where the weight is trained, each as much."""
        vectors = {"token": shape.tokens, "label": shape.logits, "row": shape.rows}[self.per]
        product = 2 * vectors * self.d_in * self.d_out
        return Cost(product, product * (self.input_grad + self.trained), product * self.recomputed)


@dataclass(frozen=True)
class Attention:
    """One softmax(QKᵀ)V over all pairs of tokens; widths are heads × width of a head, after keys are shared out."""

    width_qk: int
    width_v: int
    q_grad: bool
    k_grad: bool
    v_grad: bool
    fused: bool  # one kernel, whose backward makes the scores anew and every gradient (Dao et al. 2022)
    recomputed: bool = False

    def cost(self, shape: Shape) -> Cost:
        """QKᵀ and PV forward; of dV, dP, dQ and dK those that are needed."""
        pairs = 2 * shape.rows * shape.length**2
        qk, pv = pairs * self.width_qk, pairs * self.width_v
        scores_grad = self.q_grad or self.k_grad
        if self.fused:
            backward = (3 * qk + 2 * pv) * (scores_grad or self.v_grad)
        else:
            backward = qk * (self.q_grad + self.k_grad) + pv * (scores_grad + self.v_grad)
        return Cost(qk + pv, backward, (qk + pv) * self.recomputed)


@dataclass(frozen=True)
class ClosedForm:
    """The products of one training step of a model as it was watched: what is trained, adapted and checkpointed."""

    linears: tuple[Linear, ...]
    attentions: tuple[Attention, ...]

    def cost(self, shape: Shape) -> Cost:
        """One step on a batch of this shape."""
        return _summed([*self.linears, *self.attentions], shape)

    def full(self, shape: Shape) -> Cost:
        """The same for full fine-tuning of the same base: without adapters, everything trained."""
        linears = [
            replace(linear, trained=True, input_grad=True, recomputed=linear.recomputed_full)
            for linear in self.linears
            if not linear.added
        ]
        attentions = [replace(each, q_grad=True, k_grad=True, v_grad=True) for each in self.attentions]
        return _summed([*linears, *attentions], shape)

    def per_rank(self, shape: Shape) -> int:
        """What one more rank in every adapter adds to the total. The total is affine in the rank."""
        return sum(each.cost(shape).total // each.rank for each in self.linears if each.rank)

    def break_even_rank(self, shape: Shape) -> float | None:
        """The rank, the same in every adapter, above which a step costs more than full fine-tuning's; None without
        adapters.
        """
        slope = self.per_rank(shape)
        if not slope:
            return None
        bare = _summed([*(each for each in self.linears if not each.rank), *self.attentions], shape)
        return (self.full(shape).total - bare.total) / slope


def _summed(parts: list[Linear | Attention], shape: Shape) -> Cost:
    return sum((part.cost(shape) for part in parts), Cost(0, 0))


@dataclass
class Watched:
    """What came of a watch, once it is over: a closed form, or why there is none."""

    closed_form: ClosedForm | None = None
    uncovered: str | None = "no forward pass was watched"


@contextlib.contextmanager
def watch(model: nn.Module, labelled: int | None = None) -> Iterator[Watched]:
    """Learn the closed form from the one forward pass, in train mode and with gradients, that is run within.

    ``labelled`` is the number of tokens that a causal LM's output layer is given, where it is not given all.

    The model may be real, fake or on the meta device; the batch needs two tokens or more per example. What the forward
    pass computes is counted too, and where the closed form differs, ``uncovered`` says how and there is none. Blocks
    that are set to be checkpointed (not reentrant) run without it meanwhile, to see what they save, and their
    recomputation is part of the form. Hooks on saved tensors that are active outside see nothing meanwhile. Layers
    whose output the loss leaves unused count as if it did not.
    """
    watched = Watched()
    eyes = _Eyes(model, labelled)
    with eyes.open(), counter() as counted:
        yield watched
    if eyes.batch is not None:
        by_op = counted.get_flop_counts().get("Global", {})
        watched.closed_form, watched.uncovered = _learnt(eyes, by_op)


@dataclass
class _Call:
    linear: Linear
    opaque: bool  # its weight is stored as integers, so its product may be a kernel that nothing counts


@dataclass
class _Projection:
    role: str
    d_in: int
    d_out: int
    per: str
    grad: bool  # of the output, adapter included
    recomputed: bool = False


@dataclass
class _Eyes:
    """Hooks on a model and what they saw."""

    model: nn.Module
    labelled: int | None = None
    batch: Shape | None = None
    calls: list[_Call] = field(default_factory=list)
    projections: list[_Projection] = field(default_factory=list)
    problem: str | None = None

    def __post_init__(self) -> None:
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        layer = getattr(base, "get_output_embeddings", lambda: None)()
        inside = set() if layer is None else set(layer.modules())
        self._outputs = {name for name, module in self.model.named_modules() if module in inside}
        bottlenecks = [module for module in self.model.modules() if isinstance(module, Bottleneck)]
        self._bottlenecks = {id(child) for module in bottlenecks for child in module.children()}
        self._saved = {"call": False, "base": False}  # something, since the last linear call or layer of the base

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            hook = self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
            undo.callback(hook.remove)
            for name, module in self.model.named_modules():
                plain = name.removesuffix(".base_layer")
                if isinstance(module, GradientCheckpointingLayer):
                    undo.callback(module.register_forward_pre_hook(self._enter).remove)
                    checkpointed = module.gradient_checkpointing and module.training
                    if checkpointed:
                        self._suspend(module, undo)
                    undo.callback(module.register_forward_hook(partial(self._leave, checkpointed)).remove)
                elif _is_linear(module):
                    undo.callback(module.register_forward_hook(partial(self._call, name)).remove)
                    if plain == name and not self._is_added(name, module):
                        undo.callback(module.register_forward_hook(partial(self._project, name)).remove)
                elif isinstance(module, BaseTunerLayer):
                    undo.callback(module.register_forward_hook(partial(self._project, name)).remove)
            undo.enter_context(saved_tensors_hooks(self._save, lambda tensor: tensor))
            yield

    def _suspend(self, block: GradientCheckpointingLayer, undo: contextlib.ExitStack) -> None:
        if getattr(block._gradient_checkpointing_func, "keywords", {}).get("use_reentrant") is not False:
            self.problem = "reentrant checkpointing"
        block.gradient_checkpointing = False
        undo.callback(setattr, block, "gradient_checkpointing", True)

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        tensors = [kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args]
        first = next((t for t in tensors if isinstance(t, torch.Tensor) and t.ndim > 1), None)
        if first is None or first.shape[1] < 2 or not torch.is_grad_enabled():
            self.problem = "the batch is not (rows, two tokens or more), or gradients are off"
        elif self.batch is not None:
            self.problem = "more than one forward pass"
        rows, length = (0, 0) if first is None else first.shape[:2]
        self.batch = Shape(rows, length, labelled=self.labelled)

    def _enter(self, block: Any, args: Any) -> None:
        self._first_call, self._first_projection = len(self.calls), len(self.projections)

    def _leave(self, checkpointed: bool, block: Any, args: Any, output: Any) -> None:
        if not checkpointed or not _requires_grad(output):
            return
        mine = self.calls[self._first_call :]
        for call in mine:
            call.linear = replace(call.linear, recomputed=True, recomputed_full=not call.linear.added)
        # torch stops the recomputation as soon as everything saved is there again. A product saves its inputs before
        # it runs, so the last one is not computed where nothing is saved behind it, as in Llama's blocks.
        if mine and not self._saved["call"]:
            mine[-1].linear = replace(mine[-1].linear, recomputed=False)
        base = [call for call in mine if not call.linear.added]
        if base and not self._saved["base"]:
            base[-1].linear = replace(base[-1].linear, recomputed_full=False)
        for projection in self.projections[self._first_projection :]:
            projection.recomputed = True

    def _call(self, name: str, module: Any, args: Any, output: torch.Tensor) -> None:
        d_in, d_out = _sides(module)
        weight = getattr(module, "weight", None)
        weight = weight if isinstance(weight, torch.Tensor) else None
        linear = Linear(
            d_in, d_out, self._per(args[0], d_in, name),
            trained=weight is not None and (weight.requires_grad or is_moved(module)),
            input_grad=args[0].requires_grad,
            rank=None if not _is_factor(name) else d_out if "lora_A" in name.split(".") else d_in,
            added=self._is_added(name, module),
        )  # fmt: skip
        self.calls.append(_Call(linear, weight is None or not weight.is_floating_point()))
        self._saved["call"] = False

    def _is_added(self, name: str, module: nn.Module) -> bool:
        return _is_factor(name) or id(module) in self._bottlenecks

    def _project(self, name: str, module: Any, args: Any, output: Any) -> None:
        self._saved["base"] = False
        found = role(name)
        if found in ("q", "k", "v", "qkv", "o") and isinstance(output, torch.Tensor):
            d_in, d_out = args[0].shape[-1], output.shape[-1]
            per = self._per(args[0], d_in, name)
            self.projections.append(_Projection(found, d_in, d_out, per, output.requires_grad))

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        self._saved = dict.fromkeys(self._saved, True)
        return tensor

    def _per(self, input: torch.Tensor, d_in: int, name: str) -> str:
        assert self.batch is not None
        vectors = input.numel() // d_in
        if self.labelled is not None and name in self._outputs:
            return "label"
        if vectors not in (self.batch.rows, self.batch.tokens):
            self.problem = (
                f"{name} acts on {vectors} vectors, neither the {self.batch.rows} examples nor their "
                f"{self.batch.length} tokens each"
            )
        return "row" if vectors == self.batch.rows else "token"


def _learnt(eyes: _Eyes, by_op: dict[Any, int]) -> tuple[ClosedForm | None, str | None]:
    """The closed form, if it gives what was counted in the forward pass; else why not."""
    if any(getattr(layer, "lora_magnitude_vector", None) for layer in eyes.model.modules()):
        return None, "DoRA computes the norms of W + sBA, a product that does not grow with the batch"
    if eyes.problem:
        return None, eyes.problem
    assert eyes.batch is not None
    batch = eyes.batch
    linear = sum(count for op, count in by_op.items() if op in _LINEAR_OPS)
    kernels = sum(count for op, count in by_op.items() if "attention" in str(op))
    other = sum(by_op.values()) - linear
    attentions, left = _attentions(eyes.projections, fused=2 * kernels > other)
    if left:
        return None, f"linear layers that look like {', '.join(left)} of an attention that is not complete"
    form = ClosedForm(tuple(call.linear for call in eyes.calls), attentions)
    expected = [
        sum(call.linear.cost(batch).forward for call in eyes.calls if not (call.opaque and seen))
        for seen in (False, True)
    ]
    scores = sum(attention.cost(batch).forward for attention in attentions)
    if not any(abs(linear - sum_) <= _CLOSE_LINEAR * sum_ for sum_ in expected):
        return None, f"linear layers compute {linear:,} FLOPs in a forward pass, {expected[0]:,} expected"
    if other <= _CLOSE_ATTENTION * scores:  # a kernel that nothing counts
        return replace(form, attentions=tuple(replace(each, fused=True) for each in attentions)), None
    if abs(other - scores) > _CLOSE_ATTENTION * scores:
        return None, f"attention computes {other:,} FLOPs in a forward pass, {scores:,} expected"
    return form, None


def _attentions(projections: list[_Projection], fused: bool) -> tuple[tuple[Attention, ...], list[str]]:
    """Attentions in the order of the forward pass, each ended by its output projection; and roles left over."""
    found: list[Attention] = []
    open_: dict[str, _Projection] = {}
    for projection in projections:
        if projection.role != "o":
            open_[projection.role] = projection
        elif open_:  # else a head that is named as if it were one
            if set(open_) not in ({"q", "k", "v"}, {"qkv"}) or any(each.per != "token" for each in open_.values()):
                break
            q, k, v = (open_.get(part) or open_["qkv"] for part in "qkv")
            width_qk = projection.d_in if "qkv" in open_ else q.d_out
            found.append(Attention(width_qk, projection.d_in, q.grad, k.grad, v.grad, fused, projection.recomputed))
            open_ = {}
    return tuple(found), sorted(open_)


def _is_linear(module: nn.Module) -> bool:
    """Quantization libraries' layers too, which need not derive from nn.Linear; not PEFT's wrappers around one."""
    if isinstance(module, nn.Linear | Conv1D):
        return True
    return hasattr(module, "in_features") and hasattr(module, "out_features") and not any(module.children())


def _sides(module: Any) -> tuple[int, int]:
    return shape(module) if isinstance(module, nn.Linear | Conv1D) else (module.in_features, module.out_features)


def _is_factor(name: str) -> bool:
    return any(part in ("lora_A", "lora_B") for part in name.split("."))


def _requires_grad(output: Any) -> bool:
    first = output if isinstance(output, torch.Tensor) else output[0]
    return bool(first.requires_grad)
