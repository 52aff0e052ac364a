"""A run's model again: as it ran, or dense in fp32 with the values that its quantized base stood for."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from rankwise import methods
from rankwise.adapters.runs import Run, base_asset
from rankwise.errors import Refused, reason
from rankwise.model import base, fused
from rankwise.model.base import architecture, skeleton
from rankwise.model.methods.peft_warnings import CANNOT, quiet_peft
from rankwise.model.methods.warm_start import ADAPTER_FILE
from rankwise.model.numerics import LOW, Numerics, settle
from rankwise.model.quantize import cast_base, dequantize, store
from rankwise.model.targets import modules_named
from rankwise.model.weights import with_weights

if TYPE_CHECKING:
    from rankwise.adapters.factors import Delta

PREFIX = "base_model.model."  # of names in an adapter's file
_PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")
_ESCAPED_NAMES = re.compile(r"(?:[\w-]|\\[^\w]|\|)*")
Tensors = dict[str, torch.Tensor]


def numerics(run: Run) -> Numerics:
    """The device of this machine, and the run's precision where that device has it."""
    precision = run.precision if run.precision != "fp16" or torch.cuda.is_available() else "fp32"
    return settle(replace(run.config.trainer, device="auto", threads=None, precision=precision))


def load_base(run: Run) -> tuple[nn.Module, Any]:
    """The base in fp32 with a fresh head, as the run got it, and its tokenizer."""
    config, attention = run.config, run.record.compute.get("attention")
    lm, tokenizer = base.load(config.model, base_asset(run), run.outputs, config.seed, attention, config.task.kind)
    lm.config.update(base.class_names(run.classes))  # type: ignore[operator, union-attr]
    return lm, tokenizer


def load_tokenizer(run: Run) -> Any:
    """The tokenizer of the run's base, without the weights."""
    asset = base_asset(run)
    if asset.path is None and asset.hub_id is None:
        return base.byte_tokenizer()
    where, options = base.location(asset, run.config.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:  # a stranger's files, and the hub, can fail in any way
        raise Refused(f"model {asset.source}: its tokenizer cannot be loaded ({reason(error)})") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, run: Run) -> None:
    """Write it to cut texts where the run did; what is written goes on."""
    if not run.config.task.writes:
        tokenizer.model_max_length = run.config.task.max_length
    tokenizer.save_pretrained(str(folder))


def stored_base(run: Run) -> tuple[nn.Module, Any]:
    """The base in the storage that the run kept it in."""
    settings, (lm, tokenizer) = numerics(run), load_base(run)
    store(lm, run.config, base.head_names(lm), settings.precision, settings.device)
    return lm, tokenizer


def as_run(run: Run) -> tuple[nn.Module, Any]:
    """The model as its run tested it, and the tokenizer."""
    lm, tokenizer = stored_base(run)
    return ready(adapted(lm, run), run), tokenizer


def ready(model: nn.Module, run: Run) -> nn.Module:
    """On its device and in eval mode; all of it in 16 bit where the run trained so, as Lightning makes it."""
    settings = numerics(run)
    if settings.precision == "bf16_true":
        model.to(torch.bfloat16)
    return model.to(settings.device).eval()


def dense_base(run: Run) -> tuple[nn.Module, Any]:
    """The base in fp32, in whole layers, with the values that the run's storage stood for."""
    lm, tokenizer = load_base(run)
    kind, heads = run.config.quant.kind, base.head_names(lm)
    if kind not in (None, "bf16"):
        store(lm, run.config, heads, "fp32")
    if kind == "bf16" or run.precision == "bf16_true" or (kind is not None and run.precision in LOW):
        low = torch.bfloat16 if kind == "bf16" else LOW[run.precision]
        whole = modules_named(lm, run.config.method.modules_to_save)
        cast_base(lm, [*heads, *whole], low)  # what the run rounded stays rounded
    dequantize(lm)
    fused.join(lm)  # a quantized one comes in parts
    return lm.float(), tokenizer


def adapted(lm: nn.Module, run: Run) -> nn.Module:
    """The base with the run's weights, in eval mode.

    Raises Refused for files that are broken, or that belong to another base or method.
    """
    if methods.of(run.config.method).on_targets:
        check(run)
    return placed(lm, run)


def placed(lm: nn.Module, run: Run) -> nn.Module:
    """``adapted`` without its check."""
    try:
        with warnings.catch_warnings(), quiet_peft():
            warnings.filterwarnings("ignore", ".*adapter keys.*")  # a check of ours comes before
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # made for parts of few bits, which lie the other way
            return with_weights(lm, copy.deepcopy(run.config), run.adapter).eval()
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise Refused(f"{run.adapter}: its weights do not fit this base ({reason(error)})") from None


def check(run: Run) -> None:
    """Refuse an adapter file that is torn, or whose names and shapes are not those of its config on the run's base."""
    file, saved = run.adapter / ADAPTER_FILE, shapes(run.adapter)
    config = architecture(run.config.model, base_asset(run))
    lm = skeleton(config, run.config.task.kind, run.outputs, run.record.compute.get("attention"))
    settings = adapter_config(run.adapter)
    fused.split_for(lm, settings)
    try:
        with warnings.catch_warnings(), quiet_peft():
            warnings.simplefilter("ignore")  # PEFT's advice on training it
            model = get_peft_model(lm, settings, low_cpu_mem_usage=True)
            state = get_peft_model_state_dict(model, save_embedding_layers=False)
    except CANNOT as error:
        raise Refused(f"{run.adapter}: an adapter for another base ({reason(error)})") from None
    if odd := sorted(saved.keys() ^ state.keys()):
        where = "holds" if odd[0] in saved else "lacks"
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise Refused(f"{file}: {where} {odd[0]}{more}, unlike an adapter of this run for this base")
    for name, value in state.items():
        if saved[name] != tuple(value.shape):
            here, needed = (" × ".join(map(str, shape)) for shape in (saved[name], value.shape))
            raise Refused(f"{file}: {name} is {here}, this base needs {needed}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in an adapter's file. Raises Refused for a file that is missing or torn."""
    file = folder / ADAPTER_FILE
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Refused(f"{file}: not a readable adapter file ({reason(error)})") from None


def adapter_config(folder: Path) -> PeftConfig:
    """PEFT's config beside the weights, which may be a stranger's.

    Raises Refused where it is missing or is none, for no adapter on layers, a module to import, and a pattern that is
    more than names of layers, as a regular expression can take for ever.
    """
    file = folder / "adapter_config.json"
    try:
        if not file.is_file():  # PEFT would ask the hub
            raise FileNotFoundError("no such file")
        with quiet_peft():
            config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{file}: not PEFT's config ({reason(error)})") from None
    if not hasattr(config, "target_modules"):  # prompts, and what names other files to load
        raise Refused(f"{file}: {kind(config)} is no adapter on layers")
    if getattr(config, "megatron_config", None) is not None:
        raise Refused(f"{file}: megatron_config has PEFT import the module megatron_core, which rankwise does not")
    texts = [getattr(config, key, None) for key in _PATTERNS]
    texts += [*(getattr(config, "rank_pattern", None) or ()), *(getattr(config, "alpha_pattern", None) or ())]
    if odd := next((text for text in texts if isinstance(text, str) and not _ESCAPED_NAMES.fullmatch(text)), None):
        raise Refused(f"{file}: the pattern {odd[:80]} is more than names of layers, as rankwise writes them")
    return config


def kind(config: PeftConfig) -> str:
    """PEFT's name of a kind of adapter: LORA, IA3 and so on."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def dense(layer: nn.Module) -> torch.Tensor:
    """The weight of a linear layer as (out, in); GPT-2's lie the other way round."""
    weight = layer.get_parameter("weight").detach()
    return weight.T if isinstance(layer, Conv1D) else weight


def put_factors(model: nn.Module, deltas: Mapping[str, Delta]) -> None:
    """Set ΔW of a model's only LoRA adapter; a lower rank is filled up with zeros."""
    for name, delta in deltas.items():
        layer = model.get_submodule(PREFIX + name)
        assert isinstance(layer, LoraLayer) and delta.a is not None
        (adapter,) = layer.lora_A
        a, b = layer.lora_A[adapter].weight.data.zero_(), layer.lora_B[adapter].weight.data.zero_()
        a[: len(delta.a)] = delta.a.to(a)
        b[:, : len(delta.a)] = (delta.b / layer.scaling[adapter]).to(b)


class Shared:
    """One base with the adapters of several runs by their keys. Heads and what else was trained whole stay beside it:
    PEFT combines no adapters that bring modules of their own.

    Raises Refused for kinds of adapters that PEFT does not mix.
    """

    model: PeftModel

    def __init__(self, runs: list[Run]) -> None:
        self.lm, self.tokenizer = stored_base(runs[0])
        self.heads, self.whole = base.head_names(self.lm), dict[str, Tensors]()
        stored = self.lm.state_dict()
        for run in runs:
            tensors = load_file(run.adapter / ADAPTER_FILE)
            bare = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
            self.whole[run.key] = {name: value for name, value in bare.items() if name in stored}
            own = {name: value for name, value in tensors.items() if name.removeprefix(PREFIX) not in stored}
            try:
                self._add(run, own)
            except CANNOT as error:  # one is on query and value, the other on the layer that fuses them
                raise Refused(f"{run.folder}: not beside {runs[0].name} on one base ({reason(error)})") from None
        as_stored = {name: stored[name] for whole in self.whole.values() for name in whole}
        self.whole = {key: as_stored | whole for key, whole in self.whole.items()}
        ready(self.model, runs[0])

    def _add(self, run: Run, tensors: Tensors) -> None:
        config = adapter_config(run.adapter)
        config.task_type = config.modules_to_save = None
        fused.split_for(self.lm, config)
        with warnings.catch_warnings(), quiet_peft():
            warnings.simplefilter("ignore")
            if hasattr(self, "model"):
                self.model.add_adapter(run.key, config)
            else:
                self.model = get_peft_model(self.lm, config, adapter_name=run.key)
            set_peft_model_state_dict(self.model, tensors, adapter_name=run.key)

    def activate(self, run: Run, adapter: str | None = None) -> None:
        """Switch to a run's adapter, or to another ``adapter``, with what the run trained whole on the base's own."""
        self.model.set_adapter(adapter or run.key, inference_mode=True)
        for name, value in self.whole[run.key].items():
            parent, _, leaf = name.rpartition(".")
            module = self.lm.get_submodule(parent)
            now = getattr(module, leaf)
            setattr(module, leaf, nn.Parameter(value.to(now.device, now.dtype), requires_grad=False))
