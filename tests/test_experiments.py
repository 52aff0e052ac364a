"""Every experiment composes, and every run of it could start: the same checks as before a study, nothing loaded.

An experiment is composed once, in one test that holds all of it against its place: composing is what takes the time.
"""

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_configs import study_of

from rankwise.check import check
from rankwise.claims import registry
from rankwise.claims.claim import Claim
from rankwise.claims.selection import runs_of
from rankwise.config import Config, plain
from rankwise.identity import run_id
from rankwise.study.tuning import Tuning
from rankwise.tracking.record import FINISHED, Record

CLAIMS = registry.read()
ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "conf" / "experiment"
NAMES = sorted(str(path.relative_to(EXPERIMENTS).with_suffix("")) for path in EXPERIMENTS.rglob("*.yaml"))
ELSEWHERE = ("demo", "optuna", "rank_lr", "rank_sweep")  # composed by other tests
NEEDS_PATH = ("paper/lora_t3", "paper/lora_t18", "paper/dora_t15")  # data that only its owner can hand out


@functools.cache
def experiment(name: str) -> list[Config]:
    """The runs of an experiment, composed, checked and not run."""
    given = ["task.path=FOLDER"] if name in NEEDS_PATH else []
    if name.startswith("paper/") and not name.startswith("paper/lora_t16"):  # which walks over seeds in pairs
        given.append("seed=0,1")  # fewer of the same, for time
    return study_of(f"experiment={name}", *given)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_every_run_of_an_experiment_could_start_and_fits_its_place(name):
    configs = experiment(name)
    assert len(configs) == len({run_id(config) for config in configs}) > 1
    assert len({config.study for config in configs}) == 1
    for config in configs[:: max(1, len(configs) // 4)]:
        check(config)  # as the sweep did for all of them
    if given := yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["hydra"]["sweeper"].get("tune"):
        _is_tuned_apart(configs, given)
    if name.startswith("claims/"):
        _answers_claims(name, configs)
    if name.startswith("claims/full/") and (part := name.replace("/full", "")) in NAMES:
        quick = experiment(part)
        assert {run_id(config) for config in quick} <= {run_id(config) for config in configs}, "runs are shared"
    elif name.endswith("_proxy"):
        _needs_no_hub(configs)
    elif name.startswith("paper/"):
        assert all(config.model.path for config in configs), "a paper's model, not a stand-in"


def _is_tuned_apart(configs: list[Config], given: dict[str, object]) -> None:
    """Learning rates are chosen on seeds that the comparison does not have."""
    tuning = Tuning.of(given, {})
    trials = [config for config in configs if config.stage == "tune"]
    assert {trial.seed for trial in trials} == set(tuning.seeds)
    assert not {config.seed for config in configs if config.stage is None} & set(tuning.seeds)


def _answers_claims(name: str, configs: list[Config]) -> None:
    """Both tiers of a study have its name and its folder, untracked, and every arm on several seeds."""
    assert {config.study for config in configs} == {f"claims_{name.split('/')[-1]}"}
    assert {config.outputs for config in configs} == {"outputs"}
    assert {config.tracking.name for config in configs} == {"none"}
    assert min(Counter(map(_arm, configs)).values()) > 1, "one seed shows no spread"
    if name.startswith("claims/full/"):
        _has_every_arm(configs)


def _has_every_arm(configs: list[Config]) -> None:
    """What the study's claims ask for is among its runs, on all five seeds."""
    runs = [Record({"status": FINISHED}, plain(config)) for config in configs]
    asked = [(claim.id, spec) for claim in CLAIMS if claim.study == configs[0].study for spec in _specs(claim)]
    assert asked
    for claim, spec in asked:
        assert len({run.config["seed"] for run in runs_of(runs, spec)}) >= 5, f"{claim}: {spec}"


def _specs(claim: Claim) -> list[dict[str, Any]]:
    """The arms that a claim's quantity is asked of."""
    given = claim.settings
    whole = ("to", "minus") if "ranks" in given else ("of", "to", "minus")
    found = [spec for key in whole for spec in _as_list(given.get(key, []))]
    rates = [{"lr": given[key]} for key in ("low_lr", "high_lr") if key in given] or [{}]
    at_ranks = given.get("among") or given.get("of")
    return found + [at_ranks | {"rank": rank} | rate for rank in given.get("ranks", []) for rate in rates]


def _as_list(value: Any) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else [value]


def _arm(config: Config) -> tuple[object, ...]:
    method, setting = config.method, (config.quant.name, config.task.n_train, config.optim.lr)
    return (method.name, method.rank, method.budget, method.alpha, config.targets.name, *setting)


def _needs_no_hub(configs: list[Config]) -> None:
    for config in configs:
        assert config.model.package and config.task.package and not (config.model.path or config.task.path)
        assert config.trainer.precision == "auto"


def test_the_makefile_runs_the_studies_that_there_are():
    text = (ROOT / "Makefile").read_text()
    quick, full = (re.search(rf"^{tier} := (.*)$", text, re.MULTILINE) for tier in ("QUICK", "FULL"))
    assert quick and full and full[1].split()[0] == "$(QUICK)"
    assert {f"claims/{study}" for study in quick[1].split()} | {
        f"claims/full/{study}" for study in [*quick[1].split(), *full[1].split()[1:]]
    } == {name for name in NAMES if name.startswith("claims/")}


def test_an_experiment_of_a_paper_has_a_proxy_and_a_line_in_the_docs():
    page = (ROOT / "docs" / "experiments.md").read_text()
    papers = [name for name in NAMES if name.startswith("paper/")]
    assert {name.removesuffix("_proxy") for name in papers} == {n for n in papers if not n.endswith("_proxy")}
    assert not [name for name in papers if not re.search(rf"experiment={name}\b(?!_)", page)]
    assert not {name for name in re.findall(r"experiment=(\w[\w/]*)", page)} - set(NAMES)
