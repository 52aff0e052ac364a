"""Models that classify by what they compute at the end token are planned as they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rankwise.config import Config, Model
from rankwise.run import run

SHAPES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
             "decoder_start_token_id": 2, "max_position_embeddings": 128},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_step_is_predicted(tiny: Callable[..., Config], name: str) -> None:
    config = tiny(tracking__ledger=True)
    config.model = Model(name=name, shape=SHAPES[name] | {"model_type": name})
    record = run(config)
    for part in ("train", "eval"):
        found = record.memory[part]
        assert found["predicted"]["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.01)
    operations = record.compute["flops"]
    assert operations["per_step"] == operations["per_step_counted"]
