"""Shared fixtures; the environment is settled here, before anything imports torch."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_configs import tiny as tiny_config
from zygote import Zygote

from rankwise.config import Config
from rankwise.identity import folder

if TYPE_CHECKING:
    from rankwise.adapters.runs import Run

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_ERROR_REPORTING"] = "false"
for name in ("API_KEY", "MODE", "BASE_URL", "DIR", "DATA_DIR", "PROJECT", "ENTITY"):
    os.environ.pop(f"WANDB_{name}", None)  # the developer's own


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """``tiny("gpt2", "full", optim__lr=1e-3)``: a small config whose runs land in ``tmp_path``."""
    return functools.partial(tiny_config, outputs=str(tmp_path / "outputs"))


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Runs set global switches of torch."""
    import torch  # when the environment is settled

    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Real processes at the price of a fork."""
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="session")
def saved_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``saved_base("bert")``: a tiny base as a folder of files, as most are; ``"causal_lm"`` asks for its kind."""
    from rankwise.assets import resolve
    from rankwise.model import base  # torch, when the environment is settled

    made: dict[tuple[str, str], Path] = {}

    def save(shape: str, kind: str = "classification") -> Path:
        if (shape, kind) not in made:
            source, folder = tiny_config(shape).model, tmp_path_factory.mktemp(f"base-{shape}")
            model, tokenizer = base.load(source, resolve(source), 2, 0, kind=kind)
            if kind == "causal_lm":  # as those that converse have it
                model.generation_config.update(eos_token_id=[2, 5], repetition_penalty=1.3)  # type: ignore[union-attr]
            model.save_pretrained(folder)  # type: ignore[operator]
            tokenizer.save_pretrained(folder)
            made[shape, kind] = folder
        return made[shape, kind]

    return save


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "Run"]:
    """``trained("gpt2", "lora", quant="nf4", seed=1)``: the finished run of a tiny config, trained once."""
    from rankwise.adapters.runs import open_run
    from rankwise.run import run

    outputs, made = tmp_path_factory.mktemp("runs") / "outputs", {}
    strong = {"optim__lr": 0.03, "tracking__ledger": False}  # an adapter of six steps that changes the logits

    def train(shape: str = "bert", method: str = "lora", quant: str | None = None, **keys: Any) -> "Run":
        name = str((shape, method, quant, sorted(keys.items())))
        if name not in made:
            stored = {"quant__name": quant, "quant__kind": quant} if quant else {}
            if quant in ("nf4", "fp4"):
                stored["quant__double"] = False
            config = tiny_config(shape, method, outputs=str(outputs), **(strong | stored | keys))
            run(config)
            made[name] = folder(config)
        return open_run(made[name])

    return train
