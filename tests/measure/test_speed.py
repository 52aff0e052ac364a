"""What GPUs are stated to reach, and what this machine does."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rankwise.errors import Refused
from rankwise.measure import speed
from rankwise.measure.gpus import GPUS, gpu, recognise
from rankwise.model.numerics import Numerics

CPU = torch.device("cpu")


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that speeds are kept in, not there yet; measuring is quick, and may be disturbed by other tests."""
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "BUDGET_S", 0.01)
    monkeypatch.setattr(speed, "_OURS", -1.0)
    return tmp_path / "cache" / "speed.json"


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was measured, in order; the n-th measurement says n FLOP/s."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(speed, "_probe", lambda *given: calls.append(given) or (float(len(calls)), True))
    return calls


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_processor_is_measured_and_remembered(remembered, precision, monkeypatch):
    """By a clock on which every product takes a millisecond: there is time for one doubling of the 256 rows."""
    monkeypatch.setattr(speed, "BUDGET_S", 0.05)
    monkeypatch.setattr("time.perf_counter", itertools.count(0, 1e-3).__next__)
    flops, source = speed.peak_flops(CPU, precision, 1)
    assert source == "measured"
    assert flops == pytest.approx(2 * 512**3 / 1e-3)
    assert list(json.loads(remembered.read_text()).values()) == [flops]
    assert [file.name for file in remembered.parent.iterdir()] == ["speed.json"]
    assert speed.peak_flops(CPU, precision, 1) == (flops, "measured")


def test_what_is_remembered_is_not_measured_again(remembered, probed):
    speed.peak_flops(CPU, "fp32", 1)
    [key] = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({key: 5e9}))
    assert speed.peak_flops(CPU, "fp32", 1) == (5e9, "measured")
    assert len(probed) == 1


def test_what_was_measured_while_others_kept_the_processor_busy_is_not_remembered(remembered, monkeypatch):
    monkeypatch.setattr(speed, "_OURS", 0.9)
    monkeypatch.setattr("time.process_time", lambda: 0.0)  # none of the time that passes is ours
    assert speed.peak_flops(CPU, "fp32", 1)[0] > 0
    assert not remembered.exists()


def test_every_setting_that_changes_the_speed_is_measured_by_itself(remembered, probed):
    before = torch.get_float32_matmul_precision()
    try:
        for matmul, precision, threads in [
            ("highest", "fp32", 1), ("highest", "fp32", 2), ("highest", "bf16", 1), ("medium", "fp32", 1),
        ]:  # fmt: skip
            torch.set_float32_matmul_precision(matmul)
            speed.peak_flops(CPU, precision, threads)
    finally:
        torch.set_float32_matmul_precision(before)
    assert probed == [
        (CPU, torch.float32, 1), (CPU, torch.float32, 2), (CPU, torch.bfloat16, 1), (CPU, torch.float32, 1),
    ]  # fmt: skip
    assert sorted(json.loads(remembered.read_text()).values()) == [1, 2, 3, 4]


def test_utilisation_is_what_was_needed_over_what_the_peak_allows(remembered, probed):
    told = speed.utilisation(3.0, 12.0, Numerics(CPU, "bf16_true", 1, None))
    assert told == {"mfu": 0.25, "peak_flops": 1.0, "peak_flops_source": "measured"}
    assert probed == [(CPU, torch.bfloat16, 1)]


@pytest.mark.parametrize("broken", ["", "{", "[1]", '{"KEY": "fast"}', '{"KEY": -1}', '{"KEY": NaN}', '{"KEY": true}'])
def test_a_broken_file_is_measured_anew(remembered, probed, broken):
    remembered.parent.mkdir()
    remembered.write_text(broken.replace("KEY", speed._key(CPU, "fp32", 1)))
    assert speed.peak_flops(CPU, "fp32", 1) == (1.0, "measured")
    assert json.loads(remembered.read_text()) == {speed._key(CPU, "fp32", 1): 1.0}


def test_a_file_of_other_bytes_and_a_cache_that_cannot_be_written_stop_nothing(remembered, probed):
    remembered.parent.mkdir()
    remembered.write_bytes(b"\xff\x00")
    assert speed.peak_flops(CPU, "fp32", 1) == (1.0, "measured")
    remembered.unlink()
    remembered.mkdir()
    assert speed.peak_flops(CPU, "fp32", 1) == (2.0, "measured")


def test_measuring_leaves_threads_and_random_numbers_as_they_were(remembered):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        speed.peak_flops(CPU, "fp32", threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "precision", "matmul", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", "highest", (312e12, "datasheet")),
        ("NVIDIA A100-SXM4-80GB", "fp32", "highest", (19.5e12, "datasheet")),
        ("NVIDIA A100-SXM4-80GB", "fp32", "high", (156e12, "datasheet")),
        ("Tesla T4", "fp32", "medium", (8.1e12, "datasheet")),  # has no TF32
        ("Tesla T4", "bf16", "highest", (1.0, "measured")),  # emulated: no datasheet says how fast
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bf16", "highest", (1.0, "measured")),
    ],
)
def test_a_known_gpu_has_the_speed_of_its_datasheet(remembered, probed, monkeypatch, name, precision, matmul, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: matmul)
    assert speed.peak_flops(torch.device("cuda"), precision, 1) == expected
    assert remembered.exists() == (expected[1] == "measured")
    assert not remembered.exists() or name in remembered.read_text()


@pytest.mark.parametrize(
    ("reported", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("A100-SXM4-40GB", "a100-40gb"), ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"), ("NVIDIA GeForce RTX 3090", "rtx3090"), ("GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"), ("NVIDIA L40S", "l40s"), ("NVIDIA L4", "l4"), ("Tesla T4", "t4"),
        ("NVIDIA A10G", "a10g"), ("NVIDIA RTX A6000", "a6000"), ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"), ("Tesla V100-SXM2-32GB", "v100-32gb"),
    ],
)  # fmt: skip
def test_the_drivers_names_are_recognised(reported, key):
    assert recognise(reported) is GPUS[key]
    assert gpu(reported) is GPUS[key]


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A10",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA L40",
        "Tesla V100-PCIE-16GB", "Quadro RTX 6000", "NVIDIA GB200", "NVIDIA", "",
    ],
)  # fmt: skip
def test_a_slower_relative_is_not_taken_for_the_gpu_whose_name_it_bears(reported):
    assert recognise(reported) is None


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("A100 80GB", "a100-80gb"), ("a100_80gb", "a100-80gb"), ("A100-SXM4-40GB", "a100-40gb"),
        ("H100PCIe", "h100-pcie"),
        ("RTX 4090", "rtx4090"), ("4090", "rtx4090"), ("rtx-a6000", "a6000"), ("RTX 6000 Ada", "rtx6000ada"),
        (" t4 ", "t4"), ("nvidia l40s", "l40s"),
    ],
)  # fmt: skip
def test_a_gpu_may_be_written_in_any_way(written, key):
    assert gpu(written) is GPUS[key]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("a100", "(did you mean a100-40gb or a100-80gb?)"), ("H100 SXM", "(did you mean h100-80gb or h100-pcie?)"),
        ("rtx4091", "(did you mean rtx4090?)"), ("", "b200"), ("abacus", "b200"),
    ],
)  # fmt: skip
def test_an_unknown_gpu_is_refused_with_what_there_is(given, hint):
    with pytest.raises(Refused) as error:
        gpu(given)
    assert str(error.value) == f"--gpu={given}: one of {', '.join(GPUS)}" + (f" {hint}" if "?" in hint else "")


def test_every_key_finds_its_own_gpu_and_no_two_share_a_name():
    assert all(gpu(key) is known for key, known in GPUS.items())
    names = [name for known in GPUS.values() for name in known.reported]
    assert len(names) == len(set(names))


def test_stated_speeds_are_dense_and_tensor_cores_are_never_slower():
    for key, known in GPUS.items():
        fast = known.flops["fp16"]
        assert known.flops["fp32"] <= known.peak("fp32", "high") <= fast / 2 * 1.02, key  # L40S rounds: 183 of 362
        assert known.flops.get("bf16", fast) == fast
        assert (known.peak("bf16") is None) == (key[:2] in ("t4", "v1")), "Turing and Volta have no bf16"
        assert 15e12 <= fast <= 2.25e15
    sizes = [gpu(key).memory_bytes / 2**30 for key in ("t4", "l4", "a10g", "l40s", "a6000", "h200")]
    assert sizes == [15, 22.5, 22.5, 45, 48, 141]  # of the first four, error correction takes a sixteenth


def test_the_table_needs_no_torch():
    code = "import sys, rankwise.measure.gpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
