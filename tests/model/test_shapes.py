"""The shapes in conf/model are those that were published, to the parameter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from rankwise.config import Model

CONF = Path(__file__).parents[2] / "conf/model"

# Parameters of the published checkpoints, tied weights once: of the language model where it is one, else of the encoder
# with its pooler. GPT-3's is what GPT-2's architecture has at that size (Brown et al. 2020 say 175.0B).
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "gpt3_175b": 174_604_259_328,
    "bert_base": 109_482_240,
    "roberta_base": 124_645_632,
    "roberta_large": 355_359_744,
    "llama_33b": 32_528_943_616,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_1b": 1_235_814_400,
    "llama3_3b": 3_212_749_824,
    "llama3_8b": 8_030_261_248,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1_7b": 1_711_376_384,
}
ROUNDED = {"minilm": 22.7e6, "deberta_xxl": 1.5e9}  # as the papers say it: for claims about adapters
HEADS_OF_64 = ("llama3_1b", "qwen2_5_0_5b")  # beside the older and smaller families; all others have 128


def config(option: str) -> Model:
    """The file against the schema, so that a misspelt key is an error."""
    merged = OmegaConf.merge(OmegaConf.structured(Model), OmegaConf.load(CONF / f"{option}.yaml"))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def built(shape: dict[str, Any]) -> torch.nn.Module:
    """The model without its numbers."""
    kind = AutoModel if shape["model_type"] in ("bert", "roberta", "deberta-v2") else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(**shape))


@pytest.mark.parametrize("option", PUBLISHED)
def test_a_shape_has_the_published_number_of_parameters_and_width_of_heads_which_no_count_shows(option):
    shape = config(option).shape or {}
    assert sum(parameter.numel() for parameter in built(shape).parameters()) == PUBLISHED[option]
    settings = AutoConfig.for_model(**shape)
    width = settings.hidden_size // settings.num_attention_heads
    assert width * settings.num_attention_heads == settings.hidden_size
    of_64 = option in HEADS_OF_64 or option.startswith(("bert", "gpt2", "roberta", "smollm2"))
    assert width == (64 if of_64 else 128)
    assert shape.get("head_dim", width) == width
    known = AutoConfig.for_model(shape["model_type"])  # it says nothing that its architecture does not read
    assert not [key for key in shape if key not in known.to_dict() and key not in known.attribute_map]


def test_every_model_with_a_vocabulary_of_its_own_is_compared_with_what_was_published():
    options = {file.stem for file in CONF.glob("*.yaml") if "vocab_size" in (OmegaConf.load(file).get("shape") or {})}
    assert options == {*PUBLISHED, *ROUNDED}
    for option, count in ROUNDED.items():
        assert sum(p.numel() for p in built(config(option).shape or {}).parameters()) == pytest.approx(count, rel=0.05)


def test_only_what_was_never_published_has_no_weights_to_load():
    assert [option for option in PUBLISHED if not config(option).path] == ["gpt3_175b"]
