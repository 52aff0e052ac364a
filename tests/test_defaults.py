"""The default model and data learn what the README says. Needs them fetched: make fetch."""

from pathlib import Path

import pytest

from rankwise import assets
from rankwise.cli import main
from rankwise.config import Config
from rankwise.tasks import data
from rankwise.tasks.splits import normalise
from rankwise.tracking import record as records


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    """The composed default config of each default task."""
    from rankwise.study import app

    found: dict[str, Config] = {}
    for task in ("movie_polarity", "movie_rating"):
        app.call_hydra([f"task={task}", "hydra.mode=RUN"], lambda config, task=task: found.update({task: config}) or 0)
    return found


def test_the_polarity_task_is_deduplicated_without_neutral_sentences_and_balanced(configs):
    config = configs["movie_polarity"].task
    rows = data.load(config, assets.resolve(config), 0)
    assert [len(rows.train), len(rows.validation), len(rows.test)] == [1500, 1000, 2000]
    texts = [normalise(text) for part in (rows.train, rows.validation, rows.test) for text in part.texts]
    assert len(set(texts)) == len(texts)
    assert rows.classes == ["0", "1"]
    assert 0.45 < rows.test.labels.mean() < 0.55


def test_the_rating_task_keeps_all_10605_sentences_on_the_scale_of_the_raters(configs):
    config = configs["movie_rating"].task
    config.n_train = config.n_validation = config.n_test = None
    rows = data.load(config, assets.resolve(config), 0)
    assert len(rows.train) + len(rows.validation) + len(rows.test) == 10_605
    assert rows.classes is None
    assert -4 <= rows.test.labels.min() < -3 < 3 < rows.test.labels.max() <= 4


def test_a_sentence_is_in_the_same_part_of_both_tasks(configs):
    both = []
    for config in (configs["movie_polarity"].task, configs["movie_rating"].task):
        config.n_train = config.n_validation = config.n_test = None
        rows = data.load(config, assets.resolve(config), 0)
        both.append({normalise(t): part for part in ("train", "validation", "test") for t in getattr(rows, part).texts})
    polarity, rating = both
    assert all(rating[text] == part for text, part in polarity.items())


def test_lora_on_the_real_encoder_learns_in_a_few_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = "trainer.max_steps=24 trainer.batch_size=16 trainer.validations=1 optim.warmup=0.2 optim.schedule=constant"
    sizes = "task.n_train=384 task.n_validation=50 task.n_test=400 task.max_length=32 tracking=none method.lr=4e-3"
    assert main(["train", *few.split(), *sizes.split()]) == 0
    out = capsys.readouterr().out
    accuracy = float(out.split("test accuracy ")[1].split()[0])
    assert accuracy > 60, "percent; a coin is 50 ± 2.5"
    assert "74,498 of 22,787,714 parameters" in out


def test_the_linear_baselines_score_what_they_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "method=tfidf", "tracking=none"]) == 0
    assert 69 < float(capsys.readouterr().out.split("test accuracy ")[1].split()[0]) < 76


def test_lora_on_the_real_causal_lm_learns_to_define_words_in_a_few_steps(tmp_path, monkeypatch):
    """40 steps and 200 words are the experiment; these few take a tenth of its time."""
    monkeypatch.chdir(tmp_path)
    few = "trainer.max_steps=14 trainer.batch_size=8 trainer.eval_batch_size=20 trainer.validations=1 optim.warmup=0"
    sizes = "task.n_validation=8 task.n_test=40 tracking=none tracking.ledger=false"
    assert main(["train", "model=smollm2_instruct", "task=define_words", *few.split(), *sizes.split()]) == 0
    record = records.read(next(Path("outputs").glob("*/lora*")))
    assert record.metrics["test"]["perplexity"]["value"] < 55, "about 90 before training"
