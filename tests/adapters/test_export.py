"""What is exported loads where rankwise is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from rankwise.adapters import loading, score
from rankwise.adapters.export import export
from rankwise.adapters.runs import Run
from rankwise.cli import main

Trained = Callable[..., Run]
TEXTS = ["sun joy win", "fog ill mud box map cup sun"]
ELSEWHERE = """
import contextlib, io, json, pathlib, sys
import torch
found = []
for FOLDER, recipe in json.loads(sys.argv[1]):
    exec(recipe)
    with torch.inference_mode():
        found.append(model(**tokenizer(json.loads(sys.argv[2]), padding=True, return_tensors="pt")).logits.tolist())
assert "rankwise" not in sys.modules
print(json.dumps(found))
"""


def test_it_loads_by_peft_alone(trained: Trained, other_head: Callable[[str], str], tmp_path: Path) -> None:
    """What the run left and what is exported, by the recipe of the card, on bases with heads of three outputs."""
    cases, wanted = [], []
    keys = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
    for shape, method, more in (("bert", "lora", {}), ("gpt2", "lora", {}), ("llama", "pissa", {}), ("bert", "ia3", {}),
                                ("llama", "lora", keys)):  # fmt: skip
        run = trained(shape, method, model__path=other_head(shape), **more)
        export(run, out := tmp_path / run.name)
        recipe = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        model, tokenizer = loading.as_run(run)
        tokenizer.save_pretrained(str(run.adapter))
        cases += [[str(folder), recipe] for folder in (out, run.adapter)]
        with torch.inference_mode():
            wanted += [model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits] * 2
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, json.dumps(cases), json.dumps(TEXTS)],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for found, own in zip(json.loads(done.stdout), wanted, strict=True):
        assert score.relative(torch.tensor(found), own) < 1e-5


@pytest.mark.parametrize(("method", "targets"), [("lora", "qv"), ("pissa", "qv"), ("vera", "qv")])
def test_its_config_names_the_base_as_it_was_given_and_what_is_saved_once(
    trained: Trained, saved_base: Callable[[str], Path], method: str, targets: str
) -> None:
    more = ["word_embeddings"] if method == "lora" else []
    run = trained("bert", method, targets=targets, model__path=str(saved_base("bert")), method__modules_to_save=more)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(saved_base("bert"))
    assert config["modules_to_save"] == ["classifier", *(["bert.embeddings.word_embeddings"] if more else [])]
    other = json.loads((trained("bert", method).adapter / "adapter_config.json").read_text())
    assert other["base_model_name_or_path"] is None  # random weights


def test_the_card_says_what_it_is(trained: Trained, tmp_path: Path) -> None:
    run = trained()
    export(run, tmp_path / "peft")
    _, front, text = (tmp_path / "peft/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "unknown", "library_name": "peft", "pipeline_tag": "text-classification",
    }  # fmt: skip
    accuracy = run.record.metrics["test"]["accuracy"]
    low, high = (accuracy["value"] + side * 1.959964 * accuracy["se"] for side in (-1, 1))
    assert f"| accuracy | {accuracy['value']:.4f} | {low:.4f} to {high:.4f} | 64 |" in text
    for part in (run.record.provenance["data"]["fingerprint"], run.record.provenance["model"]["fingerprint"],
                 "classes 0 = 0, 1 = 1", "PeftModel.from_pretrained", "random weights", "rank: 8"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("quant", "part"),
    [("nf4", "load_in_4bit=True, bnb_4bit_quant_type='nf4'"), ("bf16", "dtype=torch.bfloat16")],
)
def test_the_recipe_names_the_storage(trained: Trained, tmp_path: Path, quant: str, part: str) -> None:
    if quant == "nf4":
        pytest.importorskip("bitsandbytes")
    export(trained("bert", quant=quant), tmp_path / "peft")
    code = (tmp_path / "peft/README.md").read_text().split("```python\n")[1].split("```")[0]
    assert part in code
    compile(code, "card", "exec")


def test_json_is_one_document_on_stdout(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", "export", str(trained().folder), "--out", str(tmp_path / "peft"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peft_type"] == "LORA" and set(found["files"]) == {f.name for f in (tmp_path / "peft").iterdir()}
