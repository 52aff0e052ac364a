"""What users of other libraries type first is answered with what it is called here."""

import re

import pytest

from rankwise.cli import main
from rankwise.config import known_keys
from rankwise.synonyms import SYNONYMS

# What the one line of refusal calls it, and words for it of PEFT, Lightning, transformers, TRL, axolotl, Hydra or W&B.
FIRST_WORDS = {
    "method.rank": "r method.r lora_r",
    "method.alpha": "lora_alpha",
    "method.dropout": "lora_dropout",
    "targets=qv": "target_modules lora.target lora_target",
    "method.lr": "learning_rate",
    "trainer.epochs": "epochs trainer.max_epochs num_train_epochs",
    "trainer.batch_size": "batch_size data.batch_size per_device_train_batch_size",
    "task": "data.name",
    "tracking.project": "project wandb.project wandb_project",
    "logger=NAME": "loggers",
    "tracking.mode": "wandb.mode",
    "task.path": "data.path",
    "--config RUN/config.yaml": "ckpt_path",
    "a compiled model hides": "compile",
    "trainer.device": "trainer.accelerator",
    "trainer.devices": "devices num_processes",
    "trainer.strategy": "strategy",
    "a run is on one machine": "trainer.num_nodes",
    "debug=fast": "trainer.fast_dev_run",
    "task.n_train": "trainer.limit_train_batches",
    "debug=overfit": "trainer.overfit_batches",
    "trainer.clip": "trainer.gradient_clip_val",
    "rankwise find --budget": "max_time",
    "trainer.profiler": "profiler",
    "conf/callbacks/NAME.yaml": "callback trainer.callbacks",
    "targets.ranks": "rank_pattern",
    "objective": "monitor",
    "rows are in memory": "data.num_workers",
    "every step is logged": "logging_steps",
    "outputs": "output_dir logging_dir",
    "task.max_length": "cutoff_len",
    "quant=nf4": "load_in_4bit",
    "quant=nf4, fp4": "bnb_4bit_quant_type",
    "method=rslora": "use_rslora",
    "method=dora": "use_dora",
    "optim.warmup": "warmup_ratio",
    "optim.warmup, a share of the steps": "warmup_steps num_warmup_steps",
    "it is the model's own": "model.chat_template padding_side",
    "of a conversation the replies": "response_template",
    "task.generation.beams": "num_beams temperature do_sample",
    "it is not built in": "label_smoothing_factor neftune_noise_alpha",
    "optim.schedule": "lr_scheduler_type",
    "tracking": "report_to",
    "name": "run_name",
    "trainer.precision=bf16": "bf16",
    "task.packing": "sample_packing",
    "trainer.validations, the number": "eval_steps",
    "trainer.attention": "attn_implementation",
    "method": "finetuning_type",
    "task.validation_share": "val_set_size",
    "only the completion is learned": "train_on_inputs",
    "task.text": "dataset_text_field",
    "trainer.gradient_checkpointing": "use_gradient_checkpointing",
}


@pytest.mark.parametrize(("word", "ours"), [(word, ours) for ours in FIRST_WORDS for word in FIRST_WORDS[ours].split()])
def test_a_word_of_another_library_is_answered_with_ours(word, ours, capsys):
    for plus in ("", "+"):
        assert main(["train", f"{plus}{word}=1"]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and word in line and ours in line.partition(" (")[2]


# An option or a value that is none here, and the end of its one line of refusal.
FIRST_VALUES = {
    "trainer.device=TPU": "one of auto, cpu, cuda (no other accelerators are supported)",
    "trainer.devices=auto": "an integer from 1 to 4096 (for all GPUs give their number, which rankwise doctor shows)",
    "trainer.devices=-1": "an integer from 1 to 4096 (for all GPUs give their number, which rankwise doctor shows)",
    "quant=GPTQ": "none (rankwise quantizes the model itself, on loading: quant=nf4 to 4 bits, quant=int8 to 8)",
    "quant=int4": "none (here it is quant=nf4)",
    "quant=qlora": "none (here it is method=lora quant=nf4)",
    "task.metric=mcc": "matthews for task.kind=classification (here it is task.metric=matthews)",
    "optim.schedule=constant_with_warmup": "(here it is optim.schedule=constant with optim.warmup)",
    "trainer=sft": "(here it is task=prompts or task=chat, with task.path=FILE)",
    "trainer=dpo": "(it learns labels, values and completions, not preferences)",
    "model.name=org/m": "chooses no model; that is model=NAME, or model=local model.path=FOLDER_OR_HUB_ID",
    "TASK.PATH=x": "no such key (here it is task.path); 'rankwise train --cfg job' prints all",
}


@pytest.mark.parametrize(("word", "end"), FIRST_VALUES.items(), ids=FIRST_VALUES)
def test_a_value_of_another_library_is_answered_with_ours(word, end, capsys):
    assert main(["train", word]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and word.removesuffix("=x") in line and line.endswith(f"{end}\n")


def test_every_key_that_a_word_is_answered_with_exists():
    for word, ours in SYNONYMS.items():
        keys = {key for key in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", ours) if not key.endswith(("yaml", "jsonl"))}
        assert keys <= set(known_keys()), word
