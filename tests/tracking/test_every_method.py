"""Every method, as a W&B server receives it from the real client: its own keys with its own values, and no other's."""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf
from tiny_configs import CONF
from wandb_server import ContractServer
from whole import check
from zygote import Child

from rankwise.config import Config
from rankwise.tracking.record import FINISHED, Record, begin

TRAINED = {"quant": "none"}
ON_TARGETS = TRAINED | {"targets": "attention"}
DROPPED = ON_TARGETS | {"dropout": 0.0}
LORA = DROPPED | {"bias": "none"}
BOFT = {"_target_": "peft.BOFTConfig", "boft_block_size": 4}
BASELINES = ("probe", "tfidf", "few_shot")
ON_BASE = ("bitfit", "bottleneck", "top_layers", "did", "said", "full", "head")
OF_KIND: dict[str, dict[str, Any]] = {  # what an arm has beside the keys of its method's file
    **dict.fromkeys(("lora", "rslora", "adalora", "orthogonal", "pissa", "olora", "eva"), LORA),
    "dora": LORA | {"dora": True},
    "lora_plus": LORA | {"lr_ratio": 16.0},
    "lora_fa": LORA | {"freeze_a": True},
    "nested": LORA | {"nested": [1, 2, 4, 8, 16, 32]},
    "vera": DROPPED,
    **dict.fromkeys(("loha", "lokr", "ia3", "oft"), ON_TARGETS),
    "custom": ON_TARGETS | {"peft": BOFT},
    **dict.fromkeys(ON_BASE, TRAINED),
    **{name: {} for name in BASELINES},
}
UNTOLD = {"bottleneck": {"place"}, **{name: {"lr"} for name in BASELINES}}  # of the file: a default, no training
METHODS = {file.stem: dict(OmegaConf.load(file)) for file in sorted((CONF / "method").glob("*.yaml"))}


def finished(config: Config, number: int) -> Record:
    """A record on disk, with results that no other has."""
    record = begin(config, None)
    record.run["status"], record.objective = FINISHED, number / 100
    record.metrics = {"test": {"accuracy": {"value": number / 200, "se": 0.01, "n": 64}}}
    record.params = {"trainable": 1000 + number, "total": 10_000}
    record.memory = {"train": {"peak_bytes": 2000 + number, "weights_bytes": number}}
    record.compute = {"steps": number}
    record.write()
    return record


def test_every_method_arrives_with_its_own_keys_and_results_and_none_of_others(
    server: ContractServer, start: Callable[..., Child], tracked: Callable[..., Config]
) -> None:
    assert METHODS.keys() == OF_KIND.keys()
    custom = {"custom": {"method__peft": BOFT}}
    configs = [tracked("online", method=name, seed=i, **custom.get(name, {})) for i, name in enumerate(METHODS)]
    made = [finished(config, number) for number, config in enumerate(configs)]
    child = start("tell", [str(record.folder) for record in made], **server.env())
    assert child.wait(120) == 0, child.stderr
    for number, (method, record, name) in enumerate(zip(METHODS, made, server.runs, strict=True)):
        got = server.run(name)
        assert (got["state"], got["displayName"], got["jobType"]) == ("finished", record.run["name"], "train")
        own = {key: value for key, value in METHODS[method].items() if key not in {"name"} | UNTOLD.get(method, set())}
        assert got["config"]["arm"] == {"method": method} | own | OF_KIND[method]
        assert (got["config"]["run"]["seed"], got["config"]["run"]["stage"]) == (number, "result")
        results = {"objective": number / 100, "test/accuracy": number / 200, "test/accuracy_se": 0.01}
        costs = {"params/trainable": 1000 + number, "memory/train/peak_bytes": 2000 + number, "compute/steps": number}
        assert got["summary"].items() >= (results | costs | {"status": "finished"}).items()
        check(record, got["config"], got["summary"])
