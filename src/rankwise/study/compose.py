"""From what Hydra composed to a Config, and from Hydra's errors to one line each."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    OmegaConfBaseException,
    ValidationError,
)

from rankwise import assets, methods
from rankwise.allowed import takes
from rankwise.check import check
from rankwise.config import DEBUGGING, Config, known_keys, merged, plain, typed
from rankwise.errors import Refused, did_you_mean
from rankwise.files import read_yaml
from rankwise.identity import idle, of_hub
from rankwise.paths import conf_dir, options
from rankwise.synonyms import GROUPS, OPEN, meaning, near_key, no_such_key

_HYDRA, _OURS = ("hydra", "omegaconf"), ("rankwise", "hydra_plugins")
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:[^}]*\}?")


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed values without Hydra's own, interpolations as they are written."""
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    values.pop("hydra", None)
    return values  # type: ignore[return-value]


def to_config(values: dict[str, Any] | DictConfig) -> Config:
    """A checked ``Config`` from composed values; raises Refused for what cannot run. See ``to_typed``."""
    config = to_typed(values)
    check(config)
    return config


def to_typed(values: dict[str, Any] | DictConfig) -> Config:
    """A ``Config`` from composed values, not checked yet; raises Refused for unknown keys and wrong types.

    Plain values, or ``merged`` ones: Hydra opens its own tree for ``+key=value``, which is refused here.
    """
    try:
        node = values if isinstance(values, DictConfig) else merged(values)
        if environment := _ENVIRONMENT.search(str(OmegaConf.to_container(node, resolve=False))):
            raise Refused(f"{environment[0]}: it would stand in the record for all to read; give the value itself")
        return typed(node)
    except OmegaConfBaseException as error:
        raise Refused(explain(error)) from None


def refuse_idle(runs: Iterable[tuple[Config, Iterable[str]]]) -> None:
    """Raise Refused for the first key of the runs' command lines of which none of them makes use."""
    idle_words: dict[str, dict[str, str]] = {}
    used = set[str]()
    for config, words in runs:
        keys, hub = idle(plain(config)), of_hub(config)
        for key, _, value in (word.partition("=") for word in words):
            parts = () if key in ("method", "task", "optim") else (f"{key}.",)  # of a group that is of use as a whole
            mine = [of for of in keys if of == key or key.startswith(f"{of}.") or of.startswith(parts)]
            if not (mine or key in hub):
                used.add(key)
            elif value not in ("none", "null", "false", "[]") and not _says_default(key, value):
                of_optimizer = mine in (["optim.momentum"], ["optim.betas"])
                groups = ("task", "model", *["forgetting"] * (not methods.of(config.method).is_baseline))
                own = next((group for group in groups if key.startswith(f"{group}.")), "method")
                group = "optim" if of_optimizer else own
                why = "task.n_train=null" if key == "data_seed" else f"{group}={getattr(config, group).name}"
                why = "task.generation.metrics=[]" if key.startswith("task.generation") else why
                idle_words.setdefault(key, {}).setdefault(why, f"{key}={value}")
    for key, by_reason in idle_words.items():
        if key not in used:
            word = next(iter(by_reason.values()))
            raise Refused(f"{word}: of no use with {' or '.join(by_reason)}; leave it out")


def _says_default(key: str, value: str) -> bool:
    """As a preset does, which takes back what an experiment says of a part that it switches off."""
    return key in known_keys() and f"{key}={value}" == override(key, known_keys()[key][1].default)


def option(name: str) -> Any:
    """The file of a group's option, as ``debug/fast``, and who provides it; None where there is none."""
    loader: Any = GlobalHydra.instance().config_loader()
    return loader.repository.load_config(name)


def composed(overrides: list[str]) -> Config:
    """A checked config from a command line's overrides, without Hydra's main. Raises Refused for what cannot run."""
    with explained(overrides), hydra_tree():
        values = unresolved(load(overrides))
    return to_config(values)


@contextlib.contextmanager
def explained(words: Collection[str]) -> Iterator[None]:
    """In here an error of Hydra or OmegaConf about the words of a command line is Refused, in one line.

    So is whatever else Hydra's own code raises, as it hardly checks the types of its own keys.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error, words)) from None
    except UserWarning as warning:  # of ``register_schema``
        raise Refused(
            f"{str(warning).partition('path=')[2].partition(' is not')[0]}: no such folder of options"
        ) from None
    except Exception as error:
        if not _is_of_hydra(error):
            raise
        key = re.search(r"full_key: ([\w.]+)", str(error))
        about = key[1] if key else " ".join(word for word in words if "=" in word)
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Refused(f"{about}: Hydra cannot take this ({reason})") from None


def _is_of_hydra(error: Exception) -> bool:
    """Whether Hydra is the last to have been called, of it and rankwise."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = [package for name in modules if (package := name.partition(".")[0]) in (*_HYDRA, *_OURS)]
    return bool(packages) and packages[-1] in _HYDRA


@contextlib.contextmanager
def hydra_tree() -> Iterator[None]:
    """In here, ``conf/`` can be composed from; inside Hydra's main it can be anyway."""
    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def load(overrides: list[str]) -> DictConfig:
    """What Hydra composes of overrides, its own part included. Call this in ``hydra_tree()`` or in Hydra's main.

    Raises Refused for code that an option brings, as ``refuse_code``.
    """
    loaded = compose("config", overrides, return_hydra_config=True)
    for key in _MAY_CALL:
        value = OmegaConf.select(loaded, key)
        if OmegaConf.is_config(value):
            node, value = value, OmegaConf.to_container(value)
            with contextlib.suppress(OmegaConfBaseException):  # what is not known yet, as the folder of a run
                value = OmegaConf.to_container(node, resolve=True)
        refuse_code(key, value, overrides, "conf")
    return loaded


_MAY_CALL = (
    *("callbacks", "logger", "hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra.job_logging"),
    *("hydra.hydra_logging", "hydra.job.env_set"),
)
_CALLED = re.compile(
    r"(.*\.(_target_|\(\)|class|factory)|hydra\.job\.env_set\..*)=.*|.*=(ext://.*|\$\{[^}]*\})", re.DOTALL
)
_HARMLESS = re.compile(
    r".*=(hydra_plugins\.rankwise\.plugins\.\w+|optuna\.samplers\.\w+|logging\.StreamHandler|ext://sys\.std(out|err))"
)


def refuse_code(key: str, value: Any, words: Collection[str], where: str) -> None:
    """Raise Refused for what a value at ``key`` would call, unless a word of the command line names it: ``KEY=VALUE``,
    or the option that brings it (``callbacks=mine``, ``hydra/launcher=joblib``). Files may be a stranger's.
    """
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            refuse_code(f"{key}.{name}", inner, words, where)
        return
    shown, names = f"{key}={value}", {word.partition("=")[0].lstrip("+") for word in words}
    group = "/".join(key.split(".")[: 2 if key.startswith("hydra.") else 1])
    chosen = group in names and not re.match(r"hydra\.(launcher|sweeper)\..*\._target_", key)
    place, target = re.escape(key.rpartition(".")[0]), re.escape(str(value))
    typed = re.compile(rf"\+*{place}=\{{(.*,)?\s*_target_\s*:\s*{target}\s*[,}}]")
    inside = key.endswith("._target_") and any(map(typed.match, words))
    if _CALLED.fullmatch(shown) and not (_HARMLESS.fullmatch(shown) or chosen or key in names or inside):
        raise Refused(f"{where}: {key} runs code; if that is wanted, add {shown}")


class Composer:
    """Composes rows of overrides, once per distinct choice of groups, since each composition takes about 50 ms.

    Plain values are then set on the composed node, in place: what the row before set there, this one sets as well.
    """

    def __init__(self) -> None:
        self.parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        self.nodes: dict[tuple[tuple[str, ...], frozenset[str]], tuple[DictConfig, dict[str, str | None]]] = {}
        self.keys = set(known_keys())

    def __call__(self, row: list[str]) -> tuple[Config, dict[str, str | None]]:
        """The row's config, not checked yet, and its groups' options. Raises Refused for a bad override."""
        with explained(row):
            parsed = self.parser.parse_overrides(row)
            if several := next((o.input_line for o in parsed if o.is_sweep_override()), None):
                raise Refused(f"{several}: one value; several are an axis of train -m, or a parameter of a sweep file")
            plain = {o.key_or_group: o.value() for o in parsed if self._is_plain(o)}
            slow = tuple(o.input_line or "" for o in parsed if not self._is_plain(o))
            alike = slow, frozenset(plain)
            if alike not in self.nodes:
                loaded = load(list(slow))
                self.nodes[alike] = merged(unresolved(loaded)), dict(loaded.hydra.runtime.choices)
            node, choices = self.nodes[alike]
            for key, value in plain.items():
                OmegaConf.update(node, key, value)
        return to_typed(node), choices

    def _is_plain(self, override: Override) -> bool:
        """A scalar or list for an existing key of the schema: no group's choice, addition, deletion or dict."""
        simple = override.type == OverrideType.CHANGE and not isinstance(override.value(), dict)
        return simple and override.key_or_group in self.keys and override.key_or_group not in GROUPS


def register_schema() -> None:
    """Tell Hydra what the config tree's ``schema`` is."""
    if "schema.yaml" not in ConfigStore.instance().repo:
        ConfigStore.instance().store(name="schema", node=Config, provider="rankwise")
    warnings.filterwarnings("error", "provider=hydra.searchpath", UserWarning)  # of a folder that is not there
    # Both of Hydra 1.4; 1.3 asks for the first, and for the second what is called has been looked at.
    warnings.filterwarnings("ignore", "The version_base parameter is deprecated")
    warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved")


_SNAPSHOT = "give a run's config.yaml, as outputs/STUDY/RUN/config.yaml; an experiment is experiment=NAME instead"


def from_snapshot(path: Path, overrides: list[str]) -> Config:
    """The config of an earlier run, from its ``config.yaml``, with ``key=value`` changes on top.

    What followed another key there follows it again, so that a changed ``method.lr`` is trained with.
    """
    try:
        earlier = read_yaml(path, "a config snapshot")
    except Refused as refused:
        raise Refused(f"--config {refused}; {_SNAPSHOT}") from None
    if not {"model", "task", "method"} <= earlier.keys():
        raise Refused(f"--config {path}: not a run's config.yaml; {_SNAPSHOT}")
    for word in overrides:
        key, _, value = word.partition("=")
        if key in GROUPS and not value.startswith("{"):
            other = f"another option makes a new run, rankwise train {word} …"
            raise Refused(f"{word}: with --config only single keys, as seed=1; {other}")
        if re.match(r"[^\[{'\"]+,|(choice|range|glob|interval)\(", value):
            several = "one value, as --config is one run; give the values one after the other"
            raise Refused(f"{word}: {several}")
    for group in OPEN:
        refuse_code(group, earlier.get(group), overrides, f"--config {path}")
    earlier["rerun"] = False  # that run was asked to run again, not this one
    given = {name: earlier.get(name) for name in ("optim", "method", "task", "model", "forgetting", "trainer")}
    groups: dict[str, Any] = {name: value if isinstance(value, dict) else {} for name, value in given.items()}
    for name in ("task", "model", "forgetting"):
        if groups[name].get("path") and groups[name].get("name") == groups[name]["path"]:
            groups[name]["name"] = f"${{{name}.path}}"
    if earlier.get("stage") == "debug" and any(groups["trainer"].get(key) for key in DEBUGGING):
        earlier["stage"] = None  # the keys that are left of these will say it again
    if groups["optim"] and groups["optim"].get("lr") == groups["method"].get("lr"):
        groups["optim"]["lr"] = "${method.lr}"
    if earlier.get("objective") == f"val/{groups['task'].get('metric')}":
        earlier["objective"] = "val/${task.metric}"
    try:
        node = merged(earlier)
        for one in OverridesParser.create().parse_overrides([word.lstrip("+") for word in overrides]):
            is_part = isinstance(one.value(), dict) and isinstance(OmegaConf.select(node, one.key_or_group), DictConfig)
            OmegaConf.update(node, one.key_or_group, one.value(), merge=is_part)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise Refused(f"--config {path}: {explain(error, overrides)}") from None
    config = to_config(node)
    refuse_idle([(config, overrides)])
    for group in ("model", "task", "forgetting"):
        _refuse_fetch(group, getattr(config, group), overrides, path)
    return config


def _refuse_fetch(group: str, source: Any, words: Collection[str], path: Path) -> None:
    """Raise Refused for a package of somebody else's that would be fetched, unless a word of the line names it."""
    package, key = source.package, f"{group}.package.name"
    if package is None or source.path or assets.cached(source) or f"{key}={package.name}" in words:
        return
    if not any(package.sha256 in file.read_text(encoding="utf-8") for file in (conf_dir() / group).rglob("*.yaml")):
        what = f"fetches {package.name} {package.version}, which is none of rankwise's"
        raise Refused(f"--config {path}: {what}; if that is wanted, add {key}={package.name}")


_YOURS = {
    "model": "; any other is model=local model.path=FOLDER_OR_GGUF_OR_HUB_ID",
    **{group: f"; yours is NAME, with a conf/{group}/NAME.yaml" for group in OPEN},
    "method": "; any other of PEFT's is method=custom 'method.peft={_target_: peft.XConfig}'",
    "targets": "; layers by their names are targets=custom targets.modules=[NAME,NAME]",
    "task": "; your own data are task=local task.path=FILE, those of GLUE task=glue/NAME",
}
_CHOICE = re.compile("((?:hydra/)?[^/]+)/(.*)", re.DOTALL)  # a group and what is chosen of it, which may be a path
_MISSING = re.compile(r"interpolation '\$\{([\w.]+)\}': Incompatible value 'None'")  # of a key whose value is ???


def explain(error: BaseException, words: Collection[str] = ()) -> str:
    """One line for an error of Hydra or OmegaConf about a command line: what was given and what would be allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, choice = _CHOICE.fullmatch(str(error.missing_cfg_file)).groups()  # type: ignore[union-attr]
        near = near_key(name := f"{group}={choice}", ())
        if plugin := re.match(r"hydra/(launcher|sweeper)=(joblib|submitit|ray|rq|ax|nevergrad|optuna)", name):
            ours = "'rankwise[optuna]'" if plugin[2] == "optuna" else f"hydra-{plugin[2]}-{plugin[1]}"
            near = f"; pip install {ours}"
        if group in ("model", "task", "forgetting") and re.match(r"(?!glue/).*[/.]", choice):
            near = f" (here it is {group}=local {group}.path={choice})"
        known = {*error.options, *options(group)} - {"none"}
        near = near or did_you_mean(choice.lower(), known) or _YOURS.get(group, "")
        beside = sorted(one for one in known if one.startswith(f"{choice.rpartition('/')[0] or choice}/"))
        return f"{name}: no such option; one of {', '.join(beside or error.options)}{near}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).strip("'\"").partition("=")
        if re.match(r"{(.*,)?[^:,{}]*[^\x00-\x7f:,{}][^:,{}]*:.*}$", value):
            return f"{error.override}: a key in braces has letters of ASCII alone; of a class, * stands for any others"
        is_text = str in get_args(hint := known_keys().get(key, (None,))[0]) or hint is str
        plain = value and not set("'\"" if is_text else "'\"[]{}()") & set(value)
        twice = f'{key}="{value}"' if plain else 'KEY="VALUE"'
        return f"{error.override}: cannot be read as key=value; quote twice what has spaces or other signs: '{twice}'"
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            reason = str(cause.msg or cause).splitlines()[0]
            if missing := _MISSING.search(reason):
                return f"{missing[1]}: needed here; give {missing[1]}=…"
            key = cause.full_key.partition("[")[0]
            if isinstance(cause, ValidationError | ConfigTypeError) and key in known_keys():
                return _misfit(key, reason, words)
            if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
                return f"{cause.full_key}: {reason}"
            whole = re.search(r"Could not override '([^']+)'", str(error))
            return no_such_key(max(whole[1] if whole else "", cause.full_key, key=len), known_keys())
    text, *more = str(error).strip().splitlines()
    if unknown := re.search(r"Could not load '([\w/]+)/([^'/]+)'", text):  # of a list of options
        return f"{unknown[1]}={unknown[2]}: no such option{_YOURS.get(unknown[1], '')}"
    if text.endswith(":"):
        return " ".join([text, *more[:1]])
    if several := re.match("(?:Ambiguous value for argument|Sweep parameters) '(.*)'", text):
        study = "where one belongs; give one" if "hydra.mode=RUN" in words else "make a study; add -m"
        group, _, names = several[1].partition("=")
        yours = "" if {*names.split(",")} & {*options(group)} else _YOURS.get(group, "")
        return f"{several[1]}: several values for one key {study}, or quote twice what is one value{yours}"
    return text


def _misfit(key: str, reason: str, words: Collection[str]) -> str:
    """What a key takes, for a value of another type."""
    typed = next((value for name, _, value in (word.partition("=") for word in words) if name == key), None)
    told = re.search(r"Value '(.*)' (?:of type|is not)|value: (.*)|field .* is (not Optional)", reason, re.DOTALL)
    given = typed if typed is not None else (told[1] or told[2] or "null") if told else None
    hint, own = known_keys()[key]
    allowed = takes(hint, own) + meaning(f"{key}={given}")
    if float in (hint, *get_args(hint)) and (share := re.fullmatch(r"([0-9]*\.?[0-9]+) *%", str(given))):
        allowed += f"; {given} is {float(share[1]) / 100:g}"
    return str(Refused.value(key, given, allowed)) if given is not None else f"{key}: {allowed}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        if (one := queue.pop(0)) is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            queue += [one.__cause__, one.__context__]


# What is no text to Hydra, unless it stands in quotes.
_NO_TEXT = re.compile(r"null|true|false|-?(nan|inf|(?=\.?\d)[\d_]*\.?[\d_]*(e-?[\d_]+)?)", re.IGNORECASE)


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it back: texts with signs or as numbers in quotes, whole numbers without a point."""
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str) and (_NO_TEXT.fullmatch(value) or not re.fullmatch(r"[\w./-]+", value, re.ASCII)):
        escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, list | tuple) else str(value)
