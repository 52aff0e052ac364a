"""What users of PEFT, Lightning, transformers, Hydra and W&B type first, and what it is called here."""

import difflib
import re
from collections.abc import Collection

from rankwise.errors import did_you_mean

# Config groups: their values are names of options.
OPEN = ("callbacks", "logger")  # groups of which several options may be chosen, and whose keys are the user's
GROUPS = (
    *("model", "task", "method", "targets", "quant", "optim", "trainer", "forgetting", "tracking"),
    *(*OPEN, "experiment", "debug"),
)
ALIASES = {"rank": "method.rank", "lr": "method.lr", "tags": "tracking.tags"}  # these work as they are
_MEANINGS = {  # what it is here: words for it that are not its own last part; of a dotted key the last part counts
    "method.rank": "r",
    "method.rank=4,8": "ranks max_rank",
    "method.init": "init_lora_weights",
    "method=lora": "use_peft use_lora",
    "method=rslora": "rslora",
    "method=dora": "use_dora",
    "method=pissa": "pissa_init",
    "method=full": "full_finetuning",
    "method.lr_ratio": "loraplus_lr_ratio",
    "method.shots": "num_shots num_fewshot few_shot",
    "targets=qv, or targets=custom targets.modules=[query,value]": "target_modules target attn_modules",
    "targets=all_linear": "target_linear apply_lora_to_mlp",
    "targets.layers": "layers_to_transform layers_pattern",
    "targets.ranks": "rank_pattern",
    "targets.alphas": "alpha_pattern",
    "method": "adapter peft peft_type peft_config lora lora_config finetuning_type",
    "method=bottleneck": "method=adapter",
    "method=head": "method=freeze method=linear_probe",
    "nothing: the same command goes on; method.init_from=RUN starts from its weights": "resume resume_from_checkpoint",
    "method.lr": "lr learning_rate",
    "optim": "optimizer",
    "optim=adamw": (
        "optim=adamw_torch_fused optim=adamw_8bit optim=adamw_bnb_8bit optim=paged_adamw_8bit optim=paged_adamw_32bit"
    ),
    "optim.schedule": "scheduler lr_scheduler lr_scheduler_type",
    "optim.warmup": "warmup_ratio",
    "optim.warmup, a share of the steps": "warmup_steps num_warmup_steps",
    "optim.schedule=constant with optim.warmup": "optim.schedule=constant_with_warmup",
    "optim.weight_decay": "wd",
    "trainer.epochs": "max_epochs num_epochs num_train_epochs",
    "trainer.max_steps": "steps num_steps max_steps_per_epoch",
    "trainer.batch_size": "batch_size bs train_batch_size per_device_train_batch_size micro_batch_size",
    "trainer.accumulate": "accumulate_grad_batches gradient_accumulation_steps",
    "trainer.attention": "attn_implementation flash_attn flash_attention",
    "trainer.clip": "gradient_clip_val max_grad_norm clip_grad",
    "trainer.validations": "eval_strategy evaluation_strategy",
    "trainer.validations, the number of them in a run": "val_check_interval check_val_every_n_epoch eval_steps",
    "trainer.early_stopping": "early_stop patience early_stopping_patience callbacks=early_stopping",
    "trainer.matmul_precision": "tf32",
    "trainer.precision": "mixed_precision dtype torch_dtype bnb_4bit_compute_dtype",
    "trainer.precision=fp16": "fp16 trainer.precision=16 trainer.precision=16-mixed trainer.precision=float16",
    "trainer.precision=bf16": "bf16 trainer.precision=bf16-mixed trainer.precision=bfloat16",
    "trainer.precision=fp32": "trainer.precision=32 trainer.precision=32-true trainer.precision=float32",
    "trainer.precision=bf16_true": "trainer.precision=bf16-true",
    "trainer.device": "accelerator gpu device_map trainer=cpu trainer=gpu trainer=cuda",
    "trainer.device=cuda": "trainer.device=gpu trainer.device=rocm",
    "nothing: no other accelerators are supported": (
        "trainer.device=tpu trainer.device=xla trainer.device=xpu trainer.device=hpu trainer.device=npu"
    ),
    "nothing: a Mac computes on its processor, with trainer.device=auto": "trainer.device=mps trainer=mps",
    "nothing: for all GPUs give their number, which rankwise doctor shows": (
        "trainer.devices=auto trainer.devices=-1 trainer.devices=all"
    ),
    "trainer.device=cpu": "cpu no_cuda",
    "trainer.devices for one run, --jobs N for several at a time": (
        "devices gpus num_gpus n_gpu multi_gpu ddp trainer=ddp nproc_per_node num_processes world_size"
    ),
    "trainer.strategy": "fsdp deepspeed",
    "nothing: a run is on one machine; --jobs N runs several side by side": "num_nodes nnodes num_machines",
    "nothing: with trainer.devices a run starts its processes itself": "local_rank ddp_timeout",
    "debug=fast, or debug=limit for your own model and data": "fast_dev_run",
    "--dry-run": "dry_run --list",
    "--out": "--output -o",
    "--rerun": "--overwrite --force overwrite_output_dir",
    "rankwise sweep FILE": "sweep sweep_id agent",
    "hydra.sweeper.n_trials, with hydra/sweeper=optuna": "n_trials num_trials",
    "--score": "--metric",
    "--fit": "--memory --vram",
    "--only ID": "--paper",
    "nothing: the forms are flags, such as --json; of report also --latex, --csv and --markdown": "--format",
    "task.margin, set before the runs": "--margin",
    "nothing: of train and plan; rankwise find method.rank=4,8 lists candidates": "-m --multirun",
    "nothing: of rankwise train and find": "--dry-run",
    "nothing: of rankwise train": "--join --config",
    "nothing: of rankwise find": "--budget --rates --reference --replay --simulate",
    "nothing: of rankwise plan": "--gpu --fit --mfu --power",
    "nothing: of hydra/launcher=slurm": (
        "hydra.launcher.workers hydra.launcher.partition hydra.launcher.account hydra.launcher.time "
        "hydra.launcher.memory hydra.launcher.gpus hydra.launcher.cpus hydra.launcher.sbatch"
    ),
    "hydra/launcher=slurm with hydra.launcher.partition, .time, .sbatch …": "partition sbatch slurm walltime",
    "task=glue/NAME": "task_name",
    "experiment=glue, or task=glue/NAME": "task=glue",
    "nothing: environment variables of W&B's, WANDB_NOTES and WANDB_JOB_TYPE": "notes job_type",
    "nothing: of rankwise report": "--latex --csv --columns --figures --pack",
    "task.n_train": "limit_train_batches max_train_samples max_samples",
    "debug=overfit": "overfit_batches",
    "task.n_validation": "limit_val_batches max_eval_samples",
    "task.n_test": "limit_test_batches limit_predict_batches",
    "task.validation_share": "val_set_size val_size validation_split",
    "task.test_share": "test_size test_split",
    "task.max_length": "max_seq_length max_seq_len cutoff_len sequence_len model_max_length block_size",
    "task.packing": "packed sample_packing",
    "task.template": "formatting_func prompt_template",
    "task.generation.beams": "num_beams",
    "nothing: what is written is greedy, or of task.generation.beams": "do_sample temperature top_p top_k",
    "task.metric=matthews": "task.metric=mcc task.metric=matthews_correlation",
    "task=local task.path=FILE task.text=COLUMN task.label=COLUMN": "--data --dataset --input --file",
    "task": "data dataset datasets dataset_name datamodule",
    "task.path": "dataset_path dataset_dir data_path data_dir",
    "task.path, and task.files={train: NAME, test: NAME}": "data_files train_file validation_file test_file",
    "task.text": "text_column text_column_name dataset_text_field",
    "task.label": "label_column label_column_name",
    "nothing: as many as the rows have; task.labels orders them": "num_labels num_classes",
    "nothing: of a prompt only the completion is learned, of a conversation the replies": (
        "train_on_inputs completion_only_loss assistant_only_loss response_template"
    ),
    "nothing: it is not built in": "label_smoothing label_smoothing_factor neftune_noise_alpha neftune",
    "model=local model.path": (
        "name_or_path model_name model_name_or_path pretrained_model_name_or_path base_model checkpoint"
    ),
    "nothing: it is the model's own": (
        "tokenizer tokenizer_name tokenizer_type special_tokens chat_template padding_side"
    ),
    "nothing: code of a model or of data is never run": "trust_remote_code",
    "quant=nf4": "load_in_4bit quant=4bit quant=int4 quant=bnb quant=bitsandbytes",
    "nothing: rankwise quantizes the model itself, on loading: quant=nf4 to 4 bits, quant=int8 to 8": (
        "quant=awq quant=gptq quant=autoround quant=hqq quant=aqlm quant=exl2 quant=fp8 quant=2bit quant=3bit"
    ),
    "model=local model.path=FILE.gguf": "quant=gguf quant=q4_0 quant=q4_k_m quant=q8_0",
    "quant=nf4, fp4 or int8": (
        "bits bnb_config bnb_4bit_quant_type quantization quantization_bit quantization_config quantize"
    ),
    "quant=nf4_double": "bnb_4bit_use_double_quant double_quant",
    "quant=int8": "load_in_8bit quant=8bit",
    "tracking": "report_to",
    "tracking=none": "no_wandb tracking=off tracking=no tracking=disabled",
    "tracking.mode=offline": "tracking=offline",
    "tracking=wandb": "wandb logger=wandb",
    "tracking=tensorboard": "logger=tensorboard",
    "tracking=trackio": "logger=trackio",
    "logger=NAME, with a conf/logger/NAME.yaml of yours; or tracking=wandb": "logger loggers metric_logger",
    "method=lora quant=nf4": "method=qlora quant=qlora",
    "trainer.max_time, for one run; rankwise find --budget, as runs of a comparison have the same steps": "max_time",
    "study": "group experiment_name",
    "name": "run_name",
    "outputs": "logging_dir output_dir out_dir default_root_dir save_dir dir",
    "--config RUN/config.yaml": "ckpt_path",
    "experiment=NAME, or --config FILE": "-cn --config-name config_name config --config_file .yaml .yml",
    "callbacks=NAME, with a conf/callbacks/NAME.yaml of yours": "callbacks callback",
    "nothing: a compiled model hides the tensors and operations that are followed and counted": "compile torch_compile",
    "an axis of seeds: -m seed=0,1,2": "seeds num_seeds n_seeds",
    "seed": "random_seed random_state seed_everything",
    "objective": "monitor metric_for_best_model optimized_metric",
    "optim.betas": "adam_beta1 adam_beta2",
    "task.kind": "task_type problem_type",
    "rankwise find, or an axis such as method.lr=1e-3,2e-3": "auto_lr_find lr_find tune search",
    "rankwise adapter export RUN --push NAME/REPOSITORY, later": "push_to_hub hub_model_id push",
    "rankwise adapter export RUN --out FOLDER, later": "export",
    "rankwise adapter merge RUN, later; other tools serve what that makes": "inference chat generate api serve webui",
    "rankwise adapter merge RUN, later": "merge merge_and_unload merge-lora",
    "rankwise adapter eval RUN --tasks A,B, later": "lm_eval lm-eval",
    "rankwise dashboard STUDY --push": "sync",
    "nothing: a run trains, validates and tests": (
        "train test do_train do_eval do_predict validate predict eval evaluate"
    ),
    "rankwise train": "fit run launch init",
    "rankwise report outputs": "compare show list ls status",
    "rankwise --help": "help",
    "rankwise --version": "version",
    "rankwise doctor": "env",
    "rankwise fetch": "preprocess",
    "nothing: it needs no account; wandb login is W&B's": "login",
    "nothing: a run keeps checkpoints of its own, and ends with the weights of its best validation": (
        "save_steps save_strategy save_total_limit enable_checkpointing load_best_model_at_end "
        "callbacks=model_checkpoint"
    ),
    "nothing: every step is logged, and progress is shown": (
        "log_every_n_steps logging_steps enable_progress_bar enable_model_summary num_sanity_val_steps "
        "callbacks=rich_progress_bar callbacks=model_summary"
    ),
    "nothing: a run's metrics.jsonl has every step, and rankwise report --csv a line for each arm": "logger=csv",
    "nothing: it learns labels, values and completions, not preferences": (
        "dpo orpo kto ppo grpo rlhf reward_model stage=dpo stage=kto stage=ppo stage=rm trainer=dpo trainer=kto"
    ),
    "task=prompts or task=chat, with task.path=FILE": "sft stage=sft trainer=sft",
    "task=text, with task.path=FILE": "stage=pt",
    "nothing: rows are in memory": (
        "num_workers dataloader_num_workers preprocessing_num_workers pin_memory persistent_workers"
    ),
}
_BEFORE = re.compile("(lora|use|wandb|enable)_(?=.)")  # what stands before a word that is meant without it
_ALIKE = 0.75  # of two flags, at least, by difflib's measure
SYNONYMS = {word: ours for ours, words in _MEANINGS.items() for word in words.split()}


def meaning(*words: str) -> str:
    """What the first of the words that has one is here, as a remark; an empty string where none has."""
    ours = next((SYNONYMS[word] for word in map(str.lower, words) if SYNONYMS.get(word, word) != word), "")
    if ours.startswith("nothing: "):
        return f" ({ours.removeprefix('nothing: ')})"
    return f" (here it is {ours})" if ours else ""


def near_key(word: str, known: Collection[str]) -> str:
    """What was meant by a key that is none: by its meaning, else by its spelling, else an empty string.

    Its last part counts if that is the last part of one known key, and if its group is one, the keys of that.
    """
    given, word = word, word.lower()
    if given != word and word in known:
        return f" (here it is {word})"
    group, _, name = word.rpartition(".")
    first, bare = word.partition(".")[0], _BEFORE.sub("", name)
    if said := meaning(word, name, bare):
        return said
    alike = [key for key in known if key.rpartition(".")[2] == bare]
    if (len(alike) == 1 and (ours := alike[0]) != word) or (ours := f"{SYNONYMS.get(first)}.{name}") in known:
        return meaning(first) if name == "name" else f" (here it is {ours})"  # an option has a name
    if said := meaning(first):
        return said
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == group}
    if not (group and beside):
        return did_you_mean(word, {*known, *GROUPS, *ALIASES} if known else ())
    near = difflib.get_close_matches(name, beside, n=1)
    return f" (did you mean {beside[near[0]]}?)" if near else ""


def near_flag(flag: str, flags: Collection[str], keys: Collection[str]) -> str:
    """What was meant by a flag that is none, of the command's flags and of the keys that it takes, if any."""
    word = flag.lstrip("-").replace("-", "_")
    ours = SYNONYMS.get(flag, "")
    if ours and (not ours.startswith("-") or ours.split(" ")[0] in flags):
        return meaning(flag)
    if near := difflib.get_close_matches(flag, flags, n=1, cutoff=_ALIKE):
        return f" (did you mean {near[0]}?)"
    if word in keys:
        return f" (here it is {word}=VALUE)"
    return near_key(word, keys) if keys else meaning(word)


def no_such_key(key: str, known: Collection[str]) -> str:
    """The refusal of a key that is none."""
    part = "hydra" if key.startswith("hydra.") else "job"
    return f"{key}: no such key{near_key(key, known)}; 'rankwise train --cfg {part}' prints all"
