"""The asset resolver, offline: tiny archives in a folder of links, or on a package index of this machine."""

import functools
import hashlib
import http.server
import importlib.util
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import certifi
import pytest

import rankwise.assets
from rankwise.assets import _cache, cache_dir, cached, fetch_package, resolve
from rankwise.assets._archive import extract
from rankwise.config import Model, Package, Task
from rankwise.errors import Refused

WHEEL = "tiny-1.0-py3-none-any.whl"
SOURCES = Path(rankwise.assets.__file__).parents[2]


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package index, and a cache of our own."""
    folder = tmp_path / "registry/simple/tiny"
    folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(SOURCES), prepend=os.pathsep)
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))
    return folder


def wheel(registry: Path, files: dict[str, bytes | str], member: str = "tiny/data", version: str = "1.0") -> Package:
    path = registry / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
        info = f"tiny-{version}.dist-info"
        bundle.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    return Package("tiny", version, digest(path), member)


def tar(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = content if isinstance(content, bytes) else b""
            info.size = len(body)
            bundle.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def sdist(registry: Path, files: dict[str, bytes], member: str) -> Package:
    path = registry / "tiny-1.0.tar.gz"
    path.write_bytes(tar({f"tiny-1.0/{name}": content for name, content in files.items()}))
    return Package("tiny", "1.0", digest(path), member, sdist=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Index(http.server.ThreadingHTTPServer):
    """Serves the registry as a package index; ``paths`` were asked for, ``status`` is what it answers."""

    def __init__(self, registry: Path, delay_s: float = 0.0, status: int = 200):
        index = self
        self.paths: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.paths.append(self.path)
                time.sleep(delay_s)
                super().do_GET() if status == 200 else self.send_error(status)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=registry.parents[1]))

    def __enter__(self) -> "Index":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_address[1]}/simple"


@pytest.fixture
def asks_index(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def ask(*urls: str) -> None:
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", urls[0])
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", " ".join(urls[1:]))

    return ask


def refusal(package: Package, *parts: str) -> str:
    """The one line that fetching is refused with; it holds the parts, and nothing is left in the cache."""
    with pytest.raises(Refused) as caught:
        fetch_package(package)
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line
    assert_nothing_kept()
    return line


def assert_nothing_kept() -> None:
    packages = cache_dir() / "packages"
    assert [path for path in packages.rglob("*") if path.is_file() or path.name.endswith(".partial")] == []


def refused(archive: Path, member: str, *parts: str) -> None:
    """Taking the member out of the archive is refused in one line that holds the parts, and leaves nothing."""
    (into := archive.parent / "into").mkdir()
    with pytest.raises(Refused) as caught:
        extract(archive, member, into, "tiny 1.0")
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in ("tiny 1.0", *parts)), line
    assert [*into.iterdir()] == []


def in_process(*packages: Package, before: str = "") -> subprocess.Popen[str]:
    code = f"""
from rankwise.assets import fetch_package
from rankwise.config import Package
from rankwise.errors import Refused
{before}
for package in {packages!r}:
    try:
        print(fetch_package(package))
    except Refused as refused:
        print("refused:", refused)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_only_the_member_of_a_wheel_is_kept_and_the_second_time_nothing_is_fetched(registry, monkeypatch, capsys):
    package = wheel(registry, {"tiny/data/a.txt": "a", "tiny/data/deep/b.txt": "b", "tiny/other.txt": "no"})
    model = Model(name="tiny", package=package)
    assert cached(model) is None
    asset = resolve(model)
    assert capsys.readouterr().err == "fetching package tiny 1.0\n"
    assert asset.path and asset.path.name == "data" and asset.hub_id is None
    assert asset.source == "tiny 1.0 (tiny/data)"
    kept = {path.name for path in (cache_dir() / "packages").rglob("*") if path.is_file()}
    assert kept == {"a.txt", "b.txt", ".sha256"}
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry / "gone"))
    assert resolve(model) == asset and cached(model) == asset.path
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("PIP_CERT", "/gone.pem")
    with pytest.raises(Refused, match=r"^package tiny 1.1: pip's cert=/gone.pem cannot be read \(.*No such file"):
        fetch_package(replace(package, version="1.1"))


def test_a_file_in_an_archive_in_a_source_distribution_is_found(registry):
    inner = tar({"./corpus/rows.txt": b"1\tgood\n", "./corpus/other.txt": b"no"})
    package = sdist(registry, {"more/corpus.tar.gz": inner}, "tiny-1.0/more/corpus.tar.gz!corpus/rows.txt")
    path = fetch_package(package)
    assert path.name == "rows.txt" and path.read_bytes() == b"1\tgood\n"


def test_two_members_of_one_package_stand_side_by_side(registry):
    package = wheel(registry, {"tiny/data/a.txt": "a", "tiny/b.txt": "b"})
    other = Package(package.name, package.version, package.sha256, "tiny/b.txt")
    assert (fetch_package(package) / "a.txt").read_text() == "a"
    assert fetch_package(other).read_text() == "b"
    assert cached(Task(name="t", package=package))


@pytest.mark.parametrize("size", [3, 2 << 20], ids=["small", "large"])
def test_a_flipped_byte_in_the_cache_is_noticed_and_the_file_is_fetched_again(registry, size, monkeypatch):
    monkeypatch.setattr(_cache, "_SETTLED_S", -1.0)  # remember digests at once
    package = wheel(registry, {"tiny/data/a.txt": b"a" * size})
    file = fetch_package(package) / "a.txt"
    task, past_s = Task(name="t", package=package), time.time() - 100
    os.utime(file, (past_s, past_s))
    assert cached(task) and len(list(cache_dir().glob("digests/*"))) == (size > 3)
    time.sleep(0.1)  # a tick of the file's clock
    with file.open("r+b") as stream:
        stream.write(b"b")
    os.utime(file, (past_s, past_s))
    assert cached(task) is None
    assert (fetch_package(package) / "a.txt").read_bytes() == b"a" * size


def test_no_code_of_a_wheel_or_a_source_distribution_is_run(registry, tmp_path, monkeypatch):
    """Neither a module nor a build hook: the registry's archive is data."""
    run = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(9)"
    assert (fetch_package(wheel(registry, {"tiny/__init__.py": run}, "tiny")) / "__init__.py").exists()
    assert "tiny" not in sys.modules and importlib.util.find_spec("tiny") is None
    hooks = {"setup.py": run.encode(), "backend.py": run.encode(), "a.txt": b"a"}
    hooks["pyproject.toml"] = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (tmp_path / "pip.py").write_text(run)
    monkeypatch.chdir(tmp_path)
    assert fetch_package(sdist(registry, hooks, "tiny-1.0/a.txt")).read_bytes() == b"a"
    assert not (tmp_path / "ran").exists()


def test_any_index_that_pip_is_set_to_may_serve_the_archive(registry, asks_index, monkeypatch):
    package = wheel(registry, {"tiny/data/a.txt": "a"})
    with Index(registry) as good, Index(registry, status=503) as broken:
        asks_index("http://127.0.0.1:9/simple", broken.url(), good.url())
        monkeypatch.setenv("PIP_CERT", certifi.where())
        monkeypatch.setenv("PIP_TIMEOUT", "60")
        assert (fetch_package(package) / "a.txt").read_text() == "a"
    page = "/simple/tiny/"
    assert good.paths == [page, f"{page}tiny-1.0-py3-none-any.whl"] and broken.paths == [page]


def test_of_several_archives_of_a_version_that_with_the_declared_hash_is_taken(registry, tmp_path, asks_index):
    other = tmp_path / "other"
    other.mkdir()
    wheel(other, {"tiny/data/a.txt": "other"})
    package = wheel(registry, {"tiny/data/a.txt": "a"})
    file = registry / "tiny-1.0-py3-none-any.whl"
    page = tmp_path / "simple" / "tiny"
    page.mkdir(parents=True)
    links = [f"{(other / file.name).as_uri()}#sha256={'0' * 64}", f"{file.as_uri()}#sha256={package.sha256}"]
    (page / "index.html").write_text("".join(f'<a href="{link}">{file.name}</a>' for link in links))
    asks_index((tmp_path / "simple").as_uri())
    assert (fetch_package(package) / "a.txt").read_text() == "a"


def test_a_wrong_hash_is_refused_with_both_and_a_version_that_the_index_lacks_with_those_it_has(registry):
    package = wheel(registry, {"tiny/data/a.txt": "a"})
    declared = Package("tiny", "1.0", "0" * 64, "tiny/data")
    refusal(declared, "wrong hash", "0" * 64, package.sha256)
    refusal(Package("tiny", "2.0", "0" * 64, "tiny/data"), "tiny 2.0", "no such wheel", "newest: 1.0", "model.path=")


def test_an_index_that_cannot_be_reached_is_told_from_a_missing_package(registry, asks_index):
    package = Package("tiny", "1.0", "0" * 64, "tiny/data")
    asks_index("http://user:secret@127.0.0.1:9/simple")
    assert "secret" not in refusal(package, "cannot be reached", "refused", "model.path=")
    with Index(registry, status=503) as broken:
        asks_index(broken.url("user:secret@"))
        assert "secret" not in refusal(package, "cannot be reached (503 Service Unavailable)")


OUTSIDE = ("../out.txt", "tiny/data/../../../out.txt", "/out.txt", "C:\\out.txt")
TORN = tar({"data/a.txt": os.urandom(9000)})[:-3000]
MEMBERS = [  # files of a wheel, which member is asked for, and what the refusal says
    ({"tiny/models/a.bin": "a"}, "tiny/model", "no tiny/model", "tiny/models"),
    ({"tiny/data/a.txt": "a"}, "tiny/data!a.txt", "is a folder", ""),
    *(({"tiny/data/a.txt": "a", name: "x"}, "tiny/data", "leads outside", "") for name in OUTSIDE),
    *(({"tiny/inner.tgz": inner}, "tiny/inner.tgz!data/a.txt", "inner.tgz", "") for inner in (b"no archive", TORN)),
]


@pytest.mark.parametrize(("files", "member", "said", "also"), MEMBERS, ids=range(len(MEMBERS)))
def test_a_member_that_is_not_there_or_is_unsafe_is_refused(registry, files, member, said, also):
    wheel(registry, files)
    refused(registry / WHEEL, member, said, also)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_the_member_are_refused(registry, kind):
    info = tarfile.TarInfo("data/link")
    info.type, info.linkname = kind, "data/a.txt"
    wheel(registry, {"tiny/inner.tgz": tar({"data/a.txt": b"a", "data/link": info})})
    refused(registry / WHEEL, "tiny/inner.tgz!data", "data/link")


def test_a_link_in_a_zip_is_refused(registry):
    link = zipfile.ZipInfo("tiny/data/link")
    link.external_attr = 0o120777 << 16
    package = wheel(registry, {"tiny/data/a.txt": "a"})
    with zipfile.ZipFile(registry / WHEEL, "a") as bundle:
        bundle.writestr(link, "/etc/hostname")
    refusal(Package("tiny", "1.0", digest(next(registry.iterdir())), package.member), "tiny/data/link")


def test_a_full_disk_is_one_line_and_leaves_nothing(registry):
    """Neither for the archive, nor for what is in it."""
    contents = {"1.0": os.urandom(3 << 20), "2.0": bytes(3 << 20)}
    packages = [wheel(registry, {"tiny/data/big.bin": big}, version=version) for version, big in contents.items()]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    with in_process(*packages, before=limit) as process:
        output, errors = process.communicate(timeout=60)
    for line in (lines := output.splitlines()):
        assert line.startswith("refused: cache folder") and "no room" in line and "RANKWISE_CACHE" in line, (
            line + errors
        )
    assert len(lines) == 2
    assert "Traceback" not in errors
    assert_nothing_kept()


def test_a_cache_that_cannot_be_written_is_refused(registry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "file" / "cache"))
    refusal(wheel(registry, {"tiny/data/a.txt": "a"}), "cannot be written", "RANKWISE_CACHE")


@pytest.mark.parametrize("odd", ["name=a -i b", "version=>=1", "sha256=abc", "member=/", "member=a!", "member=.."])
def test_a_declaration_that_could_not_stand_in_an_address_is_refused(odd):
    key, _, value = odd.partition("=")
    refusal(replace(Package("tiny", "1.0", "0" * 64, "tiny/data"), **{key: value}), f"package.{odd}")


def test_two_processes_at_once_fetch_once(registry, asks_index):
    package = wheel(registry, {"tiny/data/a.txt": "a"})
    with Index(registry, delay_s=1.0) as index:
        asks_index(index.url())
        with in_process(package) as first, in_process(package) as second:
            results = [process.communicate(timeout=60) for process in (first, second)]
    assert results[0][0] == results[1][0] and results[0][0].strip().endswith("data"), results
    assert sum("waiting for another process" in errors for _, errors in results) == 1
    assert len(index.paths) == 2, "the page and the archive"


def test_an_interrupt_stops_fetching_and_leaves_nothing(asks_index):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asks_index(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        silent.settimeout(60)
        with in_process(Package("tiny", "1.0", "0" * 64, "tiny/data"), before=listen) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
            connection.close()
    assert process.returncode != 0
    assert_nothing_kept()


def test_the_fingerprint_of_a_package_follows_archive_and_member(registry):
    package = wheel(registry, {"tiny/data/a.txt": "a", "tiny/b.txt": "b"})
    first = resolve(Task(name="t", package=package)).fingerprint
    package.member = "tiny/b.txt"
    second = resolve(Task(name="t", package=package)).fingerprint
    assert first != second and re.fullmatch(r"sha256:[0-9a-f]{64}", first)
