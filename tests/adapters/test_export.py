"""What a run leaves, and what is exported, loads where rankwise is not."""

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from peft import PeftModel
from scipy.stats import binomtest
from transformers import AutoModelForSequenceClassification

from rankwise.adapters import factors, loading, score
from rankwise.adapters.card import recipe
from rankwise.adapters.combine import combine
from rankwise.adapters.diff import deltas
from rankwise.adapters.export import export
from rankwise.adapters.merge import merge
from rankwise.adapters.runs import Run
from rankwise.adapters.shrink import shrink
from rankwise.adapters.swap import swap
from rankwise.assets import Asset, resolve
from rankwise.cli import main
from rankwise.config import Package
from rankwise.errors import Refused
from rankwise.model.fused import Split
from rankwise.model.methods.peft_warnings import quiet_peft

Trained = Callable[..., Run]
TEXTS = ["sun joy win", "fog ill mud box map cup sun"]
ELSEWHERE = """
import json, sys, torch
found = []
for FOLDER, recipe in json.loads(sys.argv[1]):
    assert 'FOLDER = "."' in recipe
    exec(recipe.replace('FOLDER = "."', ""))
    with torch.inference_mode():
        found.append(model(**tokenizer(json.loads(sys.argv[2]), padding=True, return_tensors="pt")).logits.tolist())
assert "rankwise" not in sys.modules
print(json.dumps(found))
"""
REGRESSION = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
LANGUAGE = {"task": "synthetic_lm", "targets": "qv", "objective": "val/perplexity", "method__lr": 1e-2}


def test_it_loads_by_peft_alone(trained, saved_base, other_head, logits, tmp_path):
    """What the run left and what is exported, by the recipe of the card, on bases whose head was for another task."""
    runs: list[tuple[str, str, dict[str, Any]]] = [
        *((shape, method, {}) for shape, method in (("bert", "lora"), ("gpt2", "lora"), ("llama", "pissa"))),
        *(("bert", "ia3", {}), ("llama", "lora", REGRESSION), ("llama", "lora", LANGUAGE)),
        *([("bert", "lora", {"quant": "int8"})] if find_spec("bitsandbytes") else []),
        *(
            ("roberta", "lora", {"method__bias": bias, "method__modules_to_save": extra})
            for bias, extra in (("all", None), ("lora_only", ["LayerNorm"]))
        ),
    ]
    cases, wanted = [], []
    for shape, method, keys in runs:
        base = str(saved_base("llama", "causal_lm")) if keys is LANGUAGE else other_head(shape)
        run = trained(shape, method, model__path=base, **keys)
        export(run, out := tmp_path / run.name)
        card = (out / "README.md").read_text()
        sizes = {"ia3": "", "pissa": ", rank 8, scale 1"}.get(method, ", rank 8, scale 2")
        assert f"- method: {method}{sizes}, targets" in card
        stored = json.loads((out / "adapter_config.json").read_text()).get("r")
        assert (stored == 16) == ("plain LoRA of twice that rank" in card) == (method == "pissa")
        assert f"pipeline_tag: text-{'generation' if keys is LANGUAGE else 'classification'}" in card
        name = Path(base).name
        assert (
            f"- base: {name}, " in card
            and f"  path: {name}\n" in card
            and card.count(base) == card.count("BASE = ") == 1
        )
        model, tokenizer = loading.as_run(run)
        tokenizer.save_pretrained(str(run.adapter))
        files = [*out.iterdir(), *run.adapter.iterdir()]
        (tmp_path / "usual").touch()
        assert {file.stat().st_mode for file in files} == {(tmp_path / "usual").stat().st_mode}
        length = json.loads((out / "tokenizer_config.json").read_text())["model_max_length"]
        assert keys is LANGUAGE or length == run.config.task.max_length
        assert ("\nlabels = " in card) == (keys is REGRESSION)
        cases += [[str(folder), card.split("```python\n")[1].split("```")[0]] for folder in (out, run.adapter)]
        wanted += [logits(model, tokenizer)] * 2
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, json.dumps(cases), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for found, own in zip(json.loads(done.stdout), wanted, strict=True):
        assert score.relative(torch.tensor(found), own) < 1e-5


@pytest.mark.parametrize(("method", "more"), [("lora", ["word_embeddings"]), ("pissa", []), ("vera", [])])
def test_its_config_names_the_base_as_it_was_given_and_what_is_saved_once(trained, saved_base, method, more):
    base = {"model__path": str(saved_base("bert")), "model__revision": "v1"}
    run = trained("bert", method, targets="qv", method__modules_to_save=more, **base)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == tuple(base.values())
    assert config["modules_to_save"] == ["classifier", *(f"bert.embeddings.{name}" for name in more)]
    random_weights = json.loads((trained("bert", method).adapter / "adapter_config.json").read_text())
    assert random_weights["base_model_name_or_path"] is None


def test_the_card_says_what_it_is(trained, tmp_path):
    run = trained()
    task = replace(run.config.task, template="/no_think {text}")  # which is no path
    record = copy.deepcopy(run.record)
    record.metrics["test"]["f1"]["clusters"] = 12
    export(replace(run, config=replace(run.config, task=task), record=record), tmp_path / "peft")
    assert "template: /no_think {text}\n" in (tmp_path / "peft/README.md").read_text()
    _, front, text = (tmp_path / "peft/README.md").read_text().split("---\n", 2)
    kind = {"library_name": "peft", "pipeline_tag": "text-classification"}
    assert yaml.safe_load(front) == kind | {"license": "unknown"}
    accuracy = run.record.metrics["test"]["accuracy"]
    low, high = binomtest(round(64 * accuracy["value"]), 64).proportion_ci(method="wilson")
    assert f"| accuracy | {accuracy['value']:.4f} | {low:.4f} to {high:.4f} | 64 test items |" in text
    assert re.search(r"\n\| f1 \| .* \| 64 test items in 12 groups \|\n", text)
    parts = [run.record.provenance[group]["fingerprint"] for group in ("data", "model")]
    for part in (*parts, "classes 0 = 0, 1 = 1", "PeftModel.from_pretrained", "random weights", "rank: 8"):
        assert part in text


@pytest.mark.parametrize(
    ("quant", "keys", "kept", "part"),
    [
        ("nf4", {}, "nf4", "load_in_4bit=True, bnb_4bit_quant_type='nf4'"),
        ("bf16", {}, "bf16", "dtype=torch.bfloat16"),
        (None, {"trainer__precision": "bf16_true"}, "bf16", "dtype=torch.bfloat16"),
        (None, {}, "fp32", "num_labels': 2"),
    ],
)
def test_the_card_and_its_recipe_name_the_storage(trained, tmp_path, quant, keys, kept, part):
    if quant == "nf4":
        pytest.importorskip("bitsandbytes")
    export(trained("bert", quant=quant, **keys), tmp_path / "peft")
    text = (tmp_path / "peft/README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert f"- base kept in: {kept}\n" in text and part in code and ("dtype" in code) == (kept == "bf16")
    compile(code, "card", "exec")


def test_the_recipe_finds_the_base_from_anywhere(trained, saved_base, monkeypatch):
    """One that was named by a relative path, a revision of the hub's, and one of pip's index."""
    run, base = trained("bert"), Path(saved_base("bert"))
    monkeypatch.chdir(base.parent)
    for path, where in ((base.name, (str(base), "BASE")), ("org/name", ("org/name", "BASE, revision='v1'"))):
        model = replace(run.config.model, path=path, revision="v1")
        made = "\n".join(recipe(replace(run, config=replace(run.config, model=model)), resolve(model), "adapter"))
        assert f"BASE = {where[0]!r}\n" in made and f"AutoConfig.from_pretrained({where[1]})\n" in made
        assert f"AutoModelForSequenceClassification.from_pretrained({where[1]}, config=config" in made
    package = Package("some-base", "1.0", "0" * 64, "some_base/model")
    model = replace(run.config.model, shape=None, package=package)
    for there, words in (
        (base, "pip download --no-deps some-base==1.0"),
        (base / "config.json", "rankwise fetch model=…"),
    ):
        found = recipe(replace(run, config=replace(run.config, model=model)), Asset(there, None, "", ""), "adapter")
        assert next(line for line in found if line.startswith("BASE = ...")).count(f"`{words}`") == 1


@pytest.fixture
def on_q_and_v(trained: Trained, saved_base: Callable[[str], Path]) -> Callable[..., Run]:
    """A GPT-2 from files with LoRA of rank 4 on q and v, parts of its fused layer."""
    return lambda **keys: trained("gpt2", targets="qv", method__rank=4, model__path=str(saved_base("gpt2")), **keys)


@pytest.mark.parametrize("what", ["export", "shrink", "merge"])
def test_an_adapter_on_parts_fits_a_plain_gpt2(on_q_and_v, logits, tmp_path, what):
    run, out = on_q_and_v(), tmp_path / "out"
    model, tokenizer = loading.as_run(run)
    wanted = {f"transformer.h.{block}.attn.c_attn.{part}" for block in range(2) for part in "qv"}
    assert set(factors.read(run.adapter, "test").deltas) == wanted == set(deltas(run))
    assert run.record.params["adapter"] == 4 * 4 * (32 + 32)
    plain = AutoModelForSequenceClassification.from_pretrained(str(run.config.model.path), num_labels=2)
    if what == "merge":
        merge(run, out, "fp32")
        plain = AutoModelForSequenceClassification.from_pretrained(out)
    else:
        export(run, out) if what == "export" else shrink(run, 4, None, out)  # all of the rank that it has
        assert factors.read(out, "test").ranks == {f"transformer.h.{block}.attn.c_attn": 8 for block in range(2)}
        assert "ranks add up" in (out / "README.md").read_text()
        plain.config.pad_token_id = tokenizer.pad_token_id
        with quiet_peft():
            plain = PeftModel.from_pretrained(plain, str(out))
        assert not any(isinstance(layer, Split) for layer in plain.modules())
    assert score.relative(logits(plain, tokenizer), logits(model, tokenizer)) < 1e-5


def test_adapters_on_parts_go_together_but_not_with_one_on_the_whole_layer(on_q_and_v, trained, saved_base, tmp_path):
    run, other = on_q_and_v(), on_q_and_v(method__alpha=8)
    combine([run, other], "cat", out=tmp_path / "both")
    assert factors.read(tmp_path / "both", "test").ranks["transformer.h.0.attn.c_attn"] == 2 * 8
    assert all(row["same"] for row in swap([run, other])["adapters"])
    whole = trained("gpt2", model__path=str(saved_base("gpt2")))
    for pair in ([run, whole], [whole, run]):
        for use in (swap, lambda runs: combine(runs, "cat")):
            with pytest.raises(Refused, match="on one base"):
                use(pair)


def test_dora_on_parts_is_no_single_lora(trained, saved_base, tmp_path):
    run = trained("gpt2", "dora", targets="qv", model__path=str(saved_base("gpt2")))
    with pytest.raises(Refused, match=rf"^{run.adapter}: .* for PEFT, needs plain LoRA.*use_dora; merge it instead$"):
        export(run, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[set[str], dict[str, bytes]]]:
    """As much of the hub as an upload needs: whose requests came, and which files."""
    tokens, files = set[str](), dict[str, bytes]()

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            tokens.add(self.headers["Authorization"])
            answer: dict[str, Any] = {"url": f"{address}/me/mine"}
            if "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            elif "/commit/" in self.path:
                sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
                files.update({value["path"]: base64.b64decode(value["content"]) for value in sent})
                answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/me/mine/commit/0"}
            self.answer(answer)

        def do_GET(self) -> None:
            self.answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

        def answer(self, document: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            """In silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield tokens, files
        server.shutdown()


def test_a_push_uploads_what_was_exported(trained, tmp_path, hub, capsys):
    out, run = tmp_path / "peft", str(trained().folder)
    assert main(["adapter", "export", run, "--out", str(out), "--push", "me/mine"]) == 0
    assert "pushed to" in capsys.readouterr().out
    assert hub == ({"Bearer hf_secret"}, {file.name: file.read_bytes() for file in out.iterdir()})


def test_a_push_that_cannot_be_is_refused_in_one_line(trained, tmp_path, capsys):
    run = str(trained().folder)
    assert main(["adapter", "export", run, "--out", str(tmp_path / "a"), "--push", "no/such/name"]) == 2
    assert not (tmp_path / "a").exists()
    assert main(["adapter", "export", run, "--out", str(tmp_path / "b"), "--push", "me/mine"]) == 2  # offline here
    assert "offline mode" in capsys.readouterr().err and (tmp_path / "b" / "README.md").is_file()


def test_the_card_shows_the_study_that_the_run_is_of(trained, tmp_path):
    runs = [trained("bert", method, study="beside") for method in ("lora", "full")]
    export(runs[0], tmp_path / "peft")
    study = (tmp_path / "peft" / "README.md").read_text().split("## The study that it is of")[1]
    scores = [run.record.metrics["test"]["accuracy"]["value"] for run in runs]
    for name, value in zip(("lora r=8", "full"), scores, strict=True):
        assert re.search(rf"\| {name}[^|]*\| {100 * value:.1f} ", study)
    for name, of in (("mine", runs[0]), ("theirs", runs[1])):
        shutil.copytree(of.folder, tmp_path / "received" / name)
    record = json.loads((tmp_path / "received" / "theirs" / "result.json").read_text())
    record["run"]["study"] = "of others"
    (tmp_path / "received" / "theirs" / "result.json").write_text(json.dumps(record))
    assert main(["adapter", "export", str(tmp_path / "received" / "mine"), "--out", str(tmp_path / "again")]) == 0
    assert "The study that it is of" not in (tmp_path / "again" / "README.md").read_text()
