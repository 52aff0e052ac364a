"""What a model or data set is, where it is named by a path, a hub id or its shape."""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from rankwise.assets import _cache, cache_dir, cached, fetch, resolve
from rankwise.cli import main
from rankwise.config import Model, Package, Task
from rankwise.errors import Refused
from rankwise.files import shown


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_existing_file_or_folder_wins_over_hub_id_and_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("gpt2", "org/name"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    (tmp_path / "rows.tsv").write_text("a\t1\n")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    package = Package("tiny", "1.0", "0" * 64, "tiny/data")
    for given in ("gpt2", "./gpt2", "org/name", "~/gpt2", "tiny.gguf"):
        asset = resolve(Model(name="m", path=given, package=package))
        assert asset.path == tmp_path / given.replace("~/", "") == cached(Model(name="m", path=given))
        assert asset.hub_id is None and asset.source == str(asset.path)
    assert resolve(Task(name="t", path="rows.tsv")).fingerprint == f"sha256:{digest(tmp_path / 'rows.tsv')}"


@pytest.mark.parametrize("given", ["gpt2", "org/name", "org/Name-7B.v1_2"])
def test_a_hub_id_is_recognised_without_asking_the_hub(given):
    asset = resolve(Model(name="m", path=given, revision="abc"))
    assert (asset.path, asset.hub_id, asset.fingerprint) == (None, given, f"hub:{given}@abc")
    assert resolve(Task(name="t", path=given)).fingerprint == f"hub:{given}@main"
    assert cached(Model(name="m", path=given)) is None


def test_without_an_answer_of_the_hub_its_cache_is_used_and_it_is_asked_once(tmp_path, monkeypatch):
    values = {"ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for source, kind in ((Model(name="m", path="org/one"), "model"), (Task(name="t", path="org/one"), "dataset")):
        with pytest.raises(Refused, match=r"\.path=org/one: no such file or folder here, and no answer from the hub"):
            fetch(source)
        assert not constants.HF_HUB_OFFLINE
        (tmp_path / f"{kind}s--org--one/snapshots").mkdir(parents=True)
        assert fetch(source) == resolve(source)
        assert constants.is_offline_mode() and os.environ["HF_HUB_OFFLINE"] == "1", "for the processes of its runs"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class _NoRevision(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound" if "typo" in self.path else "RepoNotFound")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_answer_of_the_hub_is_no_silence_of_it(tmp_path, monkeypatch):
    (tmp_path / "models--org--one/snapshots").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoRevision) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        values = {"ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": False}
        for name, value in (values | {"HF_HUB_CACHE": str(tmp_path)}).items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        with pytest.raises(Refused, match=r"^model.revision=typo: org/one has no such branch, tag or commit$"):
            fetch(Model(name="m", path="org/one", revision="typo"))
        fetch(Model(name="m", path="org/one"))
        server.shutdown()
    assert not constants.HF_HUB_OFFLINE and "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    "given", ["./gone", "/gone", "~/gone", "../gone", "a/b/c", "rows.tsv", "org/m.gguf", "a b", ".."]
)
def test_a_path_to_nothing_is_refused_and_not_taken_for_a_hub_id(given, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for ask in (resolve, cached):
        with pytest.raises(Refused, match=re.escape(f"model.path={given}: ")):
            ask(Model(name="m", path=given))


def test_what_is_no_model_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(Refused, match=r"model\.path=.*config\.json"):
            resolve(Model(name="m", path=str(path)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="neither a file nor a folder"):
        resolve(Task(name="t", path=str(tmp_path / "pipe")))
    with pytest.raises(Refused, match=r"model\.path=null: .*shape"):
        resolve(Model(name="m"))


def test_generated_models_and_tasks_have_no_path_and_their_values_as_fingerprint():
    one, same, other = (Model(name="m", shape=s) for s in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2}))
    assert resolve(one).path is None and cached(one) is None
    assert resolve(one).fingerprint == resolve(same).fingerprint != resolve(other).fingerprint
    assert resolve(Task(name="t", synthetic=64)).fingerprint == "synthetic:64"


def test_hidden_files_and_folders_are_no_part_of_a_data_folder(tmp_path):
    source = Task(name="t", path=str(tmp_path), format="class_files")
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "a.txt").write_text("good")
    plain = resolve(source).fingerprint
    for hidden in (".git/objects/12", "pos/.cache/b.txt", ".hidden"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_text("bad")
    assert resolve(source).fingerprint == plain
    assert shown(tmp_path) == [tmp_path / "pos" / "a.txt"]
    (tmp_path / "pos" / "c.txt").write_text("fine")
    assert resolve(source).fingerprint != plain


def test_the_fingerprint_of_a_model_folder_follows_what_decides_the_model(tmp_path):
    def fingerprint() -> str:
        return resolve(Model(name="m", path=str(tmp_path))).fingerprint

    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return fingerprint()

    (tmp_path / "config.json").write_text("{}")
    seen = [write("pytorch_model.bin", b"0"), write("model.safetensors", b"1"), write("model.safetensors", b"2")]
    seen += [write("config.json", b'{"a": 1}'), write("tokenizer.json", b"{}")]
    assert len(set(seen)) == len(seen)
    assert write("README.md", b"words") == write("pytorch_model.bin", b"not loaded") == seen[-1]


def test_the_digest_of_a_large_file_is_remembered_once_it_has_settled(tmp_path, monkeypatch):
    rows = tmp_path / "rows.tsv"

    def write(fill: bytes) -> str:
        rows.write_bytes(fill * (1 << 20))
        return resolve(Task(name="t", path=str(rows))).fingerprint

    assert write(b"a") != write(b"b") and not (cache_dir() / "digests").exists(), "within one tick of the file's clock"
    monkeypatch.setattr(_cache, "_SETTLED_S", -1.0)
    first = write(b"a")
    assert len(list((cache_dir() / "digests").iterdir())) == 1
    monkeypatch.setattr(hashlib, "file_digest", None)  # not needed: the digest is remembered
    assert resolve(Task(name="t", path=str(rows))).fingerprint == first


def test_the_cache_is_where_the_variable_says_or_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKWISE_CACHE", "~/here")
    assert cache_dir() == Path.home() / "here"
    monkeypatch.setenv("RANKWISE_CACHE", "")
    assert cache_dir().is_absolute() and "rankwise" in str(cache_dir())


def test_all_that_a_study_reads_is_fetched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(40)))
    (tmp_path / "conf/experiment").mkdir(parents=True)
    params = "{params: {task.path: 'a.csv,b.csv', model: 'tiny_bert,tiny_gpt2'}}"
    (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\nhydra: {{sweeper: {params}}}\n")
    assert main(["fetch", "--json", "task=local", "experiment=mine"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **{name: "random weights" for name in ("tiny BERT (random)", "tiny GPT-2 (random)")},
        **{name: str(tmp_path / name) for name in ("a.csv", "b.csv")},
    }
    for words in ([], ["experiment=optuna"]):
        assert main(["fetch", "--json", "task=local", "task.path=b.csv", "model=tiny_bert", *words]) == 0
        assert json.loads(capsys.readouterr().out)["b.csv"] == str(tmp_path / "b.csv")
    assert not (tmp_path / "outputs").exists()
