"""What a language model has to beat: linear models on fixed features."""

from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from rankwise.errors import Refused
from rankwise.tasks.batches import Collate, Encoded, eval_loader


def fit(name: str, inputs: Any, labels: np.ndarray, has_classes: bool) -> Pipeline:
    """``tfidf``: words and word pairs of texts; ``probe``: features (N, H), scaled to length 1. Then a linear model."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True) if name == "tfidf" else Normalizer()
    linear = LogisticRegression(max_iter=2000) if has_classes else Ridge()
    try:
        return make_pipeline(features, linear).fit(inputs, labels)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise Refused("method=tfidf: no training text has a word of two letters; method=probe reads any") from None


@torch.inference_mode()
def mean_pooled(
    lm: torch.nn.Module,
    tokenizer: Any,
    texts: list[str],
    max_length: int,
    batch_size: int,
    pairs: list[str] | None = None,
) -> np.ndarray:
    """The last hidden states of each text (or pair) averaged over its tokens, padding left out: (N, H) in fp32.

    Of an encoder–decoder they are the encoder's.
    """
    data = Encoded(texts, np.zeros(len(texts)), tokenizer, max_length, pairs)
    encoder: Any = lm.get_submodule(str(lm.base_model_prefix))
    if encoder.config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    encoder.eval()
    device = next(encoder.parameters()).device
    pooled: list[np.ndarray | None] = [None] * len(texts)
    for batch in eval_loader(data, Collate(tokenizer, torch.float32), batch_size):
        rows, _ = batch.pop("row"), batch.pop("labels")
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        hidden_BTH = encoder(**inputs).last_hidden_state.float()
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1)
        mean_BH = (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
        for row, vector in zip(rows.tolist(), mean_BH.cpu().numpy(), strict=True):
            pooled[row] = vector
    return np.stack(pooled)  # type: ignore[arg-type]


def words(texts: list[str], pairs: list[str] | None) -> list[str]:
    """What TF-IDF reads: each text, with the second one behind it."""
    return texts if pairs is None else [f"{one}\n{other}" for one, other in zip(texts, pairs, strict=True)]


def size(model: Pipeline) -> int:
    """Fitted coefficients and intercepts of the linear model."""
    linear = model[-1]
    return int(np.size(linear.coef_) + np.size(linear.intercept_))


def predict(model: Pipeline, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and score of each row, as in ``Scorer.predict``."""
    prediction = model.predict(inputs)
    return prediction, model.predict_proba(inputs)[:, -1] if is_classifier(model) else prediction
