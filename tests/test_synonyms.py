"""What users of other libraries type first is answered with what it is called here."""

import re

import pytest

from rankwise.cli import main
from rankwise.config import known_keys
from rankwise.synonyms import SYNONYMS

# What the one line of refusal calls it, and words for it: one for each way in which a word is known.
FIRST_WORDS = {
    "method.rank": "r method.r lora_r",
    "targets=qv": "lora.target lora_target",
    "trainer.epochs": "epochs trainer.max_epochs",
    "tracking.project": "wandb.project wandb_project",
    "logger=NAME": "loggers",
    "--config RUN/config.yaml": "ckpt_path",
    "optim.warmup, a share of the steps": "num_warmup_steps",
    "method=rslora": "use_rslora",
    "it is not built in": "neftune_noise_alpha",
    "task.path": "data_dir",
    "hydra/launcher=slurm": "partition",
    "WANDB_NOTES": "notes",
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
    "task.name=sst2": "chooses no task; that is task=NAME, or task=local task.path=FILE",
    "task_name=sst2": "no such key (here it is task=glue/NAME); 'rankwise train --cfg job' prints all",
    "rnak=1": "no such key (did you mean rank?); 'rankwise train --cfg job' prints all",
    "task=glue": "(here it is experiment=glue, or task=glue/NAME)",
    "TASK.PATH=x": "no such key (here it is task.path); 'rankwise train --cfg job' prints all",
}


@pytest.mark.parametrize(("word", "end"), FIRST_VALUES.items(), ids=FIRST_VALUES)
def test_a_value_of_another_library_is_answered_with_ours(word, end, capsys):
    assert main(["train", word]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.endswith(f"{end}\n")
    assert word in line or f"{word.partition('=')[0]}: no such key" in line


def test_every_key_that_a_word_is_answered_with_exists():
    for word, ours in SYNONYMS.items():
        keys = {key for key in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", ours) if not key.endswith(("yaml", "jsonl"))}
        assert {key for key in keys if not key.startswith("hydra.")} <= set(known_keys()), word
