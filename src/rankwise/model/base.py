"""The base LM: weights, tokenizer and task head, from wherever the config says; or its architecture without weights."""

import copy
import sys
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from rankwise.assets import Asset
from rankwise.config import Model
from rankwise.errors import Refused, reason
from rankwise.model import gguf


def load(
    model: Model,
    asset: Asset,
    outputs: int,
    seed: int,
    attention: str | None = None,
    kind: str = "classification",
    mapped: bool = False,
) -> tuple[nn.Module, Any]:
    """The base for a kind of task, in fp32, and its tokenizer: a causal LM as it is, or a fresh head of ``outputs``.

    ``mapped`` leaves weights in their file, in its type, from where they are read when they are used; the head is made.

    The head's initialisation depends on ``seed`` alone, so that every arm starts from the same one. ``attention`` is
    transformers' implementation (eager, sdpa); None is the model's own choice.
    Raises Refused for a folder or hub id that holds no model.
    """
    logging.set_verbosity_error()  # that the head is new is what a fine-tuning run means
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    if asset.path is None and asset.hub_id is None:
        base, tokenizer = _random(model, kind, outputs, attention)
    else:
        base, tokenizer = _pretrained(model, asset, kind, outputs, attention, "auto" if mapped else torch.float32)
        _draw_head(base, seed)
    base.name_or_path = model.path  # type: ignore[assignment]  # the base's name in PEFT's config: no path of a cache
    check_tokens(model, tokenizer, base)
    tokenizer.model_max_length = _positions(base, tokenizer.model_max_length)
    return base, tokenizer


def check_tokens(model: Model, tokenizer: Any, base: nn.Module) -> None:
    """Refuse a tokenizer with a token that the base has no embedding for."""
    tokens, rows = len(tokenizer), base.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if tokens > rows or (tokenizer.pad_token_id or 0) >= rows:
        remedy = f"call model.resize_token_embeddings({tokens}) and save it with its tokenizer"
        allowed = (
            f"its tokenizer has {tokens} tokens (padding is {tokenizer.pad_token_id}), the model embeddings for {rows}"
        )
        raise Refused.value("model.path", model.path, allowed, remedy)


def _pretrained(
    model: Model, asset: Asset, kind: str, outputs: int, attention: str | None, dtype: torch.dtype | str
) -> tuple[nn.Module, Any]:
    try:
        if file := asset.gguf_file():
            gguf.unpack(file)
        where, options = location(asset, model)
        # Without trust_remote_code=False, transformers asks on the terminal whether to run a stranger's code.
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        config.update(head_settings(kind, outputs))  # as options of from_pretrained they meet the old ones and fail
        base, report = auto_class(kind, config).from_pretrained(
            where,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            attn_implementation=attention,
            use_safetensors=True,
            **options,
        )
    except Refused:
        raise
    except Exception as error:  # a stranger's files, and the hub, can fail in any way
        if asset.path and any(asset.path.glob("*.bin")) and not any(asset.path.glob("*.safetensors")):
            remedy = f"convert them once, if you trust them: AutoModel.from_pretrained({str(asset.path)!r})"
            why = "has weights in .bin only, which can run code"
            raise Refused(f"model {asset.source}: {why}; {remedy}.save_pretrained(FOLDER)") from None
        raise Refused(f"model {asset.source}: cannot be loaded ({reason(error)})") from None
    if holes := _holes(base, report):
        more = f" and {len(holes) - 1} more" if len(holes) > 1 else ""
        raise Refused(f"model {asset.source}: its weights do not fit its config.json ({holes[0]}{more})")
    if any(".pooler." in name for name in report["missing_keys"]):
        print(
            f"rankwise: model {asset.source}: its pooler is not in the file and drawn at random; method=full trains "
            "it, adapters leave it as it is unless method.modules_to_save=[pooler]",
            file=sys.stderr,
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made up by transformers where there is none
        empty = asset.path and (asset.path / "tokenizer.json").exists()
        what = "its tokenizer knows special tokens only" if empty else "has no tokenizer"
        raise Refused(f"model {asset.source}: {what}; save the model's own beside the weights with save_pretrained")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise Refused(f"model {asset.source}: its tokenizer has neither a padding nor an end token; set pad_token")
    base.config.pad_token_id = tokenizer.pad_token_id
    return base, tokenizer


def head_settings(kind: str, outputs: int) -> dict[str, Any]:
    """The head's keys in transformers' config, whatever the checkpoint was trained for; a causal LM has none."""
    problem = "regression" if outputs == 1 else "single_label_classification"
    return {} if kind == "causal_lm" else {"num_labels": outputs, "problem_type": problem}


def class_names(classes: list[str] | None) -> dict[str, Any]:
    """What the outputs mean, in keys of transformers' config, for whoever loads the model."""
    numbers = dict(enumerate(classes or ()))
    return {"id2label": numbers, "label2id": {name: n for n, name in numbers.items()}} if numbers else {}


def auto_class(kind: str, config: Any) -> Any:
    """transformers' class for a kind of task and an architecture.

    Raises Refused for a causal LM of an encoder, which sees what it should predict; transformers would build one.
    """
    if kind != "causal_lm":
        return AutoModelForSequenceClassification
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise Refused(
            f"model: {config.model_type} reads in both directions, so it cannot learn to write; task.kind=causal_lm "
            "needs a decoder, such as model=smollm2_instruct, or for a trial model=tiny_llama"
        )
    return AutoModelForCausalLM


def head_names(base: nn.Module) -> list[str]:
    """Children with weights that are not the base LM: ``classifier``, ``score``. A causal LM's output layer is part of
    the LM.
    """
    if base.get_output_embeddings() is not None:  # type: ignore[operator]
        return []
    prefix = base.base_model_prefix
    return [name for name, child in base.named_children() if name != prefix and any(True for _ in child.parameters())]


def _holes(base: nn.Module, report: dict[str, Any]) -> list[str]:
    """Weights that the file lacks or has in another size; transformers draws them at random and says nothing.

    That is meant for the head, which a checkpoint may have of another task, and for a pooler, which many lack.
    """
    drawn = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    heads = head_names(base)
    return sorted(name for name in drawn if name.split(".")[0] not in heads and ".pooler." not in name)


def _draw_head(base: nn.Module, seed: int) -> None:
    """Initialise the head as its architecture does, from the seed alone, whatever the checkpoint held."""
    torch.manual_seed(seed)
    for name in head_names(base):
        for module in base.get_submodule(name).float().modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # else it is left as it is
            base._init_weights(module)  # type: ignore[operator]


_TURNS = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{% if turn.role == 'assistant' %}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte behind four special ones: for models of random weights, on any text, with nothing to fetch."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        chat_template=_TURNS,
    )


def _random(model: Model, kind: str, outputs: int, attention: str | None) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer()
    special = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "bos", "eos")}
    try:
        config = AutoConfig.for_model(**dict(model.shape or {}))
        config.update(special | {"vocab_size": len(tokenizer)})
        return skeleton(config, kind, outputs, attention, "cpu"), tokenizer
    except Refused:
        raise
    except Exception as error:  # each architecture checks its own values in its own way
        raise Refused(f"model.shape: not a model config of transformers ({reason(error)})") from None


def architecture(model: Model, asset: Asset | None) -> PretrainedConfig:
    """The transformers config of a model, without its weights: read from the asset's folder or GGUF file, else made of
    ``shape``, else asked of the hub.

    Raises Refused where it cannot be read.
    """
    logging.set_verbosity_error()
    try:
        if model.shape is not None and (asset is None or asset.path is None):
            config = AutoConfig.for_model(**dict(model.shape))
            if "vocab_size" not in model.shape:  # a toy, which reads bytes
                config.vocab_size = len(byte_tokenizer())
        else:
            assert asset is not None
            where, options = location(asset, model)
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    except Exception as error:  # a stranger's file, and the hub, can fail in any way
        raise Refused(f"model {model.name}: its config cannot be read ({reason(error)})") from None
    return config


def skeleton(
    config: PretrainedConfig, kind: str, outputs: int, attention: str | None, device: str = "meta"
) -> nn.Module:
    """The model for a task of this kind in fp32: on the meta device shapes and types and no memory, elsewhere random
    weights of torch's seed.

    Raises Refused for an architecture that transformers has no such head for.
    """
    config = copy.deepcopy(config)  # transformers notes in it how it was built
    auto = auto_class(kind, config)
    config.update(head_settings(kind, outputs))
    config.pad_token_id = config.pad_token_id or 0
    config.quantization_config = None  # of a GGUF file: it is unpacked on loading
    try:
        with torch.device(device):
            return auto.from_config(config, dtype=torch.float32, attn_implementation=attention)
    except Exception as error:
        if device != "meta" and not str(error).startswith("Unrecognized configuration class"):
            raise  # such as memory that is too small for it
        raise Refused(f"model: {config.model_type} cannot be built for task.kind={kind} ({reason(error)})") from None


def _positions(base: nn.Module, tokens: int) -> int:
    """Tokens that a learned table of positions has room for, or that a model with computed ones was made for."""
    for name, module in base.named_modules():
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("position_embeddings", "wpe"):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts on from its padding
            return module.num_embeddings - first
    return min(tokens, getattr(base.config, "max_position_embeddings", None) or tokens)


def location(asset: Asset, model: Model) -> tuple[str, dict[str, Any]]:
    """Where ``from_pretrained`` finds the model, and the options that it needs for that."""
    if asset.path is None:
        return str(asset.hub_id), {"revision": model.revision or "main"}
    file = asset.gguf_file()
    if file is None:
        return str(asset.path), {}
    ready = gguf.unpacked(file)
    return (str(ready), {}) if ready else (str(file.parent), {"gguf_file": file.name})
