"""The same fine-tuning without rankwise: ``python -m rankwise.bench.peers WORK.json``, one process per run.

``trainer`` is transformers.Trainer with peft as its examples have it; ``tuned`` is that with what its documentation
offers for speed; ``loop`` is a plain PyTorch loop. Rows come tokenized and the base from a folder, so that none of them
pays for what rankwise does before a run.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

PEERS = ("trainer", "tuned", "loop")
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # as the others choose it


def main(work: dict[str, Any]) -> dict[str, Any]:
    """Train and test what ``work`` says; returns the test score: accuracy, or the loss of a causal LM."""
    torch.manual_seed(work["seed"])
    rows = torch.load(Path(work["folder"]) / "rows.pt", weights_only=False)
    tokenizer = AutoTokenizer.from_pretrained(Path(work["folder"]) / "model")
    is_lm = work["writes"]
    collate = DataCollatorForSeq2Seq(tokenizer) if is_lm else DataCollatorWithPadding(tokenizer)
    run = _loop if work["peer"] == "loop" else _trainer
    return {"score": run(work, _model(work, is_lm), rows, collate, is_lm)}


def _model(work: dict[str, Any], is_lm: bool) -> Any:
    kind = AutoModelForCausalLM if is_lm else AutoModelForSequenceClassification
    attention = "eager" if work["peer"] == "loop" else None
    base = kind.from_pretrained(Path(work["folder"]) / "model", dtype=torch.float32, attn_implementation=attention)
    if work["rank"] is None:
        return base
    task = "CAUSAL_LM" if is_lm else "SEQ_CLS"
    lora = LoraConfig(task_type=task, r=work["rank"], lora_alpha=work["alpha"], target_modules=work["modules"])
    return get_peft_model(base, lora)


def _trainer(work: dict[str, Any], model: Any, rows: dict[str, Any], collate: Any, is_lm: bool) -> float:
    tuned = work["peer"] == "tuned"
    faster = {
        "train_sampling_strategy": "group_by_length",
        "per_device_eval_batch_size": work["eval_batch_size"],
        "bf16": work["bf16"],
    }
    arguments = TrainingArguments(
        output_dir=work["out"],
        max_steps=work["steps"],
        per_device_train_batch_size=work["batch_size"],
        learning_rate=work["lr"],
        weight_decay=0.01,
        warmup_steps=math.ceil(work["steps"] / 10),
        eval_strategy="steps",
        eval_steps=math.ceil(work["steps"] / work["validations"]),
        save_strategy="no",
        prediction_loss_only=is_lm,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        seed=work["seed"],
        **(faster if tuned else {}),
    )
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=rows["train"], eval_dataset=rows["validation"]
    )
    trainer.train()
    result = trainer.predict(rows["test"])
    if is_lm:
        return float(result.metrics["test_loss"])
    return float((result.predictions.argmax(1) == result.label_ids).mean())


def _loop(work: dict[str, Any], model: Any, rows: dict[str, Any], collate: Any, is_lm: bool) -> float:
    model.to(_DEVICE)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work["lr"], weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(work["steps"] / 10), work["steps"])
    train = DataLoader(rows["train"], batch_sampler=work["batches"], collate_fn=collate)
    every = math.ceil(work["steps"] / work["validations"])
    for step, batch in enumerate(train, 1):
        model.train()
        with torch.autocast(_DEVICE, torch.bfloat16, enabled=work["bf16"]):
            loss = model(**batch.to(_DEVICE)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % every == 0 or step == work["steps"]:
            _evaluate(work, model, rows["validation"], collate, is_lm)
    return _evaluate(work, model, rows["test"], collate, is_lm)


@torch.inference_mode()
def _evaluate(work: dict[str, Any], model: Any, rows: list[dict[str, Any]], collate: Any, is_lm: bool) -> float:
    """Accuracy, or the mean loss of the learned tokens."""
    model.eval()
    longest_first = sorted(rows, key=lambda row: -len(row["input_ids"]))
    total, count = 0.0, 0
    for batch in DataLoader(longest_first, batch_size=work["eval_batch_size"], collate_fn=collate):  # type: ignore[arg-type]
        with torch.autocast(_DEVICE, torch.bfloat16, enabled=work["bf16"]):
            output = model(**batch.to(_DEVICE))
        number = int((batch["labels"][:, 1:] != -100).sum()) if is_lm else len(batch["labels"])
        right = (output.logits.argmax(-1) == batch["labels"]).sum() if not is_lm else output.loss * number
        total, count = total + float(right), count + number
    return total / count


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
