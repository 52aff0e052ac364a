"""The built wheel works by itself, from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([sys.executable, *build, "-w", str(out)], cwd=ROOT, check=True)
    return next(out.glob("rankwise-*.whl"))


def test_the_wheel_holds_the_config_tree_the_page_and_the_plugins_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    conf = {p.relative_to(ROOT).as_posix() for p in (ROOT / "conf").rglob("*.yaml")}
    assert {f"rankwise/{name}" for name in conf} <= set(names)
    assert "rankwise/report/page.html.j2" in names and "hydra_plugins/rankwise/plugins.py" in names
    assert "hydra_plugins/__init__.py" not in names, "other distributions share this namespace"
    assert {name.split("/")[0] for name in names} == {"rankwise", "hydra_plugins", "rankwise-0.1.0.dist-info"}


def test_a_run_and_a_study_work_from_the_unpacked_wheel_in_an_empty_folder(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = python("-c", "from rankwise import paths; print(paths.__file__, paths.conf_dir())").split()
    assert all(path.startswith(str(site)) for path in where), "this must be the wheel's copy, not the checkout's"
    python("-m", "rankwise", "train", "-m", "debug=fast", "method=lora,tfidf")
    python("-m", "rankwise", "report", "outputs")
    assert (work / "outputs/report.html").stat().st_size > 10_000
