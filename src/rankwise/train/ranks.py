"""A run on several devices: what each process of it, a rank, has of every batch, and how the ranks agree.

Data parallel training (Li et al. 2020, "PyTorch Distributed"): every rank holds the whole model, trains on its rows of
each planned batch, and gradients are averaged. A micro-batch is split among ranks as it is among accumulated ones, so
the weights of the parts make the step that of one process with the whole batch.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import DataLoader

T = TypeVar("T")
TIMEOUT = timedelta(days=1)  # of a rank that waits for the first's questions; one that ends, ends all


@dataclass(frozen=True)
class Ranks:
    """Which of how many this process is; a run on one device has rank 0 of 1."""

    RANK: ClassVar[str] = "RANKWISE_RANK"  # of this process in its run's environment: "0 2"

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """From the environment that a rank was started with."""
        return cls(*map(int, os.environ.get(cls.RANK, "0 1").split()))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def rows(self, batch: Sequence[int], rank: int | None = None) -> list[int]:
        """The rows of a planned batch that a rank (this one) trains on; where none is left for it, the first, which
        then weighs nothing: every rank has to take part in every step.
        """
        return list(batch[self.rank if rank is None else rank :: self.world]) or list(batch[:1])

    def sizes(self, batch: Sequence[int]) -> list[int]:
        """How many rows of a planned batch each rank has."""
        return [len(batch[rank :: self.world]) for rank in range(self.world)]

    def deal(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """This rank's batches of an evaluation, as many as every other's: some are read twice."""
        if self.world == 1:
            return loader
        plan: list[Any] = list(loader.batch_sampler or [])
        share = math.ceil(len(plan) / self.world)
        dealt = (plan * self.world)[: share * self.world][self.rank :: self.world]
        own = torch.Generator()
        return DataLoader(loader.dataset, batch_sampler=dealt, collate_fn=loader.collate_fn, generator=own)

    def meet(self, device: torch.device) -> None:
        """Connect the ranks; Lightning then uses that connection."""
        if self.world > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)

    def of_all(self, value: T) -> list[T]:
        """What every rank has, in the order of the ranks."""
        values = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: T) -> T:
        """What the first rank has."""
        values = [value]
        if self.world > 1:
            distributed.broadcast_object_list(values)
        return values[0]

    def mean(self, *values: float, device: torch.device) -> tuple[float, ...]:
        """Means over the ranks; not finite where any is not."""
        if self.world == 1:
            return values
        with _disable_current_modes():  # gloo's thread frees the tensor when it likes: no part of a measured step
            shared = torch.tensor(values, dtype=torch.float64, device=device)
            distributed.all_reduce(shared)
            return tuple((shared / self.world).tolist())

    def strategy(self) -> dict[str, Any]:
        """Arguments of Lightning's Trainer. It is told its environment, or it would take one for Slurm's or torchrun's
        by the variables that these set, and start or expect other processes.
        """
        environment: ClusterEnvironment = TorchElasticEnvironment() if self.world > 1 else LightningEnvironment()
        if self.world == 1:
            return {"plugins": [environment]}
        ddp = DDPStrategy(cluster_environment=environment, find_unused_parameters=True)
        return {"strategy": ddp, "devices": self.world}


ALONE = Ranks()
