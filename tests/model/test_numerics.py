"""Device, precision and threads, as this machine really has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rankwise.config import Trainer
from rankwise.errors import Refused
from rankwise.model import numerics
from rankwise.model.numerics import has_bf16, settle

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu sse2 avx2 avx512f", False),
        ("x86_64", "avx512f avx512_bf16", True),
        ("x86_64", "amx_tile amx_bf16", True),
        ("x86_64", "bf16", False),
        ("aarch64", "fp asimd bf16", True),
        ("aarch64", "fp asimd i8mm", False),
        ("riscv64", "", False),
    ],
)
def test_auto_is_bf16_only_where_the_processor_multiplies_it(
    machine: str, flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(numerics, "_cpu_flags", lambda: set(flags.split()))
    assert has_bf16(CPU) is expected
    assert settle(Trainer(device="cpu")).precision == ("bf16" if expected else "fp32")
    assert settle(Trainer(device="cpu", precision="fp32")).precision == "fp32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
def test_the_flags_of_this_processor_are_read() -> None:
    assert len(numerics._cpu_flags()) > 5


def test_what_was_settled_is_what_torch_does_and_what_the_record_says() -> None:
    settled = settle(Trainer(device="cpu", precision="bf16", threads=2, matmul_precision="medium"))
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "medium"
    assert settled.to_dict() == {"device": "cpu", "precision": "bf16", "threads": 2}
    assert settled.lightning == {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed"}


def test_threads_are_left_alone_when_not_given() -> None:
    torch.set_num_threads(1)
    assert settle(Trainer(device="cpu")).threads == 1


def test_fp16_and_absent_devices_are_refused() -> None:
    with pytest.raises(Refused, match=r"^trainer.precision=fp16: fp32, bf16 or auto on cpu"):
        settle(Trainer(device="cpu", precision="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(Refused, match=r"^trainer.device=cuda: torch sees no GPU"):
            settle(Trainer(device="cuda"))
    if not torch.backends.mps.is_available():
        with pytest.raises(Refused, match=r"^trainer.device=mps:"):
            settle(Trainer(device="mps"))
