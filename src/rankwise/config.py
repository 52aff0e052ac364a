"""What a run is: the typed schema, and what its values mean.

Hydra composes a ``Config`` from ``conf/``; everything downstream reads this one object. Nothing here imports torch.
"""

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from rankwise import methods
from rankwise.allowed import choice, distinct, integer, keyed, number
from rankwise.methods import Method
from rankwise.metrics import KINDS

FORMATS = (
    *("csv", "tsv", "jsonl", "parquet", "lines", "class_files", "text"),
    *("glue", "wordnet", "e2e", "webnlg", "dart", "oasst"),
)


@dataclass
class Package:
    """A file or folder inside a package of pip's index, fetched once and checked against its hash; nothing is run."""

    name: str = MISSING
    version: str = MISSING
    sha256: str = MISSING  # of the archive that the registry serves
    member: str = MISSING  # path inside it; "inner.tar.gz!path" looks into a nested archive
    sdist: bool = False  # the source distribution instead of the wheel


@dataclass
class Model:
    """The base LM: exactly one of ``path``, ``package`` and ``shape`` says where it comes from."""

    name: str = MISSING
    path: str | None = None  # local folder, GGUF file or hub id; wins over package and shape
    package: Package | None = None
    shape: Any = None  # {key: value}: random weights of this transformers config, with a byte tokenizer
    revision: str | None = None  # of a hub id


@dataclass
class Generation:
    """What a language model writes for the test prompts, and how that is scored."""

    metrics: list[str] = field(default_factory=list)  # of kind ``text``; none: nothing is generated
    n: int | None = integer(None, 1, 10**10)  # prompts; null takes all of the test rows
    max_new_tokens: int = integer(64, 1, 10**5)  # at which an answer is cut
    batch_size: int = integer(8, 1, 10**5)
    beams: int = integer(1, 1, 1000)  # 1 is greedy
    length_penalty: float = number(1.0, -10, 10)  # beams are ranked by log-probability / length ** length_penalty
    no_repeat: int = integer(0, 0, 1000)  # n-grams of this size are not written twice; 0 is off
    stop: str | None = None  # text at which an answer ends, beside the end token
    keys: list[str] | None = None  # of metric json_keys: the keys that the answer must have


TABS = ("tab", "\t", "\\t", "\\\\t")  # as shells let a tab be written


@dataclass
class Task:
    """Data, labels, metric and split sizes."""

    name: str = MISSING
    kind: str = choice(*KINDS)
    path: str | None = None  # local file or folder, or hub id; wins over package and synthetic
    package: Package | None = None
    synthetic: int | None = integer(None, 10, 10**7)  # rows of a generated toy task, or of ``reasoning``
    reasoning: str | None = None  # causal_lm: a procedural data set of the package reasoning-gym
    revision: str | None = None  # of a hub id
    subset: str | None = None  # of a hub id: its configuration
    files: Any = None  # of a folder: {train: train.tsv, test: [a.tsv, b.tsv]}; parts not named are cut from train
    splits: Any = None  # the same of the splits of a hub id, or of what ``split`` holds; null goes by their names
    format: str | None = choice(None, *FORMATS)  # null goes by the suffix
    encoding: str | None = None  # null: UTF-8, else cp1252 or Latin-1; A+B reads as B what is not in A
    delimiter: str | None = None  # null: comma in .csv, tab elsewhere; "tab" is one; of lines and text any text
    decimal: str = choice(".", ",", off=".")  # "," where numbers are written as 1.234,5
    columns: list[str] | None = None  # names, where the file has no header line; "..." at the end: and more, not read
    text: str = "text"  # column of what is read
    pair: str | None = None  # column of the second text of a pair
    label: str = "label"  # column of what is predicted
    labels: Any = None  # classes in order, [neg, pos], or by label, {1: World, x*: null}; null sorts the labels
    skip_empty: bool = keyed(False, off=False)  # rows with an empty text or label are left out, counted; else refused
    split: str | None = None  # column that says train, validation or test
    group: str | None = None  # column whose rows of one value count as one item; ``source`` is the file or split
    prompt: str | None = None  # causal_lm: column of what is given
    completion: str | None = None  # causal_lm: column of what is to be written, the only part that is learned
    messages: str | None = None  # causal_lm: column of a conversation, [{role, content}, …]; replies are learned
    replies: str = choice("all", "last", off="all")  # of a conversation, which are learned
    template: str | None = None  # causal_lm: the prompt made of columns, as "{word} ({pos}):"; wins over prompt
    threshold: float | None = None  # classification of a number: class 1 is label > threshold
    min_abs_label: float = number(0.0, 0)  # rows whose |label| is smaller are left out
    deduplicate: bool = False  # keep the first of the rows whose normalised text is the same
    protocol: str = choice("clean", "paper", off="clean")  # paper: checkpoints chosen on the test rows; optimistic
    validation_share: float = number(0.15, 0, 1, above=True, below=True)  # by hash of the normalised text
    test_share: float = number(0.25, 0, 1, above=True, below=True)  # the same of the test rows
    n_train: int | None = integer(None, 2, 10**10)  # sampled with data_seed; null takes all
    n_validation: int | None = integer(None, 2, 10**10)  # the first by hash; null takes all
    n_test: int | None = integer(None, 2, 10**10)  # the same
    max_length: int = integer(48, 4, 10**6)  # tokens
    blocks: bool = keyed(False, off=False)  # causal_lm: texts joined and cut to max_length: comparable perplexity
    packing: bool = keyed(False, off=False)  # causal_lm: several training examples per row, none of which sees another
    metric: str = "accuracy"
    margin: float = number(0.02, 0, above=True)  # two scores closer than this count as the same; fixed before the run
    generation: Generation = field(default_factory=Generation)

    @property
    def writes(self) -> bool:
        """Whether a language model learns to write: there are texts to continue and no labels."""
        return self.kind == "causal_lm"

    @property
    def has_classes(self) -> bool:
        """Whether labels name classes."""
        return self.kind == "classification"

    @property
    def has_values(self) -> bool:
        """Whether labels are numbers to predict."""
        return self.kind == "regression"


@dataclass
class Targets:
    """Which linear layers carry an adapter, and of which rank where that differs."""

    name: str | None = MISSING  # null, as all keys, where the method sits on none
    modules: list[str] | None = None  # last parts of module names; null means the preset ``name``
    regex: str | None = None  # matched against whole module names
    layers: list[int] | None = None  # block numbers; null means all
    ranks: Any = None  # LoRA: {last part of names, or a regex of whole ones: another rank}
    alphas: Any = None  # LoRA: the same to another alpha (a number or 2r)

    def __post_init__(self) -> None:
        """Of lists only the content counts: one spelling is one run and one arm."""
        self.modules, self.layers = distinct(self.modules), distinct(self.layers)
        if self.modules or self.regex:  # which win over a preset
            self.name = "custom"


@dataclass
class Quant:
    """Storage of the frozen base."""

    name: str = MISSING
    kind: str | None = None  # bf16 | int8 | int8_torchao | nf4 | fp4; null is fp32, as it was loaded
    double: bool | None = keyed(off=False)  # nf4 and fp4: quantize the quantization constants as well

    def __post_init__(self) -> None:
        """Named by what it does, whether that was chosen by name or key by key."""
        self.name = f"{self.kind}{'_double' * bool(self.double)}" if self.kind else "none"


@dataclass
class Optim:
    """The optimizer, with warm-up and decay."""

    name: str = choice("adamw", "sgd", "adafactor")
    kernel: str | None = choice(None, "fused", "foreach", "loop")  # null is fused where there is such a kernel
    momentum: float = number(0.9, 0, 1, below=True)  # of sgd
    lr: float = MISSING
    weight_decay: float = number(0.01, 0, 10)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    schedule: str = choice("linear", "cosine", "constant")  # after the warm-up
    warmup: float = number(0.1, 0, 1, below=True)  # share of all steps


@dataclass
class Trainer:
    """Budget, batches and numerics. Every arm of a study gets the same budget of optimizer steps."""

    epochs: float = number(3.0, 0, 10_000, above=True)  # may be a fraction
    max_steps: int | None = integer(None, 1, 10**9)  # optimizer steps; wins over epochs
    batch_size: int = integer(32, 1, 10**5)  # rows of a micro-batch; typed as auto: parts of it that fit
    accumulate: int = integer(1, 1, 10**5)  # micro-batches of a step
    eval_batch_size: int = integer(64, 1, 10**5)  # rows
    group_by_length: bool = True  # rows of like length share a batch: less padding
    clip: float = number(1.0, 0)  # global gradient norm; 0 is off
    validations: int = integer(5, 1, 10**5)  # spread evenly over the steps
    early_stopping: int | None = integer(None, 1, 10**5)  # validations without improvement; off in comparisons
    precision: str = choice("auto", "fp32", "bf16", "fp16", "bf16_true")  # bf16_true: weights, too
    gradient_checkpointing: bool = False  # keep no activations inside blocks: less memory, one more forward
    attention: str = choice("auto", "eager", "sdpa")  # auto: eager on a CPU, where sdpa with dropout is slower
    matmul_precision: str = choice("highest", "high", "medium")  # for fp32 products
    device: str = choice("auto", "cpu", "cuda")
    threads: int | None = integer(None, 1, 1024)  # of torch; null leaves it to the launcher
    devices: int = integer(1, 1, 4096)  # of one run: GPUs, or processes on a CPU, that share every batch
    strategy: str = choice("ddp", "fsdp2")  # fsdp2: each device has a part of the base, and borrows the others
    deterministic: bool = True  # the same numbers again on the same machine
    save_full: bool = False  # keep all weights of a fully fine-tuned model, not only their size
    # Of Lightning's Trainer, to find out what a run does; one that has any of them is of stage debug.
    profiler: str | None = choice(None, "simple", "advanced", "pytorch")  # its tables go into the run's folder
    detect_anomaly: bool | None = None  # the operation whose gradient is the first NaN raises an error
    max_time: str | None = None  # days:hours:minutes:seconds after which training ends, "00:00:10:00"


DEBUGGING = ("profiler", "detect_anomaly", "max_time")  # keys of ``Trainer`` that go to Lightning's as they are


@dataclass
class Forgetting:
    """What a run is asked before and after training that it was not trained for: what did it unlearn?

    A causal LM is asked for its loss on ``text``. An encoder's frozen features are asked for ``label`` by a linear
    probe, and for the order of the cosines of random pairs of texts.
    """

    name: str = "none"
    path: str | None = None  # local file or hub id; wins over package
    package: Package | None = None
    revision: str | None = None
    format: str | None = choice(None, *FORMATS)  # as the keys of the task
    columns: list[str] | None = None
    text: str = "text"
    label: str = "label"
    threshold: float | None = None
    min_abs_label: float = number(0.0, 0)
    n: int | None = integer(1000, 1, 10**7)  # texts, the first by hash; null takes all


@dataclass
class Tracking:
    """What is measured beside the result, and the W&B mirror of a run."""

    ledger: bool = True  # follow every tensor of one training step and one evaluation batch; predict the same
    latency: list[Any] = field(default_factory=list)  # [rows, length] whose forward pass is timed: [[1,128],[32,512]]
    name: str = choice("wandb", "trackio", "tensorboard", "none")
    mode: str = choice("auto", "offline", "online", "disabled")  # of W&B; auto: online with a key; disabled: no tracker
    project: str | None = None  # null: WANDB_PROJECT, else rankwise
    entity: str | None = None  # null: WANDB_ENTITY, else the key's own
    tags: list[str] = field(default_factory=list)


@dataclass
class Config:
    """One run, whole."""

    model: Model = field(default_factory=Model)
    task: Task = field(default_factory=Task)
    method: Method = field(default_factory=Method)
    targets: Targets = field(default_factory=Targets)
    quant: Quant = field(default_factory=Quant)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    forgetting: Forgetting = field(default_factory=Forgetting)
    tracking: Tracking = field(default_factory=Tracking)
    callbacks: dict[str, Any] = field(default_factory=dict)  # of Lightning: {NAME: {_target_: package.Class}}
    logger: dict[str, Any] = field(default_factory=dict)  # the same of Lightning's loggers, beside ``tracking``
    study: str = "default"  # runs of one study are compared with each other
    name: str | None = None  # of the run; null makes one from the arm
    stage: str | None = choice(None, "tune", "pilot", "search", "debug")  # it is in no comparison; null: a result
    seed: int = integer(0, 0, 2**32 - 1)  # initialisation, order, dropout
    data_seed: int = integer(0, 0, 2**32 - 1)  # which training rows are drawn
    objective: str = "val/${task.metric}"  # what selects the checkpoint and the learning rate
    outputs: str = "outputs"  # folder of the studies
    rerun: bool = False  # run again what has finished


def merged(values: dict[str, Any]) -> DictConfig:
    """Nested plain values over the schema; unknown keys and wrong types raise OmegaConf's errors."""
    return OmegaConf.merge(_schema(), values)  # type: ignore[return-value]


@functools.cache
def _schema() -> DictConfig:
    """Made once, which takes as long as several merges; a merge copies it."""
    return OmegaConf.structured(Config)


def typed(values: dict[str, Any] | DictConfig) -> Config:
    """A ``Config`` from nested values, interpolations resolved; what does not fit raises OmegaConf's errors.

    What the method does not own is null: keys of other methods, targets where it sits on none, a baseline's storage.
    """
    config: Config = OmegaConf.to_object(values if isinstance(values, DictConfig) else merged(values))  # type: ignore[assignment]
    owned = methods.owned({"method": vars(config.method), "targets": vars(config.targets)})
    config.method, config.targets = Method(**owned["method"]), Targets(**owned["targets"])
    if methods.of(config.method).is_baseline:
        config.quant = Quant("none")
    if isinstance(labels := config.task.labels, dict):  # by texts, as JSON has them
        named = [(label.strip() if isinstance(label, str) else str(label).lower(), labels[label]) for label in labels]
        config.task.labels = dict(named)
    if any(getattr(config.trainer, key) for key in DEBUGGING):
        config.stage = config.stage or "debug"
    return config


def plain(config: Config) -> dict[str, Any]:
    """The config as nested plain values, every key present."""
    return asdict(config)


_changed_last: dict[str, DictConfig] = {}  # one, which a tuned study changes many times; a merge takes four copies


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A config with dotted keys changed; ``optim.lr``, which follows ``method.lr`` and is a number by now, with it."""
    if "method.lr" in changes:
        changes = {"optim.lr": changes["method.lr"], **changes}
    if (last := repr(config)) not in _changed_last:
        _changed_last.clear()
        _changed_last[last] = merged(plain(config))
    node = copy.deepcopy(_changed_last[last])
    for key, value in changes.items():
        OmegaConf.update(node, key, value)
    return typed(node)


@functools.cache
def known_keys() -> dict[str, tuple[Any, Field[Any]]]:
    """Every dotted key of the schema, of groups too, with its type and its field."""

    def walk(kind: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, Field[Any]]]]:
        hints = get_type_hints(kind)
        for own in fields(kind):
            hint = hints[own.name]
            yield prefix + own.name, (hint, own)
            for group in (part for part in (hint, *get_args(hint)) if is_dataclass(part)):
                yield from walk(group, f"{prefix}{own.name}.")

    return dict(walk(Config, ""))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
