"""``rankwise plan``: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest

from rankwise.cli import main

REFUSED = [
    ("plan trainer.batch_size=-1 debug=fast", "trainer.batch_size=-1"),
    ("plan --gpu a100 debug=fast", "did you mean a100-40gb or a100-80gb?"),
    ("plan --fit 0 debug=fast", "--fit 0:"),
    ("plan --fit 24 debug=fast", "--fit 24: a size such as 24GB"),
    ("plan --gpus 0 debug=fast", "--gpus 0:"),
    ("plan --gpus 4 debug=fast", "--gpus 4: of GPUs, and this plan is for a processor; give --gpu NAME"),
    ("plan --gpus 4 --gpu t4 debug=fast trainer.devices=8 trainer.batch_size=8", "--gpus=4: at least 8, the trainer"),
    ("plan --params --fit 1MB debug=fast", "--params: counts parameters only; leave out --fit"),
    ("plan --mfu 2 debug=fast", "--mfu 2: a share above 0 and at most 1, as 0.4 or 40%"),
    ("plan --mfu 101% debug=fast", "--mfu 101%: a share"),
    ("plan model=local model.path=nothing/here/at/all", "model.path=nothing/here/at/all"),
    ("plan debug=fast method=tfidf", "method=tfidf"),
    ("plan model=llama2_7b task=next_token quant=nf4 method=full", "quant=nf4"),
]


@pytest.mark.parametrize(("line", "says"), REFUSED)
def test_what_cannot_be_planned_is_refused_in_one_line(line, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_broken_model_config_is_refused_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "config.json"
    begins = {
        "{": f"{file}: not a model's config (not JSON",
        '{"model_type": "no such"}': "model ./model: its config cannot be read",
        "[]": f"{file}: not a model's config (no keys",
    }
    for text, begin in begins.items():
        file.write_text(text)
        assert main(["plan", "debug=fast", "model=local", "model.path=./model"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"rankwise: {begin}") and said.count("\n") == 1


def test_the_command_prints_a_table_and_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ["plan", "debug=fast", "-m", "method=lora,full", "method.rank=1,4"]
    assert main([*grid, "seed=range(0,9)", "--fit", "1MB", "--gpu", "t4", "--gpus", "8"]) == 0
    said = capsys.readouterr().out
    assert said.count("lora-r1-qv-lr0.002 × 9 ") == 2 and said.count("full-lr0.0001 × 9 ") == 2
    assert "not all fit in" in said and "largest" in said
    assert "Above rank 27, a step" in said, "27.68, of which a rank above 27 is more"
    assert "27 runs" in said and "on 8 GPUs" in said
    assert main([*grid, "--gpu", "t4", "--gpus", "1"]) == 0 and "on 1 GPU," in capsys.readouterr().out
    assert main([*grid, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trainable = [run["params"]["trainable"] for run in found["runs"]]
    assert trainable == sorted(trainable)
    assert found["totals"]["runs"] == 3  # full fine-tuning has no rank
    assert [run["lora"] for run in found["runs"]] == [
        {"rank": 1, "scale": 16.0}, {"rank": 4, "scale": 4.0}, {"rank": None, "scale": None},
    ]  # fmt: skip
    assert not (tmp_path / "outputs").exists()
    assert main(["plan", "debug=fast", "--gpu", "t4", "trainer.precision=bf16"]) == 0
    assert "No time: this hardware has no peak speed in bf16 that is known, or lacks it.\n" in capsys.readouterr().out


def test_rows_and_notes_of_a_plan_are_those_of_all_its_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = ["trainer.batch_size=8,32", "trainer.precision=fp32,bf16", "task.max_length=32,48", "--gpu", "h100-80gb"]
    assert main(["plan", "-m", "debug=fast", *grid]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "lora-r8-qv-lr0.002-s0-max_length=48-batch_size=32-precision=bf16 " in said
    assert "a step of 8 to 32 × 32 to 48 tokens" in said
    assert "at 40.0 % (assumed) of 67.0 TFLOP/s (datasheet, fp32), or at 40.0 % (assumed) of 990 TFLOP/s" in said
    assert main(["plan", "debug=fast", "-m", "method=lora,lora_plus,eva", "method.lr=0.001", "--params"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4]] == [
        f"{method}-r8-qv-lr0.001-s0" for method in ("lora", "lora_plus", "eva")
    ]
    assert main(["plan", "model=tiny_llama", "task=synthetic_lm", "task.packing=true", "task.n_train=50"]) == 0
    assert "give trainer.max_steps or, where texts are not joined, task.n_train" in " ".join(
        capsys.readouterr().out.split()
    )


def test_rows_of_text_that_is_here_are_counted(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("".join(f"line {n} of a text\n" for n in range(200)))
    asked = ["model=tiny_llama", "task=text", "task.path=mine.txt", "task.blocks=false", "task.max_length=64"]
    assert main(["plan", *asked, "trainer.epochs=1", "trainer.batch_size=8", "--json"]) == 0
    compute = json.loads(capsys.readouterr().out)["runs"][0]["compute"]
    assert compute["steps"] == 15  # of 120 rows, as a fifth is validation and a fifth the test


def test_vera_is_planned_at_its_papers_ranks_which_are_above_the_width(capsys, tmp_path, monkeypatch):
    """Kopiczko et al. 2024, Table 2: 43,008 parameters on RoBERTa base, two vectors in each of 24 matrices."""
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "model=roberta_base", "method=vera", "method.rank=1024", "--params", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["params"]["adapter"] == 24 * (768 + 1024)
