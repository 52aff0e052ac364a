"""Linear models on fixed features."""

import numpy as np
import pytest
import torch
from tiny_configs import SHAPES, tiny

from rankwise.assets import resolve
from rankwise.model import base
from rankwise.tasks import baselines
from rankwise.tasks.sources import synthetic

TEXTS = ["a", "something much longer than that", "bb", ""]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_features_are_means_over_tokens_without_padding(shape: str, batch_size: int) -> None:
    source = tiny(shape).model
    lm, tokenizer = base.load(source, resolve(source), 1, 0)
    encoder = lm.get_submodule(lm.base_model_prefix)
    pooled = baselines.mean_pooled(encoder, tokenizer, TEXTS, 48, batch_size)
    assert pooled.shape == (4, 32) and pooled.dtype == np.float32
    for text, row in zip(TEXTS, pooled, strict=True):
        with torch.inference_mode():
            alone = encoder(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(0)
        assert np.allclose(row, alone.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", ["tfidf", "probe"])
def test_a_baseline_learns_what_is_there_to_learn(name: str, kind: str) -> None:
    rows = synthetic(300, kind)
    rng = np.random.default_rng(0)
    features = np.stack([rows["label"], rng.normal(size=300)], axis=1)
    inputs = rows["text"].tolist() if name == "tfidf" else features
    labels = rows["label"].to_numpy() if kind == "regression" else rows["label"].to_numpy(int)
    fitted = baselines.fit(name, inputs, labels, kind)
    prediction, score = baselines.predict(fitted, inputs, kind)
    if kind == "classification":
        assert (prediction == labels).mean() > 0.9
        assert ((score > 0.5) == (prediction == 1)).all() and score.min() >= 0 and score.max() <= 1
    else:
        assert np.corrcoef(prediction, labels)[0, 1] > 0.9
        assert np.array_equal(prediction, score)


def test_the_size_of_a_baseline_is_its_coefficients() -> None:
    x, y = np.random.default_rng(0).normal(size=(50, 7)), np.arange(50) % 2
    assert baselines.size(baselines.fit("probe", x, y, "classification")) == 8
    assert baselines.size(baselines.fit("probe", x, np.arange(50) % 3, "classification")) == 24
    assert baselines.size(baselines.fit("probe", x, y * 1.5, "regression")) == 8
