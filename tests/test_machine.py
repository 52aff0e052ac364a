"""What the machine says about itself."""

import os
from pathlib import Path

import pytest

from rankwise import machine

SMI = """#!/bin/sh
case "$1" in --query-gpu=*)
    printf '0, GPU-aaaa-bbbb, 81000\\n1, GPU-cccc-dddd, 500\\n'; exit;;
esac
echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-bbbb)'
echo 'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-cccc-dddd)'
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine._nvidia.cache_clear()


def test_hardware_is_told_whole() -> None:
    found = machine.hardware()
    assert list(found) == ["cpu", "cores", "memory_bytes", "gpus", "os", "bf16"]
    assert found["cores"] == machine.cores() >= 1
    assert 0 < machine.memory_bytes() <= found["memory_bytes"]


def test_cores_do_not_depend_on_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert machine.cores() == before


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1, 0", ["1", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("GPU-aa", ["GPU-aa"]),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_those_that_cuda_would_see(
    visible: str | None, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == ids
    assert machine.hardware()["gpus"] == ["NVIDIA H100 80GB HBM3"] * 2
    machine._nvidia.cache_clear()


@pytest.mark.parametrize(
    ("ids", "mib"), [(["0"], 81000), (["0", "1"], 500), (["GPU-aa"], 81000), (["MIG-ee"], 0), ([], 0)], ids=str
)
@pytest.mark.usefixtures("two_gpus")
def test_the_memory_that_is_free_is_that_of_the_fullest_gpu(ids: list[str], mib: int) -> None:
    assert machine.gpu_free_bytes(ids) == mib * 2**20


def test_peak_memory_rises_and_can_be_reset() -> None:
    filled = bytearray(os.urandom(1024) * 1024 * 100)
    high = machine.peak_rss_bytes()
    assert high > len(filled)
    del filled
    if machine.reset_peak_rss():
        assert machine.peak_rss_bytes() < high - 50 * 1024**2
