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
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
found = []
for base, folder in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(model, folder).eval()
    with torch.inference_mode():
        found.append(model(**tokenizer(json.loads(sys.argv[2]), padding=True, return_tensors="pt")).logits.tolist())
assert "rankwise" not in sys.modules
print(json.dumps(found))
"""


def test_it_loads_by_peft_alone(trained: Trained, saved_base: Callable[[str], Path], tmp_path: Path) -> None:
    cases, wanted = [], []
    for shape, method in (("bert", "lora"), ("gpt2", "lora"), ("llama", "pissa"), ("bert", "ia3")):
        run = trained(shape, method, model__path=str(saved_base(shape)))
        out = tmp_path / f"{shape}-{method}"
        export(run, out)
        cases.append([json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"], str(out)])
        model, tokenizer = loading.as_run(run, loading.numerics(run))
        with torch.inference_mode():
            wanted.append(model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, json.dumps(cases), json.dumps(TEXTS)],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for found, own in zip(json.loads(done.stdout), wanted, strict=True):
        assert score.relative(torch.tensor(found), own) < 1e-5


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
