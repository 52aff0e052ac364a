"""Device, precision and threads, as this machine really has them."""

import pytest
import torch

from rankwise import machine
from rankwise.config import Trainer
from rankwise.errors import Refused
from rankwise.model.numerics import has_bf16, settle

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f", False),
        ("flags\t\t: avx512f avx512_bf16", True),
        ("flags\t\t: amx_tile amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd i8mm", False),
        ("", False),
    ],
)
def test_auto_is_bf16_only_where_the_processor_multiplies_it(lines, expected, monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: f"processor\t: 0\n{lines}\n" if "cpuinfo" in str(path) else "")
    assert has_bf16(CPU) is expected
    assert settle(Trainer(device="cpu")).precision == ("bf16" if expected else "fp32")
    assert settle(Trainer(device="cpu", precision="fp32")).precision == "fp32"


def test_what_was_settled_is_what_torch_does_and_what_the_record_says():
    settled = settle(Trainer(device="cpu", precision="bf16", threads=2, matmul_precision="medium"))
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "medium"
    assert settled.to_dict() == {"device": "cpu", "precision": "bf16", "threads": 2}
    assert settled.lightning == {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed"}


def test_threads_are_left_alone_when_not_given():
    torch.set_num_threads(1)
    assert settle(Trainer(device="cpu")).threads == 1


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=r"^trainer.device=cuda: torch sees no GPU"):
        settle(Trainer(device="cuda"))
