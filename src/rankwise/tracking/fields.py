"""What a person picks from a run: its arm, its setup, where it comes from, its scores and its costs.

One flat list, for W&B and its dashboards, Trackio, TensorBoard and the report's columns: each field has the key that it
is shown under and the dotted path of a record where it is found. What a method does not own is absent.
"""

from typing import Any

from rankwise.identity import canonical
from rankwise.tracking.groups import PARTS
from rankwise.tracking.record import Record

RESULT = "result"  # the stage of a run that is compared

# Of the config of a mirrored run. No group is called as one of rankwise's config: W&B keeps what a sweep sets ("method"
# = "lora") and drops whatever a run sends under the same name.
SETUP = {
    "arm.method": "config.method.name",
    "arm.rank": "lora.rank",  # of the config where it has one: of method.budget it follows
    "arm.targets": "config.targets.name",
    "arm.quant": "config.quant.name",
    "arm.lr": "config.optim.lr",
    "arm.scale": "lora.scale",
    "run.study": "run.study",
    "run.model": "config.model.name",
    "run.task": "config.task.name",
    "run.stage": "config.stage",
    "run.objective": "config.objective",
    "run.seed": "config.seed",
    "run.data_seed": "config.data_seed",
    "run.id": "run.id",
    "run.attempts": "run.attempts",
    "origin.command": "provenance.command",
    "origin.git_commit": "provenance.git.commit",
    "origin.git_diff": "provenance.git.diff",
    "origin.code": "provenance.code",
    "origin.host": "run.host",
    "origin.cpu": "provenance.hardware.cpu",
    "origin.cores": "provenance.hardware.cores",
    "origin.gpus": "provenance.hardware.gpus",
    "origin.python": "provenance.python",
    "origin.packages": "provenance.packages",
    "origin.data": "provenance.data.fingerprint",
    "origin.model": "provenance.model.fingerprint",
}
# Of its summary: one number or word each.
RESULTS = {
    "objective": "objective",
    "status": "run.status",
    "answer": "run.answer",
    "params/trainable": "params.trainable",
    "params/total": "params.total",
    **{f"memory/train/{part}_bytes": f"memory.train.{part}_bytes" for part in ("peak", *PARTS)},
    "memory/train/predicted_peak_bytes": "memory.train.predicted.peak_bytes",
    "memory/train/process_peak_bytes": "memory.train.process_peak_bytes",
    "memory/train/allocated_peak_bytes": "memory.train.allocated_peak_bytes",
    "memory/eval/peak_bytes": "memory.eval.peak_bytes",
    "compute/precision": "compute.precision",
    "compute/device": "compute.device",
    "compute/steps": "compute.steps",
    "compute/diverged": "compute.diverged",
    "compute/train_s": "compute.seconds.train_s",
    "compute/total_s": "compute.seconds.total_s",
    "compute/tokens_per_s": "compute.tokens_per_s",
    "compute/mfu": "compute.mfu",
    "compute/flops_per_token": "compute.flops.per_token",
    "compute/flops_of_full": "compute.flops.of_full",
    "compute/quant_error": "compute.quant_error",
    "compute/generated_tokens_per_s": "compute.generation.tokens_per_s",
    "storage/adapter_bytes": "storage.adapter_bytes",
    "forgetting/difference": "metrics.forgetting.difference.value",
    "forgetting/difference_se": "metrics.forgetting.difference.se",
}
# metrics.test.accuracy.value is test/accuracy, its se test/accuracy_se
SPLITS = {"test": "test", "val": "validation", "harness": "harness"}


def at(record: Record, path: str) -> Any:
    """The value at a dotted path of a record, or None."""
    first, *rest = path.split(".")
    value: Any = getattr(record, first)
    for part in rest:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def setup(record: Record) -> dict[str, Any]:
    """What a run is, nested as ``SETUP`` says, and under ``config`` every other key that decides its result.

    Of ``arm`` the keys that the method owns: full fine-tuning has no rank. Nulls are left out.
    """
    config = canonical(record.config)
    method = {f"arm.{key}": value for key, value in config.pop("method").items() if key != "name"}
    if "arm.alpha" in method:
        method["arm.alpha"] = record.config["method"]["alpha"]  # a number stays one: dashboards sort and plot it
    values = {key: at(record, path) for key, path in SETUP.items()} | method
    values["run.stage"] = values["run.stage"] or RESULT
    if "targets" not in config:
        del values["arm.targets"]
    if "optim" not in config:  # nothing is trained in steps
        del values["arm.lr"], values["arm.quant"]
    if packages := values["origin.packages"]:  # one column, not ten
        values["origin.packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    for group in ("model", "task", "forgetting"):
        for key in ("package", "shape", "columns", "text", "label"):  # where it came from: fingerprints say more
            (config.get(group) or {}).pop(key, None)
    config.get("targets", {}).pop("name", None)  # is arm.targets
    for key in ("seed", "data_seed", "stage", "objective"):
        config.pop(key, None)
    config.get("optim", {}).pop("lr", None)
    nested: dict[str, Any] = {"config": {key: value for key, value in config.items() if value != {}}}
    for key, value in values.items():
        group, name = key.split(".", 1)
        if value is not None and value != []:
            nested.setdefault(group, {})[name] = value
    return nested


def results(record: Record) -> dict[str, Any]:
    """What came of a run, flat; nulls are left out, but for the objective and the status."""
    values = {key: at(record, path) for key, path in RESULTS.items()}
    for short, split in SPLITS.items():
        for name, score in (at(record, f"metrics.{split}") or {}).items():
            values |= {f"{short}/{name}": score.get("value"), f"{short}/{name}_se": score.get("se")}
    return {key: value for key, value in values.items() if value is not None or key in ("objective", "status")}


def objective(row: dict[str, Any], record: Record) -> dict[str, Any]:
    """Each validation's value of what selects, under the one name that a sweep's early stopping can look for."""
    name = record.config.get("objective")
    return {"objective": row[name]} if name in row else {}
