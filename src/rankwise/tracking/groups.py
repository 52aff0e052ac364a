"""The groups of a record: which keys each has and what may stand there, and the one check of both.

Every key may be absent: a run that failed early, or one of an older rankwise, has fewer. Keys that are not here are
passed over.
"""

import dataclasses
import functools
import math
import types
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

Count = Annotated[int, "≥ 0"]
Amount = Annotated[float, "≥ 0"]
Distance = Annotated[float, "≥ 0", math.inf]  # of a score, which may have no bound, as a perplexity
_LARGEST = 2**63  # of integers: what Parquet, W&B and NumPy can hold
_MOST = 1e30  # of what is counted or timed
_DEEPEST = 20  # levels of what is nobody's to describe
PARTS = ("weights", "gradients", "optimizer", "activations", "other")  # of memory, see ``_Footprint``


class _Mirror(TypedDict, total=False):
    """Where the mirror of a run is, and why it is not whole."""

    id: str
    mode: str
    entity: str | None
    project: str
    group: str | None
    url: str | None
    path: str
    problem: str  # why the mirror is not whole


class _Rerun(TypedDict, total=False):
    """Of the last rerun of a finished run whose result has stayed."""

    status: str  # how the last rerun ended, where the result before it has stayed
    message: str  # why it did


class RunInfo(TypedDict, total=False):
    id: Required[str]  # names the run's config; two of one id are the same run
    name: Required[str]
    study: Required[str]
    status: Required[Annotated[str, Literal["running", "finished", "failed", "stopped"]]]
    attempts: Required[Count]  # how often it was begun
    started: str  # ISO 8601, UTC
    ended: str | None
    pid: int
    host: str  # the machine's name
    died: list[Count]  # of the attempts before, those that ended without a word
    answer: str  # of rankwise find, in the last run of its study
    rerun: Annotated[dict[str, Any], _Rerun]
    wandb: Annotated[dict[str, Any], _Mirror]
    trackio: Annotated[dict[str, Any], _Mirror]
    tensorboard: Annotated[dict[str, Any], _Mirror]


class _Hardware(TypedDict, total=False):
    cpu: str
    cores: Count
    memory_bytes: Count | None
    gpus: list[str]
    os: str
    bf16: bool


class _Data(TypedDict, total=False):
    source: str
    asset: str  # its fingerprint, before rows were chosen
    fingerprint: str  # hash of the rows
    classes: list[str] | None
    train: Count
    validation: Count
    test: Count
    skipped: Any  # rows that were left out
    shared: dict[str, dict[str, int]]  # rows of a part that say the same as a training row
    notes: list[str]
    cut: Any  # examples cut at max_length


class Provenance(TypedDict, total=False):
    command: str  # as typed
    python: str
    packages: dict[str, str | None]
    hardware: Annotated[dict[str, Any], _Hardware]
    code: str  # fingerprint of rankwise's own source
    git: dict[str, str] | None  # commit, and diff: hash of what differs from it
    data: Annotated[dict[str, Any], _Data]
    model: dict[str, str]  # source, fingerprint; of a hub id the commit
    forgetting: str  # fingerprint of the texts that it was asked before and after


class Params(TypedDict, total=False):
    trainable: Count  # parameters that are trained
    frozen: Count
    total: Count
    adapter: Count  # of them in adapters
    head: Count  # of them in the task head


class _Footprint(TypedDict, total=False):
    """Bytes that tensors hold: by component at the peak of their sum, that sum, the peaks by phase and component."""

    weights_bytes: Count
    gradients_bytes: Count
    optimizer_bytes: Count
    activations_bytes: Count
    other_bytes: Count
    peak_bytes: Count  # the largest sum
    phase: str  # of the step, in which the peak is: forward, backward …
    phases: dict[str, Count]  # peak of each phase
    peaks: dict[str, Count]  # peak of each component


class _Phase(_Footprint, total=False):
    """A step or batch that was followed, what was predicted of it, and the peak that the system saw."""

    step: Count  # that was followed
    batch: list[list[int]]  # rows and tokens of its micro-batches
    predicted: _Footprint
    unpredicted: str  # why
    process_peak_bytes: Count  # on a CPU
    allocated_peak_bytes: Count  # on a GPU
    reserved_peak_bytes: Count  # by torch's allocator, on a GPU


Memory = Annotated[dict[str, Any], dict[str, _Phase]]  # by train, eval, generate


class _Times(TypedDict):
    value: Amount
    low: Amount
    high: Amount


class _Latency(TypedDict):
    """Median milliseconds of a forward pass, and times the base's."""

    rows: Count
    length: Count
    blocks: Count  # of passes, over which the interval is
    base_ms: Amount
    adapted_ms: Amount
    adapted_of_base: _Times
    merged_ms: Amount | None
    merged_of_base: _Times | None


class _Timed(_Latency, total=False):
    absent: str  # why it was not timed; then there are rows and length alone


class _NoLatency(TypedDict):
    rows: Count
    length: Count
    absent: str


class Compute(TypedDict, total=False):
    device: str  # cpu or cuda
    precision: str  # what auto came to
    threads: Count
    attention: str
    steps: Count
    tokens: Count  # of all training batches, without padding
    tokens_per_s: Amount | None  # of training, without padding
    diverged: bool  # a loss was not finite
    flops: Annotated[dict[str, Any], dict[str, Amount | None]]  # of a step, per token (padding counts), of all training
    mfu: Amount | None  # a fraction of peak_flops
    peak_flops: Amount | None
    peak_flops_source: str | None
    seconds: dict[str, Amount]  # by phase: train_s; total_s has all but start_up_s, of the process
    latency: Annotated[list[dict[str, Any]], list[_Timed | _NoLatency]]
    quant_error: Amount | None  # ‖q − fp32‖ / ‖fp32‖ of the logits before training, q in the run's precision
    quant_error_rows: Count  # rows that it is over
    generation: dict[str, Amount]  # prompts, tokens, seconds_s, tokens_per_s


class Storage(TypedDict, total=False):
    adapter_bytes: Count  # what must be kept to use the run


class _Lora(TypedDict, total=False):
    rank: Count | None
    alpha: float | None  # as a number
    scale: float | None  # what BA is multiplied by
    min_side: Count  # of any adapted matrix
    ranks: dict[str, Count]  # by module
    scales: dict[str, float]  # by module
    init_from: Any


Lora = Annotated[dict[str, Any], _Lora]


class _Score(TypedDict, total=False):
    """A null value is one that was not finite."""

    value: float | None
    se: Distance | None  # standard error over items
    n: Count  # items
    clusters: Count  # of items that are not independent, where there are any: the error is over these


Score = Annotated[dict[str, float], _Score]


class _Forgotten(TypedDict, total=False):
    measure: str  # loss | probe
    before: Score
    after: Score
    difference: Score  # after − before: positive where a loss forgot, negative where a probe did
    cosines: Score


class _Harness(_Score, total=False):
    """A score of lm-evaluation-harness."""

    shots: Count  # that were asked for; absent: the task's own
    limit: Count  # of its items; absent: all
    before: Score  # of the base as it is
    difference: Score | None  # from it, paired over items
    not_paired: str  # why there is no difference


class _Validated(TypedDict, total=False):
    step: Required[Count]
    epoch: Amount  # and val/…
    loss_fall: float  # since the validation before, which the first lacks; paired by row
    loss_fall_se: Amount


class Metrics(TypedDict, total=False):
    validation: dict[str, Score]  # at the chosen step
    test: dict[str, Score]
    by_rank: dict[str, dict[str, Score]]  # of nested LoRA: validation at each of its ranks, with the final weights
    best_step: Count | None  # the validation that was chosen
    first_loss: float | None  # of training, the mean of the first steps that were logged
    curve: Annotated[list[dict[str, float]], list[_Validated], list[dict[str, float | None]]]
    forgetting: Annotated[dict[str, Any], _Forgotten]
    harness: Annotated[dict[str, Any], dict[str, _Harness]]  # by task:metric of lm-evaluation-harness
    absent: dict[str, str]  # generated metrics that could not be had, and why


class _Error(TypedDict, total=False):
    type: str
    message: str
    traceback: str


Error = Annotated[dict[str, Any], _Error]


def problem(value: Any, kind: Any) -> str | None:
    """What in ``value`` is not of ``kind``: "compute.tokens is a text where an integer ≥ 0 belongs"; None if nothing.

    ``kind`` is a TypedDict or dataclass (optional keys may be absent, unknown ones are passed over), a list, dict or
    union of kinds, a scalar, or Any: whatever JSON can hold, not too large or deep to be worked with. Of
    ``Annotated[a, b, …]`` all of b … must hold; a is for type checkers.
    """
    wrong = _problem(value, kind)
    return wrong and f"{wrong[0].lstrip('.') or 'it'} {wrong[1]}"


_Problem = tuple[str, str] | None  # where, and what


def _problem(value: Any, kind: Any) -> _Problem:
    origin, parts, hints = _shape(kind)
    if kind is Any:
        return None if _is_workable(value) else ("", "holds numbers or levels that nothing can work with")
    if origin is Required:
        return _problem(value, parts[0])
    if origin is Annotated and not isinstance(parts[1], str):
        return next(filter(None, (_problem(value, part) for part in parts[1:])), None)
    if origin in (Union, types.UnionType):
        problems = [_problem(value, part) for part in parts if part is not NoneType]
        return None if None in problems or (value is None and NoneType in parts) else problems[0]
    if origin is Literal:
        return None if value in parts else _says(value, " or ".join(parts))
    if hints is not None or origin is dict:
        if not isinstance(value, dict):
            return _says(value, "a group of keys")
        if absent := [key for key in getattr(kind, "__required_keys__", ()) if key not in value]:
            return f".{min(absent)}", "is missing"
        for key, hint in hints.items() if hints is not None else dict.fromkeys(value, parts[-1]).items():
            if key in value and (wrong := _problem(value[key], hint)):
                return f".{key}{wrong[0]}", wrong[1]
        return None
    if origin is list:
        if not isinstance(value, list):
            return _says(value, "a list")
        for number, inner in enumerate(value):
            if wrong := _problem(inner, parts[0]):
                return f"[{number}]{wrong[0]}", wrong[1]
        return None
    return _scalar(value, kind, parts)


def _scalar(value: Any, kind: Any, parts: tuple[Any, ...]) -> _Problem:
    kind, least = (parts[0], " ≥ 0") if parts else (kind, "")
    most = parts[2] if len(parts) > 2 else _MOST
    if kind not in (int, float):
        return None if isinstance(value, kind) else _says(value, _NAMES[kind])
    number = isinstance(value, int | kind) and not isinstance(value, bool)
    if number and _is_workable(value) and not (least and not 0 <= value < most):
        return None
    return _says(value, _NAMES[kind] + least)


def _is_workable(value: Any, depth: int = 0) -> bool:
    """Whether numbers are finite and not too large, and levels not too many."""
    if isinstance(value, dict | list) and depth < _DEEPEST:
        inside = value.values() if isinstance(value, dict) else value
        return all(_is_workable(inner, depth + 1) for inner in inside)
    if isinstance(value, int):
        return abs(value) < _LARGEST
    return depth < _DEEPEST and (not isinstance(value, float) or math.isfinite(value))


def _says(value: Any, wanted: str) -> _Problem:
    shown = _NAMES[type(value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = f"{value:.6g}" if isinstance(value, float) or _is_workable(value) else "a number that is too large"
    return "", f"is {shown} where {wanted} belongs"


@functools.cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any] | None]:
    """Origin and arguments of a kind; of a TypedDict or a dataclass the keys, with what belongs there."""
    keyed = is_typeddict(kind) or dataclasses.is_dataclass(kind)
    return get_origin(kind), get_args(kind), get_type_hints(kind, include_extras=True) if keyed else None


_NAMES = {
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    dict: "a group of keys",
    list: "a list",
    int: "an integer",
    float: "a number",
}
