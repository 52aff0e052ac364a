"""What a fine-tuned model has to beat: runs that train nothing of the language model."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankwise import assets
from rankwise.config import Config, Model
from rankwise.errors import Refused
from rankwise.measure.clock import Clock
from rankwise.tracking.record import Record

OnProgress = Callable[[int, int, str], None]


def run_baseline(
    config: Config, record: Record, clock: Clock, ready: Callable[[], None], on_progress: OnProgress
) -> None:
    """A linear model on fixed features, or the language model as it is, shown a few examples."""
    story = _few_shot if config.method.name == "few_shot" else _linear
    story(config, record, clock, ready, on_progress)


def _linear(config: Config, record: Record, clock: Clock, ready: Callable[[], None], on_progress: OnProgress) -> None:
    with clock("imports"):
        from rankwise.measure.parameters import count
        from rankwise.model import base, numerics
        from rankwise.tasks import baselines, scores
        from rankwise.tracking import predictions

    on_progress(0, 1, "features")
    settings = numerics.settle(config.trainer)
    record.compute |= settings.to_dict() | {"precision": "fp32", "device": "cpu"}
    frozen = 0
    with clock("load"):
        data, model = load(config, record)
        splits = (data.train, data.validation, data.test)
        inputs: list[Any] = [baselines.words(split.texts, split.pairs) for split in splits]
        if config.method.name == "probe":
            lm, tokenizer = base.load(config.model, model, 1, config.seed, settings.attention)
            note_commit(config.model, model, record)
            frozen = count(lm.get_submodule(str(lm.base_model_prefix)), [])["total"]
            sizes = config.task.max_length, config.trainer.eval_batch_size
            inputs = [baselines.mean_pooled(lm, tokenizer, split.texts, *sizes, split.pairs) for split in splits]
    ready()
    with clock("train"):
        fitted = baselines.fit(config.method.name, inputs[0], data.train.labels, config.task.has_classes)
    scorer = scores.scorer_for(config.task, data.classes, data.train.labels)
    validation, _ = baselines.predict(fitted, inputs[1])
    record.metrics["validation"] = scorer.scores(validation, data.validation.labels)
    with clock("test"):
        prediction, score = baselines.predict(fitted, inputs[2])
        record.metrics["test"] = scorer.scores(prediction, data.test.labels)
    if config.objective != "val/loss":
        record.objective = record.metrics["validation"][config.objective.removeprefix("val/")]["value"]
    size = baselines.size(fitted)
    record.params = {"trainable": size, "frozen": frozen, "total": frozen + size, "adapter": 0, "head": size}
    columns = {"label": data.test.labels, "prediction": prediction, "score": score}
    record.metrics["test"] = scores.of_test(record.metrics["test"], columns, data.test, scorer, config.task.metric)
    predictions.write(record.folder, data.test.items, columns | {"cluster": data.test.clusters})


def _few_shot(config: Config, record: Record, clock: Clock, ready: Callable[[], None], on_progress: OnProgress) -> None:
    with clock("imports"):
        from rankwise.measure.parameters import count
        from rankwise.model import base, numerics
        from rankwise.tasks import batches
        from rankwise.tasks.scores import TokenScorer, of_test
        from rankwise.tracking import predictions
        from rankwise.train import module
        from rankwise.train.generate import generate, questions

    on_progress(0, 1, "test")
    settings = numerics.settle(config.trainer)
    record.compute |= settings.to_dict()
    with clock("load"):
        data, model = load(config, record)
        data = _with_examples(config, data)
        lm, tokenizer = base.load(config.model, model, 1, config.seed, settings.attention, config.task.kind)
        note_commit(config.model, model, record)
        loaders = batches.Loaders.of(config, data, tokenizer)
        data = loaders.data
        if config.task.generation.metrics:
            questions(config, tokenizer, data.test)
        note_cut(loaders, record)
    ready()
    lm.requires_grad_(False)
    if settings.precision == "bf16_true":
        lm.bfloat16()
    record.params, scorer = count(lm, []), TokenScorer()
    tuner = module.FineTuner(lm, scorer, config.optim, 1)
    with clock("test"):
        record.metrics["validation"], _ = module.evaluate(tuner, loaders.validation, settings)
        tested, columns = module.evaluate(tuner, loaders.test, settings)
        record.metrics["test"] = of_test(tested, columns, data.test, scorer, config.task.metric)
    record.objective = record.metrics["validation"][config.objective.removeprefix("val/")]["value"]
    if config.task.generation.metrics:
        with clock("generate"):
            generate(lm, tokenizer, config, settings, data.test, record)
    predictions.write(record.folder, data.test.items, columns | {"cluster": data.test.clusters})


def _with_examples(config: Config, data: Any) -> Any:
    """The data with the first ``method.shots`` training rows standing before every validation and test prompt."""
    from rankwise.tasks.language import behind

    shots, train = config.method.shots or 0, data.train
    if shots > len(train):
        raise Refused.value("method.shots", shots, f"at most {len(train)}, the rows of the training data")
    if shots and train.messages is not None:
        raise Refused.value("method.shots", shots, "0 for conversations, which bring their own turns")
    examples = zip(train.texts[:shots], train.completions[:shots], strict=True) if shots else ()
    shown = "".join(f"{prompt}{behind(prompt, completion)}\n\n" for prompt, completion in examples)

    def after(split: Any) -> Any:
        return dataclasses.replace(split, texts=[shown + text for text in split.texts])

    return dataclasses.replace(data, validation=after(data.validation), test=after(data.test))


def load(config: Config, record: Record) -> tuple[Any, assets.Asset]:
    """The task's data and the model's asset, with their fingerprints in the record."""
    from rankwise.tasks import data

    model, source = assets.resolve(config.model), assets.resolve(config.task)
    rows = data.load(config.task, source, config.data_seed)
    sizes = {name: len(getattr(rows, name)) for name in ("train", "validation", "test")}
    record.provenance["data"] = {
        "source": source.source,
        "asset": source.fingerprint,
        "fingerprint": rows.fingerprint,
        "classes": rows.classes,
        **sizes,
        **{key: value for key in ("skipped", "shared", "notes") if (value := getattr(rows, key))},
    }
    for note in rows.notes:
        print(f"rankwise: {note}", file=sys.stderr)
    record.provenance["model"] = {"source": model.source, "fingerprint": model.fingerprint}
    return rows, model


def note_cut(loaders: Any, record: Record) -> None:
    """Put into the record how many rows lost their end, and say it where they are many."""
    known = record.provenance["data"]
    known["cut"] = loaders.cut
    if loaders.note:
        known["notes"] = [*known.get("notes", ()), loaders.note]
        print(f"rankwise: {loaders.note}", file=sys.stderr)


def note_commit(source: Model, model: assets.Asset, record: Record) -> None:
    """Put into the record which commit of a hub id was loaded, whatever its branch is by now."""
    if model.hub_id:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(model.hub_id, "config.json", revision=source.revision or "main")
        if isinstance(file, str):
            record.provenance["model"]["commit"] = Path(file).parent.name
