"""What the doctor says, and that it always says something."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from rankwise import doctor, machine
from rankwise.cli import main
from rankwise.commands import doctor as commands_doctor
from rankwise.paths import conf_dir


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def asked(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_knows_the_machine_and_tries_every_storage(capsys):
    found = asked(capsys)
    assert set(found) == {*doctor.SECTIONS, "devices", "quantization"}
    assert not any("problem" in section for section in found.values())
    assert found["machine"]["cores"] >= 1 and found["packages"]["torch"].startswith("2.")
    assert found["launchers"]["names"] == ["local", "slurm"] and found["launchers"]["local_slots"] >= 1
    assert found["devices"]["cpu"]["threads"] >= 1
    assert all(about["works"] for about in found["quantization"].values()), found["quantization"]
    errors = {name: about["error"] for name, about in found["quantization"].items()}
    assert errors["none"] == 0 < errors["int8_torchao"] < errors["nf4"] < errors["fp4"]


def test_the_text_has_a_line_for_each(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *doctor.SECTIONS,
        "devices",
        *(f"quant={file.stem}" for file in sorted((conf_dir() / "quant").glob("*.yaml"))),
    ]


def test_on_gpus_no_number_of_runs_is_told(capsys, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["0"])
    assert doctor.here()["launchers"]["local_slots"] is None
    commands_doctor._print({"launchers": doctor.here()["launchers"]})
    assert capsys.readouterr().out == "launchers           local, slurm (local: one or more on each GPU at once)\n"


def test_what_is_missing_or_broken_is_a_line_and_no_traceback(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    monkeypatch.setattr("torchao.quantization.quantize_", lambda *_: 1 / 0)
    monkeypatch.setattr(doctor.machine, "hardware", lambda: 1 / 0)
    found = asked(capsys)
    storages = found["quantization"]
    assert storages["nf4"] == {"works": False, "why": "needs bitsandbytes: pip install 'rankwise[quant]'"}
    assert storages["int8_torchao"]["why"].startswith("ZeroDivisionError")
    assert storages["bf16"]["works"]
    assert found["machine"]["problem"].startswith("ZeroDivisionError")
    assert main(["doctor"]) == 0
    assert "not known: ZeroDivisionError" in capsys.readouterr().out


def test_a_layer_that_sends_no_gradient_back_does_not_work(monkeypatch):
    from rankwise.model import quantize

    monkeypatch.setattr(quantize._Product, "backward", lambda ctx, gradient: (gradient * 0, None, None, None))
    assert doctor._storage("int8_torchao", None) == {"works": False, "why": "sends back no or wrong gradients"}
    monkeypatch.setattr(quantize, "store", lambda *_: None)  # nothing is quantized
    assert not doctor._storage("nf4", False)["works"]


KEY, NO_KEY = "x" * 40, "no key is configured ('wandb login' sets one)"


@pytest.mark.parametrize(
    ("environment", "host", "mode", "why"),
    [
        ({}, None, "offline", NO_KEY),
        ({"API_KEY": KEY}, None, "online", None),
        ({"API_KEY": "xx"}, None, "offline", "login: W&B says: WANDB_API_KEY invalid: API key must have 40+ charact"),
        ({}, "api.wandb.ai", "online", None),
        ({}, "elsewhere.org", "offline", NO_KEY),
        ({"CONFIG_DIR": "."}, "elsewhere.org", "online", None),  # as wandb login --host leaves it
        ({"IDENTITY_TOKEN_FILE": "token"}, None, "online", None),
        ({"API_KEY": KEY, "MODE": "offline"}, None, "offline", "WANDB_MODE=offline"),
        ({"MODE": "online"}, None, "offline", NO_KEY),
        ({"MODE": "disabled"}, "nonsense", "disabled", "WANDB_MODE=disabled"),
    ],
)
def test_the_mode_of_wandb_is_that_of_a_run(environment, host, mode, why, tmp_path, monkeypatch):
    wandb.teardown()  # what it has read once it keeps
    monkeypatch.chdir(tmp_path)
    Path("settings").write_text("[default]\nbase_url = https://elsewhere.org\n")
    Path("token").write_text("token")
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    if host:
        (tmp_path / "netrc").write_text("nonsense" if host == "nonsense" else f"machine {host} login u password {KEY}")
    found = doctor._wandb()
    wandb.teardown()
    assert found["mode"] == mode and (found["why"] or "").startswith(why or "") and bool(found["why"]) == bool(why)


def test_the_cache_is_measured(tmp_path):
    folder = tmp_path / "cache" / "packages"
    assert doctor._cache() == {"folder": str(folder.parent), "writable": True, "bytes": 0, "complete": True}
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 1234)
    assert doctor._cache()["bytes"] == 1234


def test_the_first_lines_come_before_torch():
    code = "import sys; from rankwise import doctor; doctor.here(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_importing_quantization_libraries_says_nothing():
    """They log which of their kernels are not for this machine, in every process that imports PEFT."""
    done = subprocess.run([sys.executable, "-c", "import rankwise, peft"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


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


def test_hardware_is_told_whole():
    found = machine.hardware()
    assert list(found) == ["cpu", "cores", "memory_bytes", "gpus", "os", "bf16"]
    assert found["cores"] == machine.cores() >= 1
    assert 0 < machine.memory_bytes() <= found["memory_bytes"]


def test_cores_do_not_depend_on_openmp(monkeypatch):
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
def test_gpus_are_those_that_cuda_would_see(visible, ids, monkeypatch):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == ids
    assert machine.hardware()["gpus"] == ["NVIDIA H100 80GB HBM3"] * 2
    machine._nvidia.cache_clear()


@pytest.mark.parametrize(
    ("ids", "mib"), [(["0"], 81000), (["0", "1"], 500), (["GPU-aa"], 81000), (["MIG-ee"], 0), ([], 0)], ids=str
)
@pytest.mark.usefixtures("two_gpus")
def test_the_memory_that_is_free_is_that_of_the_fullest_gpu(ids, mib):
    assert machine.gpu_free_bytes(ids) == mib * 2**20


def test_peak_memory_rises_and_can_be_reset():
    filled = bytearray(os.urandom(1024) * 1024 * 100)
    high = machine.peak_rss_bytes()
    assert high > len(filled)
    del filled
    if machine.reset_peak_rss():
        assert machine.peak_rss_bytes() < high - 50 * 1024**2
