"""What users of PEFT, Lightning, transformers, Hydra and W&B type first, and what it is called here."""

from rankwise.errors import did_you_mean

# Config groups: their values are names of options.
GROUPS = (
    "model",
    "task",
    "method",
    "targets",
    "quant",
    "optim",
    "trainer",
    "forgetting",
    "tracking",
    "callbacks",
    "logger",
    "experiment",
    "debug",
)
ALIASES = {"rank": "method.rank", "lr": "method.lr", "tags": "tracking.tags"}  # these work as they are
_MEANINGS = {  # what it is here: the words for it, of which the last part of a dotted key counts
    "method.rank": "rank r lora_r lora_rank",
    "method.alpha": "alpha lora_alpha",
    "method.dropout": "dropout lora_dropout",
    "method.bias": "bias lora_bias",
    "method.init": "init_lora_weights",
    "method.dora": "use_dora",
    "method=rslora": "use_rslora",
    "targets=qv, or targets=custom targets.modules=[query,value]": "target_modules target layers_to_transform",
    "method.modules_to_save": "modules_to_save",
    "method.init_from": "resume resume_from_checkpoint",
    "method.lr": "lr learning_rate",
    "optim": "optimizer",
    "optim.schedule": "scheduler lr_scheduler lr_scheduler_type",
    "optim.warmup": "warmup_ratio warmup_steps num_warmup_steps",
    "optim.weight_decay": "weight_decay wd",
    "trainer.epochs": "epochs max_epochs num_epochs num_train_epochs",
    "trainer.max_steps": "steps max_steps num_steps",
    "trainer.batch_size": "batch_size bs train_batch_size per_device_train_batch_size",
    "trainer.eval_batch_size": "per_device_eval_batch_size",
    "trainer.accumulate": "accumulate_grad_batches gradient_accumulation_steps",
    "trainer.clip": "gradient_clip_val max_grad_norm clip_grad",
    "trainer.validations": "val_check_interval check_val_every_n_epoch eval_steps",
    "trainer.early_stopping": "early_stop patience",
    "trainer.precision": "precision bf16 fp16 dtype torch_dtype",
    "trainer.device": "accelerator device gpu gpus",
    "trainer.threads": "num_threads",
    "trainer.devices for one run, --jobs N for several at a time": "devices num_gpus ddp nproc_per_node",
    "trainer.strategy": "strategy fsdp deepspeed",
    "a run is on one machine; --jobs N runs several side by side": "num_nodes nnodes",
    "debug=fast, or debug=limit for your own model and data": "fast_dev_run dry_run",
    "task.n_train": "limit_train_batches max_train_samples",
    "debug=overfit": "overfit_batches",
    "task.n_validation": "limit_val_batches max_eval_samples",
    "task.n_test": "limit_test_batches limit_predict_batches",
    "task.max_length": "max_length max_seq_length block_size",
    "task": "data dataset dataset_name datamodule",
    "model.path": "model_name model_name_or_path pretrained_model_name_or_path base_model checkpoint",
    "quant=nf4": "load_in_4bit bits",
    "quant=int8": "load_in_8bit",
    "tracking": "wandb report_to",
    "tracking=wandb": "logger=wandb",
    "tracking=tensorboard": "logger=tensorboard",
    "tracking=trackio": "logger=trackio",
    "logger=NAME, with a conf/logger/NAME.yaml of yours; or tracking=wandb": "loggers",
    "method=lora quant=nf4": "method=qlora",
    "trainer.profiler": "profiler",
    "trainer.detect_anomaly": "detect_anomaly",
    "trainer.max_time, for one run; rankwise find --budget, as runs of a comparison have the same steps": "max_time",
    "tracking.project": "project wandb_project",
    "tracking.entity": "entity wandb_entity",
    "tracking.tags": "tags",
    "study": "group wandb_group experiment_name",
    "name": "run_name",
    "outputs": "output_dir out_dir default_root_dir save_dir dir",
    "--config RUN/config.yaml": "ckpt_path",
    "experiment=NAME, or --config FILE": "-cn --config-name config_name",
    "callbacks=NAME, with a conf/callbacks/NAME.yaml of yours": "callbacks callback",
    "nothing: a compiled model hides the tensors and operations that are followed and counted": "compile torch_compile",
    "seed": "random_seed",
}
SYNONYMS = {word: ours for ours, words in _MEANINGS.items() for word in words.split()}


def near_key(word: str, known: tuple[str, ...]) -> str:
    """What was meant by a key that is none: by its meaning, else by its spelling, else an empty string."""
    ours = SYNONYMS.get(word) or SYNONYMS.get(word.rpartition(".")[2])
    if ours is None and word.partition(".")[0] in ("data", "dataset", "datamodule", "wandb"):
        ours = SYNONYMS[word.partition(".")[0]]
    return f" (here it is {ours})" if ours and ours != word else did_you_mean(word, known)
