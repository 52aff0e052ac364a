"""One run's training step and evaluation batch with fake tensors: every operation, no memory, no arithmetic."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F  # noqa: N812  torch's own convention
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig

from rankwise.config import Config
from rankwise.errors import Refused, reason
from rankwise.measure.flops import Tally
from rankwise.measure.ledger import Footprint, Ledger, bucket_bytes
from rankwise.measure.shape import Shape
from rankwise.model.adapt import Adapted, adapt
from rankwise.model.base import head_names, skeleton
from rankwise.model.numerics import LOW, Numerics
from rankwise.model.outputs import Batch
from rankwise.model.quantize import hold_as_multiplied, store
from rankwise.tasks.scores import Scorer
from rankwise.train import optim, shard, step


def build(
    config: Config, architecture: PretrainedConfig, outputs: int, attention: str | None, precision: str
) -> Adapted:
    """The adapted model on the meta device, as a run would build it: parameters exact, nothing allocated.

    Raises Refused for a rank or targets that do not fit the architecture.
    """
    base = skeleton(architecture, config.task.kind, outputs, attention)
    store(base, config, head_names(base), precision)
    adapted = adapt(base, config)
    hold_as_multiplied(adapted.model, precision)
    if precision == "bf16_true":
        adapted.model.to(torch.bfloat16)
    if config.trainer.gradient_checkpointing:
        step.checkpoint_blocks(adapted.model)
    return adapted


class Counted:
    """A run without weights or data, on which the operations of a micro-batch of any shape can be counted.

    On the meta device, in a third of the time that fake tensors take, wherever the same kernels are seen there. On a
    CUDA device in ``settings``, attention keeps no matrix of scores, as its kernels do. Without ``adapted``, the model
    is built by the config.
    """

    def __init__(
        self,
        config: Config,
        architecture: PretrainedConfig,
        scorer: Scorer,
        settings: Numerics,
        adapted: Adapted | None = None,
    ):
        self.config, self.architecture, self.settings = config, architecture, settings
        self.precision, self.gpu = settings.precision, settings.device.type == "cuda"
        self.scorer = replace(scorer, device="cuda") if self.gpu else scorer
        adapted = adapted or build(config, architecture, scorer.outputs, settings.attention, self.precision)
        self.model, self.lora = adapted.model.train(), adapted.lora
        self.mode = self._mode()

    def _mode(self) -> Any:
        """Fake tensors where torch's attention chooses its kernel, by the device among others."""
        if self.gpu or self.settings.attention == "eager":
            return torch.device("meta")
        return _faked(self.model)

    def variant(self, config: Config) -> "Counted":
        """Another run of the same base on the same device."""
        return Counted(config, self.architecture, self.scorer, self.settings)

    def count(self, shape: Shape) -> int:
        """Operations of the forward and backward pass of a micro-batch."""
        return sum(self.products(shape))

    def products(self, shape: Shape) -> list[int]:
        """The same, of each product by itself."""
        with self._settings(), Tally() as tally:
            batch = self._batch(shape)
            with self._autocast():
                loss = step.loss(self.model, self._losses(batch))
            loss.backward()
        self.model.zero_grad()
        return tally.each

    def _losses(self, batch: Batch) -> torch.Tensor:
        batch = {name: tensor for name, tensor in batch.items() if name != "mask of ones"}
        return step.losses(self.model, self.scorer, batch)[1]

    def _batch(self, shape: Shape) -> Batch:
        rows = shape.rows
        ids = torch.zeros(rows, shape.length, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask" if shape.padded else "mask of ones": torch.ones_like(ids)}
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            batch["token_type_ids"] = torch.zeros_like(ids)
        if self.config.task.writes:
            if shape.packed:
                mask = torch.zeros(rows, 1, shape.length, shape.length)
                batch = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.zeros_like(ids)}
            learned = {name: torch.zeros(shape.logits, dtype=torch.long) for name in ("labels", "keep", "owner")}
            return batch | learned | {name: torch.zeros(rows, dtype=torch.long) for name in ("row", "bytes")}
        labels = torch.zeros(rows, dtype=self.scorer.labels)
        return batch | {"labels": labels, "row": torch.zeros(rows, dtype=torch.long)}

    def _autocast(self, keeps_casts: bool = True) -> Any:
        dtype = LOW.get(self.precision)
        enabled = self.precision in ("bf16", "fp16")
        return torch.autocast("cpu", dtype or torch.bfloat16, enabled=enabled, cache_enabled=keeps_casts)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        attention = without_scores() if self.gpu else contextlib.nullcontext()
        with self._followed(), self.mode, _known_numbers(), attention:
            yield

    @contextlib.contextmanager
    def _followed(self) -> Iterator[None]:
        """Refuse a model whose step depends on values, as routing to experts does."""
        torchs = logging.getLogger("torch._subclasses.fake_tensor")
        level = torchs.level
        torchs.setLevel(logging.CRITICAL)
        try:
            with OneEndPerRow():
                yield
        except Exception as error:  # a model's own code can fail in any way on tensors without content
            kind = getattr(self.model.config, "model_type", "this model")
            raise Refused(f"{kind}: its step cannot be followed without values ({reason(error)})") from None
        finally:
            torchs.setLevel(level)


class FakeRun(Counted):
    """The same with fake tensors, on which whole steps can be tried and what they hold be measured."""

    def __init__(self, config: Config, *of_what: Any):
        super().__init__(config, *of_what)
        scaled, device = self.precision == "fp16", self.settings.device.type
        self.optimizer = optim.build(self.model, config.optim, device, scaled, config.method.lr_ratio)
        self.flops = 0  # of the last step that was tried

    def _mode(self) -> FakeTensorMode:
        return _faked(self.model)

    @functools.cached_property
    def counted(self) -> Counted:
        """The run that counts."""
        return self.variant(self.config)

    def train(self, shapes: list[Shape]) -> Footprint:
        """One optimizer step over micro-batches of these shapes, the optimizer's states being there already."""
        with self._settings():
            if not self.optimizer.state:
                self._first_states()
            ledger, tally = Ledger(self.model, self.optimizer), Tally()
            with ledger, tally:
                self._forward_and_backward(shapes, ledger)
                self.flops = tally.flops  # what the optimizer computes, as Adafactor does, is no pass
                self._update(ledger)
        return self._held(ledger)

    def _first_states(self) -> None:
        """Make the optimizer's states as a first step would, without its forward and backward pass."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self, shape: Shape) -> Footprint:
        """One batch without gradients, the optimizer's states still there as they are in a run."""
        self.model.eval()
        with self._settings(), torch.no_grad():  # inference mode would hide what composite operations allocate
            batch = self._batch(shape)
            ledger = Ledger(self.model, self.optimizer)
            with ledger:
                ledger.hold(batch.values())
                with self._autocast(keeps_casts=False):  # as a run's inference mode does not
                    self._losses(batch)
        self.model.train()
        return self._held(ledger)

    def _held(self, ledger: Ledger) -> Footprint:
        """What one device holds."""
        trainer = self.config.trainer
        footprint = ledger.footprint().beside(bucket_bytes(self.model, trainer.devices))
        if not shard.is_sharded(trainer):
            return footprint
        return footprint.shared_out(trainer.devices, *shard.frozen_and_lent(self.model))

    def _forward_and_backward(self, shapes: list[Shape], ledger: Ledger) -> None:
        for shape, share in zip(shapes, step.shares(shapes), strict=True):
            ledger.phase = "forward"
            batch = self._batch(shape)
            with self._autocast():
                loss = step.loss(self.model, self._losses(batch), share)
            ledger.phase = "backward"
            loss.backward()
            del loss, batch  # its graph, and what layers keep there, would live through the next forward pass

    def _update(self, ledger: Ledger) -> None:
        ledger.phase = "step"
        if self.config.trainer.clip:
            nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.config.trainer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def full_fine_tuning(run: Counted) -> Counted:
    """The same base, stored in full precision, with all of it trained."""
    base = skeleton(run.architecture, run.config.task.kind, run.scorer.outputs, run.settings.attention)
    if run.config.trainer.gradient_checkpointing:
        step.checkpoint_blocks(base)
    adapted = Adapted(base.requires_grad_(True), [])
    return Counted(run.config, run.architecture, run.scorer, run.settings, adapted)


def _faked(model: nn.Module) -> FakeTensorMode:
    """Put fake tensors in the place of those on the meta device, tied ones tied as before; returns their mode.

    Building the model under the mode would be shorter, but PEFT cannot move fake parameters.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in fakes:
            with mode:
                empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return fakes[id(tensor)]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            own.update({name: fake(tensor) for name, tensor in own.items() if tensor is not None})  # type: ignore[misc]
    return mode


@contextlib.contextmanager
def _known_numbers() -> Iterator[None]:
    """Fake tensors have no values; where Adafactor asks for one (a norm), it is told 1.

    Where LoHa and LoKr ask whether chance keeps a layer in this step, it does.
    """
    item, truth = torch.Tensor.item, torch.Tensor.__bool__
    torch.Tensor.item = lambda tensor: 1.0  # type: ignore[method-assign,assignment]
    torch.Tensor.__bool__ = lambda tensor: tensor.is_meta or isinstance(tensor, FakeTensor) or truth(tensor)  # type: ignore
    try:
        yield
    finally:
        torch.Tensor.item, torch.Tensor.__bool__ = item, truth  # type: ignore[method-assign]


@contextlib.contextmanager
def without_scores() -> Iterator[None]:
    """Within, torch's scaled dot-product attention keeps what CUDA's kernels keep, dropout and mask included:
    query, key, value, the result and one number per query, no matrix of scores.
    """
    real = F.scaled_dot_product_attention

    def fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        # Shapes and saved tensors are those of CUDA's.
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]

    F.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


class OneEndPerRow(TorchFunctionMode):
    """Within, a mask over (rows, tokens) picks one token of every row, as T5 and BART classify by their end token.

    What an end-of-text mask picks decides shapes, which fake tensors cannot know; every text has one end token.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.unique_consecutive, torch.functional._consecutive_return_output):
            return args[0][:1]
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple) and _is_mask(args[1][0]):
            mask, *rest = args[1]
            rows, tokens = mask.new_zeros(2, mask.shape[0], dtype=torch.long)  # what torch itself makes of a mask
            return args[0][(rows, tokens, *rest)]
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.ndim == 2
