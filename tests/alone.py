"""What someone without rankwise does with an adapter: runs in a process that never imports it."""

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def logits(cases: list[dict[str, str]], texts: list[str]) -> None:
    """Logits of each saved ``adapter`` on its saved ``base`` into the file ``out``."""
    for case in cases:
        tokenizer = AutoTokenizer.from_pretrained(case["base"])
        model = AutoModelForSequenceClassification.from_pretrained(case["base"], num_labels=2)
        model.config.pad_token_id = tokenizer.pad_token_id
        adapted = PeftModel.from_pretrained(model, case["adapter"]).eval()
        with torch.inference_mode():
            values = adapted(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        Path(case["out"]).write_text(json.dumps(values.tolist()))
