"""The base LM: weights, tokenizer and task head, from wherever the config says."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from rankwise.assets import Asset
from rankwise.config import Model
from rankwise.errors import Refused


def load(model: Model, asset: Asset, outputs: int, seed: int) -> tuple[nn.Module, Any]:
    """The base with a fresh head of ``outputs`` logits, in fp32, and its tokenizer.

    The head's initialisation depends on ``seed`` alone, so that every arm starts from the same one.
    Raises Refused for a folder or hub id that holds no model.
    """
    logging.set_verbosity_error()  # that the head is new is what a fine-tuning run means
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    if asset.path is None and asset.hub_id is None:
        return _random(model, outputs)
    where, options = _location(asset, model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        base = AutoModelForSequenceClassification.from_pretrained(
            where, num_labels=outputs, dtype=torch.float32, trust_remote_code=False, **_weights(options), **options
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Refused(f"model {asset.source}: cannot be loaded ({reason})") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    base.config.pad_token_id = tokenizer.pad_token_id
    return base, tokenizer


def head_names(base: nn.Module) -> list[str]:
    """Children with weights that are not the base LM: ``classifier``, ``score``."""
    prefix = base.base_model_prefix
    return [name for name, child in base.named_children() if name != prefix and any(True for _ in child.parameters())]


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """One token per byte behind four special ones: for models of random weights, on any text, with nothing to fetch."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", model_max_length=max_length,
    )  # fmt: skip


def _random(model: Model, outputs: int) -> tuple[nn.Module, Any]:
    shape = dict(model.shape or {})
    try:
        config = AutoConfig.for_model(**shape)
    except (TypeError, ValueError, KeyError) as error:
        raise Refused(f"model.shape: not a model config of transformers ({str(error).splitlines()[0]})") from None
    longest = next((int(shape[key]) for key in ("max_position_embeddings", "n_positions") if key in shape), 512)
    tokenizer = byte_tokenizer(longest - 2)  # RoBERTa's positions start after the padding id
    config.vocab_size, config.num_labels, config.pad_token_id = len(tokenizer), outputs, tokenizer.pad_token_id
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), tokenizer


def _location(asset: Asset, model: Model) -> tuple[str, dict[str, Any]]:
    if asset.path is None:
        return str(asset.hub_id), {"revision": model.revision or "main"}
    if asset.path.is_file():
        return str(asset.path.parent), {"gguf_file": asset.path.name}
    if not (asset.path / "config.json").is_file():
        return str(asset.path), {"gguf_file": min(asset.path.glob("*.gguf")).name}
    return str(asset.path), {}


def _weights(options: dict[str, Any]) -> dict[str, Any]:
    """Safetensors only: no pickle of a stranger's is opened. GGUF is unpacked to plain trainable layers."""
    if "gguf_file" in options:
        from transformers import GgufConfig

        return {"quantization_config": GgufConfig(dequantize=True)}
    return {"use_safetensors": True}
