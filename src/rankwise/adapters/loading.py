"""A run's model again: as it ran, or dense in fp32 with the values that its quantized base stood for."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from rankwise.adapters.runs import Run, base_asset
from rankwise.config import ADAPTERS
from rankwise.errors import Refused
from rankwise.model import base, fused
from rankwise.model.methods.quiet import CANNOT, quiet_peft
from rankwise.model.methods.warm import ADAPTER_FILE
from rankwise.model.numerics import LOW, Numerics, settle
from rankwise.model.quantize import cast_base, dequantize, store
from rankwise.model.restore import with_weights
from rankwise.model.skeleton import architecture, skeleton
from rankwise.model.targets import modules_named

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


def numerics(run: Run) -> Numerics:
    """The device of this machine, and the run's precision where that device has it."""
    precision = run.precision if run.precision != "fp16" or torch.cuda.is_available() else "fp32"
    return settle(replace(run.config.trainer, device="auto", threads=None, precision=precision))


def attention(run: Run) -> str | None:
    """The attention implementation that the run had, or would have now where its record is older than that key."""
    return run.record.compute.get("attention") or numerics(run).attention


def load_base(run: Run) -> tuple[nn.Module, Any]:
    """The base in fp32 with a fresh head, as the run got it, and its tokenizer."""
    config = run.config
    lm, tokenizer = base.load(config.model, base_asset(run), run.outputs, config.seed, attention(run), config.task.kind)
    base.name_classes(lm, run.classes)
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
        raise Refused(f"model {asset.source}: its tokenizer cannot be loaded ({base.reason(error)})") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def stored_base(run: Run, settings: Numerics) -> tuple[nn.Module, Any]:
    """The base in the storage that the run kept it in."""
    lm, tokenizer = load_base(run)
    store(lm, run.config, base.head_names(lm), settings.precision, settings.device)
    return lm, tokenizer


def as_run(run: Run, settings: Numerics, folder: Path | None = None) -> tuple[nn.Module, Any]:
    """The model as its run tested it, or with the adapter of another ``folder``, and the tokenizer."""
    lm, tokenizer = stored_base(run, settings)
    return ready(adapted(lm, run, folder), settings), tokenizer


def ready(model: nn.Module, settings: Numerics) -> nn.Module:
    """On its device and in eval mode; all of it in 16 bit where the run trained so, as Lightning makes it."""
    if settings.precision == "bf16_true":
        model.to(torch.bfloat16)
    return model.to(settings.device).eval()


def dense_base(run: Run) -> tuple[nn.Module, Any]:
    """The base in fp32, with the values that the run's storage stood for."""
    lm, tokenizer = load_base(run)
    kind, heads = run.config.quant.kind, base.head_names(lm)
    if kind not in (None, "bf16"):
        store(lm, run.config, heads, "fp32")
    if kind == "bf16" or run.precision == "bf16_true" or (kind is not None and run.precision in LOW):
        low = torch.bfloat16 if kind == "bf16" else LOW[run.precision]
        whole = modules_named(lm, run.config.method.modules_to_save)
        cast_base(lm, [*heads, *whole], low)  # what the run rounded stays rounded
    dequantize(lm)
    return lm.float(), tokenizer


def adapted(lm: nn.Module, run: Run, folder: Path | None = None) -> nn.Module:
    """The base with the run's weights, or with those of another ``folder`` in the same form; in eval mode.

    Raises Refused for files that are broken, or that belong to another base or method.
    """
    if run.config.method.name in ADAPTERS:
        check(run, folder or run.adapter)
    return placed(lm, run, folder)


def placed(lm: nn.Module, run: Run, folder: Path | None = None) -> nn.Module:
    """``adapted`` without its check."""
    folder = folder or run.adapter
    try:
        with warnings.catch_warnings(), quiet_peft():
            warnings.filterwarnings("ignore", ".*adapter keys.*")  # a check of ours comes before
            return with_weights(lm, copy.deepcopy(run.config), folder).eval()
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise Refused(f"{folder}: its weights do not fit this base ({base.reason(error)})") from None


def check(run: Run, folder: Path) -> None:
    """Refuse an adapter file that is torn, or whose names and shapes are not those of its config on the run's base."""
    file, found = folder / ADAPTER_FILE, shapes(folder)
    config = architecture(run.config.model, base_asset(run))
    lm = skeleton(config, run.config.task.kind, run.outputs, attention(run))
    settings = adapter_config(folder)
    fused.split_for(lm, settings)
    try:
        with warnings.catch_warnings(), quiet_peft():
            warnings.simplefilter("ignore")  # PEFT's advice on training it
            model = get_peft_model(lm, settings, low_cpu_mem_usage=True)
            wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    except CANNOT as error:
        raise Refused(f"{folder}: an adapter for another base ({base.reason(error)})") from None
    if odd := sorted(found.keys() ^ wanted.keys()):
        where = "holds" if odd[0] in found else "lacks"
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise Refused(f"{file}: {where} {odd[0]}{more}, unlike an adapter of this run for this base")
    for name, value in wanted.items():
        if found[name] != tuple(value.shape):
            raise Refused(f"{file}: {name} is {_sides(found[name])}, this base needs {_sides(tuple(value.shape))}")


def shapes(folder: Path) -> Shapes:
    """Names and shapes in an adapter's file. Raises Refused for a file that is missing or torn."""
    file = folder / ADAPTER_FILE
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Refused(f"{file}: not a readable adapter file ({base.reason(error)})") from None


def adapter_config(folder: Path) -> PeftConfig:
    """PEFT's config beside the weights. Raises Refused where it is missing or is none."""
    try:
        if not (folder / "adapter_config.json").is_file():  # PEFT would ask the hub
            raise FileNotFoundError("no such file")
        with quiet_peft():
            return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder / 'adapter_config.json'}: not PEFT's config ({base.reason(error)})") from None


def kind(config: PeftConfig) -> str:
    """PEFT's name of a kind of adapter: LORA, IA3 and so on."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def head_tensors(run: Run, lm: nn.Module) -> Tensors:
    """The run's trained head, by the parameters' names in the base."""
    heads, prefix = base.head_names(lm), "base_model.model."
    found = {name.removeprefix(prefix): value for name, value in load_file(run.adapter / ADAPTER_FILE).items()}
    return {name: value for name, value in found.items() if name.split(".")[0] in heads}


def put_head(lm: nn.Module, tensors: Tensors) -> None:
    """Set the head's parameters, whatever their size was; hooks on its modules stay."""
    for name, value in tensors.items():
        parent, _, leaf = name.rpartition(".")
        setattr(lm.get_submodule(parent), leaf, nn.Parameter(value.clone(), requires_grad=False))


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
