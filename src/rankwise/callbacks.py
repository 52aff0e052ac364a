"""Callbacks and loggers of Lightning's that a config names: which may stand beside ours, and how one is made."""

import inspect
import pkgutil
import warnings
from collections.abc import Collection
from typing import Any

from rankwise.config import Config
from rankwise.errors import Refused, did_you_mean, reason

_KINDS = {"callbacks": "Callback", "logger": "loggers.Logger"}
_ONE_STEP = "the weights are those of one step, the best by validation"
_UNFIT = {  # of Lightning's, what changes what is compared, or what a run does itself
    "BatchSizeFinder": "the batch is that of all runs; trainer.batch_size=auto takes it in parts that fit",
    "LearningRateFinder": "the rate is the config's; an axis method.lr=… compares several",
    "GradientAccumulationScheduler": "steps are alike in all runs; trainer.accumulate=N",
    "StochasticWeightAveraging": _ONE_STEP,
    "WeightAveraging": _ONE_STEP,
    "BaseFinetuning": "the method says what is trained; method=top_layers, the last layers",
    "ModelPruning": "the method says what is trained",
    "Checkpoint": "a run keeps checkpoints of its own, and the weights of its best validation",
    "ProgressBar": "a run shows its own progress",
    "Timer": "ends a run by the clock; trainer.max_time does, and such a run is in no comparison",
}
_EARLY = "check_on_train_epoch_end"  # which a callback that stops early takes
_tried = set[str]()  # what was made in this process to see that it can be
_TO_LOGGERS = ("DeviceStatsMonitor", "LearningRateMonitor")


def check(config: Config, logged: Collection[str]) -> None:
    """Refuse what is no class of Lightning's kind, cannot be imported or made, has no place in a run, or monitors what
    is not ``logged``. Imports nothing where none is named. Only callbacks are made: a logger may start a run of its.
    """
    for group in _KINDS:
        for name, values in getattr(config, group).items():
            key, cls = f"{group}.{name}", _class(group, name, values)
            ancestors = {parent.__name__ for parent in cls.__mro__ if parent.__module__.startswith("lightning.")}
            unfit = next((_UNFIT[ancestor] for ancestor in _UNFIT if ancestor in ancestors), None)
            if ancestors.intersection(_TO_LOGGERS) and not config.logger:
                unfit = "what it measures goes to a logger of Lightning's; name one, logger=NAME"
            signature = inspect.signature(cls)
            if _EARLY in signature.parameters and config.method.name == "adalora":
                unfit = (
                    "none that stops early with method=adalora, which may not have pruned; trainer.early_stopping waits"
                )
            if unfit:
                raise Refused.value(f"{key}._target_", values["_target_"], unfit)
            try:
                taken = signature.bind_partial(**{word: values[word] for word in values if not word.startswith("_")})
            except TypeError:
                odd = next((word for word in values if word[:1] != "_" and word not in signature.parameters), "")
                near = did_you_mean(odd, signature.parameters)
                raise Refused(f"{key}.{odd}: {cls.__name__} does not take this{near}") from None
            for word, value in taken.arguments.items():
                if word == "monitor" and value not in (None, *logged):
                    raise Refused.value(f"{key}.monitor", value, f"one of {', '.join(logged)}")
                kind = str(signature.parameters[word].annotation)
                if isinstance(value, str) and "Callable" in kind and "str" not in kind:
                    allowed = "a function: {_target_: hydra.utils.get_method, path: package.function}"
                    raise Refused.value(f"{key}.{word}", value, allowed)
    if str(config.callbacks) not in _tried:  # once: a class may do more than note what it is given
        made(config, "callbacks")
        _tried.add(str(config.callbacks))


def made(config: Config, group: str) -> list[Any]:
    """The callbacks or loggers. Raises Refused for what its class does not take.

    A callback that stops early looks when there has been a validation, not at the end of a stretch.
    """
    if not getattr(config, group):
        return []
    from hydra.utils import instantiate

    all_made = []
    for name, values in getattr(config, group).items():
        takes = _EARLY in inspect.signature(_class(group, name, values)).parameters
        try:
            with warnings.catch_warnings():  # of Hydra 1.4, for the class that is looked at above
                warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved")
                all_made.append(instantiate(({_EARLY: False} if takes else {}) | values | {"_partial_": False}))
        except Exception as error:  # the class's own, which Hydra 1.3 wraps and 1.4 does not
            why = reason(error.__cause__ or error)
            raise Refused(f"{group}.{name}: {values['_target_']} does not take this ({why})") from None
    return all_made


def _class(group: str, name: str, values: Any) -> type:
    """The class that is named. Raises Refused for anything else."""
    if not isinstance(values, dict) or "_target_" not in values:
        chosen = f"a file conf/{group}/NAME.yaml of yours that says so is chosen by {group}=NAME"
        raise Refused.value(f"{group}.{name}", values, "{_target_: package.Class, key: value}", chosen)
    base, target = pkgutil.resolve_name(f"lightning.pytorch:{_KINDS[group]}"), str(values["_target_"])
    key, allowed = f"{group}.{name}._target_", f"a class of lightning.pytorch's {group.rstrip('s')}s, as package.Class"
    try:
        cls = pkgutil.resolve_name(target)
    except Exception as error:  # a module may raise anything when it is imported
        allowed = f"{allowed} ({str(error).partition(chr(10))[0]})"
        remedy = "its folder belongs in PYTHONPATH" * isinstance(error, ModuleNotFoundError)
        raise Refused.value(key, target, allowed, remedy) from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise Refused.value(key, target, allowed)  # pytorch_lightning's are others
    return cls
