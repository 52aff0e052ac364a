"""What each method is, in one declaration: its keys, its facts, what it refuses. Its builder is in ``model/``.

To add a method of PEFT's, write ``conf/method/NAME.yaml`` with its ``peft`` config: that is all. One that has keys,
checks or a builder of its own is declared in ``DECLARED``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import MISSING

from rankwise.allowed import distinct, keyed
from rankwise.alpha import check_alpha, scale_of
from rankwise.errors import Refused, did_you_mean

if TYPE_CHECKING:
    from rankwise.config import Config

_FROM_BASE = ("pissa", "olora", "milora", "init_ab", "lora_ga")  # s·B₀A₀ is taken out of W
INITS = ("zero_B", "zero_A", "gaussian", "orthogonal", "pissa_niter_16", "eva", *_FROM_BASE)
BIASES = ("none", "all", "lora_only")


def _integer(letter: str, noun: str, least: int, what: str = "an integer") -> Any:
    most = 10**6
    allowed = f"{what} from {least} to {most}"
    return keyed(fits=lambda n: n is not None and least <= n <= most, allowed=allowed, size=(letter, noun))


@dataclass
class Method:
    """How the weights are adapted: the keys of all methods. Those that a method does not own are null."""

    name: str = MISSING
    lr: float = MISSING
    shots: int | None = _integer("k", "shot count", 0, "a number of examples")
    dim: int | None = _integer("d", "dimension", 1, "numbers to train,")
    init_from: str | None = None  # a finished run or an adapter folder whose weights are the start
    layers: int | None = _integer(
        "k", "layer count", 1, "how many of the last blocks are trained (chosen ones: targets.layers),"
    )
    size: int | None = _integer("m", "width", 1, "an inner width")
    place: str | None = keyed(  # both: behind attention and MLP
        off="both", fits=lambda place: place in (None, "both", "mlp"), allowed="one of both, mlp"
    )
    modules_to_save: list[str] | None = None  # trained in full beside the adapter; the task head always is
    block: int | None = _integer("b", "block size", 2, "the side of the orthogonal blocks,")
    rank: int | None = _integer("r", "rank", 1)
    peft: Any = None  # {_target_: peft.XConfig, key: value}
    dropout: float | None = keyed(
        0.0, fits=lambda p: p is not None and 0 <= p < 1, allowed="from 0 up to, not including, 1"
    )
    alpha: Any = None  # what the scale of BA follows from: 16 is 16/r, 2r is 2, 16sqrt is 16/√r
    bias: str | None = keyed("none", fits=lambda bias: bias in BIASES, allowed=f"one of {', '.join(BIASES)}")
    budget: int | None = keyed(  # the largest rank whose factors have no more parameters; rank is null then
        size=("b", "parameter budget")
    )
    init: str | None = keyed(off="zero_B", allowed=f"one of {', '.join(INITS)}")  # zero_B as null
    dora: bool | None = keyed(off=False)  # with a trained magnitude per output
    lr_ratio: float | None = keyed(  # the learning rate of B over that of the rest
        off=1, fits=lambda ratio: ratio is None or 0 < ratio < math.inf, allowed="a number above 0"
    )
    freeze_a: bool | None = keyed(off=False)  # train B alone
    nested: list[int] | None = None  # smaller ranks at which the leading columns are trained as adapters, too

    def __post_init__(self) -> None:
        """As of targets: of lists only the content counts."""
        self.modules_to_save, self.nested = distinct(self.modules_to_save), distinct(self.nested)


# What methods own beside name and learning rate.
_START = frozenset({"init_from"})
_PEFT = _START | {"modules_to_save"}
_RANK = _PEFT | {"rank"}
_ALPHA = _RANK | {"alpha"}
_ADALORA = _ALPHA | {"dropout", "bias"}
_LORA = _ADALORA | {"budget", "init", "dora", "lr_ratio", "freeze_a", "nested"}
_CUSTOM = _RANK | {"peft"}

# all weights | all, in a subspace | some of the base's | modules put beside its layers | an adapter of PEFT's, on the
# layers of ``targets`` | the task head alone | nothing of the language model: no steps, no checkpoints
Trains = Literal["all", "subspace", "weights", "modules", "adapter", "head", "nothing"]
Check = Callable[["Config"], None]


@dataclass(frozen=True)
class Declaration:
    """A method: what it is called and owns. What it does, and its source, is in ``conf/method/NAME.yaml``."""

    name: str
    trains: Trains
    keys: frozenset[str] = frozenset()  # its own, beside its name and learning rate
    check: Check = lambda config: None  # refuses what the bounds of its keys do not say
    promise: tuple[str, Callable[[Any], bool], str] | None = None  # a key, what its name says of it, and in words
    changes_matrices: bool = True  # of the base's blocks: there is a ΔW
    transposed: bool = True  # PEFT has it for GPT-2's layers, which keep weights as (in, out)

    @property
    def on_targets(self) -> bool:
        """Whether it sits on the linear layers of ``targets``."""
        return self.trains == "adapter"

    @property
    def is_lora(self) -> bool:
        """LoRA by one of its names: what a name stands for is in its keys (init, dora, lr_ratio, freeze_a, alpha)."""
        return self.keys == _LORA

    @property
    def is_baseline(self) -> bool:
        """Whether nothing of the language model is trained."""
        return self.trains == "nothing"

    @property
    def changes_base(self) -> bool:
        """Whether it trains weights of the base, which must then be stored in full."""
        return self.trains in ("all", "subspace", "weights")


def of(method: str | Method) -> Declaration:
    """The declaration of a method. A name that is not declared is that of a PEFT config, as ``custom`` is."""
    return DECLARED.get(method if isinstance(method, str) else method.name, DECLARED["custom"])


def own(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of ``method``, null where the method does not own the key."""
    declared, values = of(str(values["name"])), dict(values)
    if declared.name == "custom" and isinstance(values.get("peft"), Mapping):
        peft = dict(values["peft"])
        there = [peft.pop(key) for key in RANK_KEYS if type(peft.get(key)) is int and peft[key] > 0]
        rank = values.get("rank")  # which wins over the PEFT config's
        values |= {"rank": there[0] if there and rank is None else rank, "peft": peft}
    return {key: value if key in declared.keys | {"name", "lr"} else None for key, value in values.items()}


def with_class(method: Method) -> str:
    """Its name, behind ``custom`` that of PEFT's class: ``custom-ia3``."""
    own = method.name == "custom"
    return f"custom-{peft_class(method.peft).removesuffix('Config').lower()}" if own else method.name


def size_keys() -> dict[str, tuple[str, str]]:
    """The keys that size a method, with the letter before each in a run's name, and what a sentence calls it."""
    return {key.name: said for key in fields(Method) if (said := key.metadata.get("size"))}


def starts_from_base(method: Method) -> bool:
    """Whether the adapter's start is taken out of the base's weights (as PiSSA's), so that both give its logits."""
    return of(method).is_lora and str(method.init).startswith(_FROM_BASE)


def reads_base(method: Method) -> bool:
    """Whether the start of training needs the values of the base's weights, beside those of its forward pass."""
    plain = of(method).is_lora and method.init in (None, "zero_B", "zero_A", "gaussian", "orthogonal")
    return not plain or bool(method.dora or method.modules_to_save)


def check(config: Config) -> None:
    """Refuse an unknown method, values that it cannot take and pairs that contradict."""
    method, declared = config.method, of(config.method)
    if method.name not in DECLARED and method.peft is None:
        near = did_you_mean(method.name, DECLARED)
        raise Refused.value("method.name", method.name, f"one of {', '.join(DECLARED)}{near}")
    for key in (key for key in fields(Method) if key.name in declared.keys):
        value = getattr(method, key.name)
        elsewhere = (key.name, value) == ("rank", None) and declared.keys in (_LORA, _CUSTOM)  # of a budget, of PEFT's
        if (fits := key.metadata.get("fits")) and not (fits(value) or elsewhere):
            why = f"; method={method.name} has no method.budget" * (key.name == "rank" and value is None)
            raise Refused.value(f"method.{key.name}", value, key.metadata["allowed"] + why)
    if declared.promise:
        name, holds, allowed = declared.promise
        if not holds(getattr(method, name)):
            raise Refused.value(f"method.{name}", getattr(method, name), f"{allowed} with method={method.name}")
    if "alpha" in declared.keys:
        check_alpha("method.alpha", method.alpha)
        if method.rank is not None and not 1e-6 <= scale_of(method.alpha, method.rank) <= 1e6:
            raise Refused.value("method.alpha", method.alpha, "a scale between 1e-6 and 1e6")
    declared.check(config)
    if method.init_from is not None and not Path(method.init_from).expanduser().is_dir():
        raise Refused.value("method.init_from", method.init_from, "the folder of a finished run or of an adapter")


def owned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a config, null in ``method`` and ``targets`` where the method does not own them."""
    method = own(config["method"])
    targets = config.get("targets") or {}
    return {**config, "method": method, "targets": targets if of(method["name"]).on_targets else dict.fromkeys(targets)}


def peft_class(peft: Any) -> str:
    """The bare name of the class that ``method.peft`` asks for; empty where it names none."""
    return str(peft.get("_target_") or "").removeprefix("peft.") if isinstance(peft, Mapping) else ""


RANK_KEYS = ("r", "rank")  # of PEFT's configs


def _check_lora(config: Config) -> None:
    method, init = config.method, config.method.init
    if init == "loftq":
        why = "PEFT computes it on a CUDA GPU alone, so it is not offered; another start on quant=nf4 is"
        raise Refused.value("method.init", init, why)
    if init is not None and init not in INITS and not re.fullmatch(r"pissa_niter_[1-9][0-9]{0,2}", init):
        raise Refused.value("method.init", init, f"one of {', '.join(INITS)}{did_you_mean(init, INITS)}")
    if method.budget is not None:
        _check_budget(method)
    elif method.rank is None:
        raise Refused.value("method.rank", None, "an integer from 1")
    others = config.targets.ranks if isinstance(config.targets.ranks, dict) else {}
    ranks = [method.rank, *others.values()]
    if init == "orthogonal" and (odd := [rank for rank in ranks if rank is not None and rank % 2]):
        raise Refused.value("method.rank", odd[0], "an even number with method.init=orthogonal")
    if init == "zero_A" and method.freeze_a:
        raise Refused.value("method.freeze_a", True, "false with method.init=zero_A: a product with zero stays zero")
    if starts_from_base(method):
        if config.quant.kind:
            raise Refused.value("method.init", init, f"another with quant={config.quant.name}: it changes the base")
        if config.trainer.precision == "bf16_true":
            raise Refused.value("trainer.precision", "bf16_true", f"fp32, bf16 or fp16 with method.init={init}")
    if init == "eva" and config.task.packing:
        raise Refused.value("task.packing", True, "false with method.init=eva, which reads batches of single examples")
    if method.nested:
        _check_nested(config)
    if init not in (None, "zero_B") and method.init_from is not None:
        raise Refused.value("method.init", init, "null with method.init_from, which is a start of its own")


def _check_nested(config: Config) -> None:
    """Refuse whatever makes leading columns something else than LoRA of their number."""
    method, targets = config.method, config.targets
    if min(method.nested or ()) < 1 or (method.rank is not None and min(method.nested or ()) >= method.rank):
        raise Refused.value("method.nested", method.nested, f"ranks of which one is below {method.rank}")
    others = {"method.dora": method.dora, "targets.ranks": targets.ranks, "targets.alphas": targets.alphas}
    for key, value in {**others, "trainer.gradient_checkpointing": config.trainer.gradient_checkpointing}.items():
        if value:
            raise Refused.value(key, value, "off with method.nested, of which each step takes two ranks of plain LoRA")
    if method.init not in (None, "zero_B", "zero_A", "gaussian"):
        raise Refused.value("method.init", method.init, "null, zero_B, zero_A or gaussian with method.nested")


def _check_budget(method: Method) -> None:
    if method.rank is not None:
        raise Refused.value("method.budget", method.budget, "null, or method.rank=null: one follows from the other")
    if (method.budget or 0) < 1:
        raise Refused.value("method.budget", method.budget, "a number of parameters, at least 1")
    if method.bias != "none" or method.modules_to_save:
        key = "bias" if method.bias != "none" else "modules_to_save"
        raise Refused.value("method.budget", method.budget, f"null with method.{key}, which has a cost of its own")


def _check_custom(config: Config) -> None:
    method, named = config.method, peft_class(config.method.peft)
    if not named:
        raise Refused(f"method={method.name}: give method.peft={{_target_: peft.XConfig, …}}")
    if not re.fullmatch(r"[A-Za-z]\w*Config", named):
        raise Refused.value("method.peft._target_", method.peft["_target_"], "a config class of peft")
    if named == "GraloraConfig" and config.quant.kind not in (None, "bf16"):
        why = "none or bf16 with GraLoRA, which adds to a layer's output in place, as quantized layers do not allow"
        raise Refused.value("quant", config.quant.name, why)
    if named in ("LoHaConfig", "LoKrConfig"):
        _check_lycoris(config)


def _check_lycoris(config: Config) -> None:
    if config.quant.kind in ("nf4", "fp4"):
        why = "none, bf16 or int8 with LoHa and LoKr, which make ΔW in the shape that W is stored in"
        raise Refused.value("quant", config.quant.name, why)


def _check_baseline(config: Config) -> None:
    name, task = config.method.name, config.task
    if name == "few_shot" and not task.writes:
        raise Refused(
            f"method=few_shot: needs task.kind=causal_lm, a language model that writes; here it is {task.kind}"
        )
    if task.blocks and config.method.shots:
        raise Refused.value("method.shots", config.method.shots, "0 with task.blocks, which asks no questions")
    if name != "few_shot" and task.writes:
        raise Refused(f"method={name}: needs labels, which task.kind=causal_lm has not; use method=few_shot")


def _check_head(config: Config) -> None:
    if config.task.writes:
        raise Refused("method=head: needs a task head, which a language model of task.kind=causal_lm has not")


def _lora(name: str, key: str = "", holds: Any = None, allowed: str = "") -> Declaration:
    """LoRA or a variant, with what its name promises of a key: ``holds`` is the value or a test of it. A table can then
    not call an arm by what it is not."""
    test = holds if callable(holds) else lambda value: value == holds
    promise = (key, test, allowed or str(holds).lower()) if key else None
    return Declaration(name, "adapter", _LORA, _check_lora, promise=promise)


DECLARED = {declared.name: declared for declared in (
    _lora("lora"),
    _lora("rslora", "alpha", lambda alpha: str(alpha).endswith("sqrt"), "a policy such as 16sqrt"),
    _lora("dora", "dora", True),
    _lora("pissa", "init", lambda init: str(init).startswith("pissa"), "pissa or pissa_niter_16"),
    _lora("olora", "init", "olora"),
    _lora("milora", "init", "milora"),
    _lora("init_ab", "init", "init_ab"),
    _lora("lora_ga", "init", "lora_ga"),
    _lora("eva", "init", "eva"),
    _lora("orthogonal", "init", "orthogonal"),
    _lora("lora_plus", "lr_ratio", lambda ratio: ratio is not None, "a number"),
    _lora("lora_fa", "freeze_a", True),
    _lora("nested", "nested", bool, "a list of ranks"),
    Declaration("adalora", "adapter", _ADALORA),
    Declaration("vera", "adapter", _RANK | {"dropout"}),
    Declaration("loha", "adapter", _ALPHA, _check_lycoris, transposed=False),
    Declaration("lokr", "adapter", _ALPHA, _check_lycoris, transposed=False),
    Declaration("ia3", "adapter", _PEFT),
    Declaration("oft", "adapter", _PEFT | {"block"}, transposed=False),
    Declaration("custom", "adapter", _CUSTOM, _check_custom),
    Declaration("bottleneck", "modules", _START | {"size", "place"}, changes_matrices=False),
    Declaration("bitfit", "weights", _START, changes_matrices=False),
    Declaration("top_layers", "weights", _START | {"layers"}),
    Declaration("did", "subspace", frozenset({"dim"})),
    Declaration("full", "all"),
    Declaration("head", "head", _START, _check_head, changes_matrices=False),
    Declaration("probe", "nothing", check=_check_baseline),
    Declaration("tfidf", "nothing", check=_check_baseline),
    Declaration("few_shot", "nothing", frozenset({"shots"}), _check_baseline),
)}  # fmt: skip
