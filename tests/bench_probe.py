"""What following a step costs: ``python tests/bench_probe.py`` prints the ratio of a followed step to a plain one.

Interleaved in one process, medians of processor time, on the default model.
"""

import contextlib
import statistics
import time
from collections.abc import Callable

import torch
import yaml
from tiny_configs import CONF, tiny

from rankwise.assets import resolve
from rankwise.config import Model, Package
from rankwise.measure.flops import Tally
from rankwise.measure.ledger import Ledger
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.tasks.scores import ClassScorer
from rankwise.train import optim
from rankwise.train.step import losses

ROUNDS = 15


def steps(method: str, rows: int, length: int) -> Callable[[bool], None]:
    """A training step of the default model in bf16, followed or not."""
    config = tiny("bert", method, "qv", method__rank=8)
    package = yaml.safe_load((CONF / "model" / "minilm.yaml").read_text())["package"]
    config.model = Model(name="minilm", package=Package(**package))
    model, _ = base.load(config.model, resolve(config.model), 2, 0, "eager")
    model = adapt(model, config).model.train()
    optimizer = optim.build(model, config.optim, "cpu")
    ids = torch.randint(4, 2000, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 2}

    def step(followed: bool) -> None:
        with contextlib.ExitStack() as stack:
            if followed:
                stack.enter_context(Ledger(model, optimizer))
                stack.enter_context(Tally())
            with torch.autocast("cpu", torch.bfloat16):
                loss = losses(model, ClassScorer(2), batch)[1].mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def main() -> None:
    """Two methods, a small and the default batch."""
    torch.set_num_threads(1)
    for method in ("lora", "full"):
        for rows, length in ((4, 32), (32, 48)):
            step = steps(method, rows, length)
            took: dict[bool, list[float]] = {False: [], True: []}
            for number in range(2 * ROUNDS + 6):
                began = time.process_time()
                step(number % 2 == 1)
                if number >= 6:  # the first warm up
                    took[number % 2 == 1].append(time.process_time() - began)
            plain, followed = (statistics.median(took[on]) for on in (False, True))
            print(f"{method} {rows} x {length}: {plain * 1e3:.0f} ms, followed x{followed / plain:.2f}")


if __name__ == "__main__":
    main()
