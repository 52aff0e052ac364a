"""GGUF files: unpacked once to plain fp32 weights, which load forty times faster and can be trained and saved."""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from rankwise.assets import cache_dir, file_digest, fill_once, is_whole
from rankwise.errors import Refused


def unpacked(file: Path) -> Path | None:
    """The folder in the cache with the weights and tokenizer of a GGUF file, or None where it was never unpacked."""
    slot = _slot(file)
    return slot if is_whole(slot) else None


def unpack(file: Path) -> Path:
    """The same folder, made first where there is none: fp32 safetensors, 4 bytes per parameter.

    Raises Refused where the package gguf is missing or the cache cannot be written, and transformers' errors for a file
    that it cannot read.
    """
    if importlib.util.find_spec("gguf") is None:
        raise Refused(f"model {file}: a GGUF file needs the package gguf; pip install gguf")

    def fill(whole: Path, _: Path) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        print(f"unpacking {file.name} to fp32, once", file=sys.stderr, flush=True)
        # Without dequantize the weights stay packed: marked as not trainable, and not to be saved.
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(whole)

    return fill_once(_slot(file), f"unpacks {file.name}", fill)


def _slot(file: Path) -> Path:
    return cache_dir() / "gguf" / file_digest(file)[:16]
