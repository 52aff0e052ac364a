"""An adapter for people without rankwise: what the run left, the tokenizer, and a card that says what it is."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from rankwise.adapters import card, factors, files, loading
from rankwise.adapters.runs import Run, base_asset, on_this_machine
from rankwise.errors import Refused, reason
from rankwise.methods import starts_from_base
from rankwise.model.methods.warm_start import ADAPTER_FILE
from rankwise.tasks import data, scores

_TWICE = "weights: plain LoRA of twice that rank, as training began with a part that was taken out of the base"


def export(run: Run, out: Path, repository: str | None = None) -> dict[str, Any]:
    """Write adapter, config, tokenizer and card to ``out``, and to a ``repository`` of the hub; returns what it wrote.

    Raises Refused for a name that no repository can have, before anything is written.
    """
    files.refuse_taken(out)
    if repository is not None:
        try:
            validate_repo_id(repository)
        except ValueError as error:
            raise Refused(f"--push {repository}: {reason(error)}") from None
    loading.check(run)
    asset, tokenizer, scorer = base_asset(run), loading.load_tokenizer(run), None
    notes = [_TWICE] * starts_from_base(run.config.method)
    if run.config.task.has_values:  # how a logit becomes a value: by the mean and spread of the training labels
        rows = data.load(run.config.task, on_this_machine(run.config.task), run.config.data_seed)
        scorer = scores.scorer_for(run.config.task, None, rows.train.labels)
    lora, of_layers = None, "an adapter on a part of a fused layer, for PEFT,"
    if any(map(factors.of_part, loading.shapes(run.adapter))):
        lora = factors.read(run.adapter, of_layers, "; merge it instead")
    with files.whole(out) as folder:
        for name in (ADAPTER_FILE, "adapter_config.json"):
            shutil.copyfile(run.adapter / name, folder / name)
        if lora is not None:
            notes += factors.write(folder, lora.deltas, lora.config, lora.others)
        loading.save_tokenizer(tokenizer, folder, run)
        card.write(folder, run, asset, "adapter", notes, scorer)
        size, names = files.weight_bytes(folder), sorted(file.name for file in folder.iterdir())
        kind = loading.kind(loading.adapter_config(folder))
    base = {"source": asset.source, "fingerprint": asset.fingerprint}
    document = {"run": run.name, "out": str(out), "base": base, "peft_type": kind, "weight_bytes": size, "files": names}
    document["outputs"] = card.outputs(run, scorer)
    return document | {"scores": card.intervals(run), "pushed": push(out, repository) if repository else None}


def push(folder: Path, repository: str) -> str:
    """Upload a folder to the hub, into a repository that is made private unless it exists; returns its address.

    Raises Refused without a token, without the hub, and where it does not take the files.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message="An adapter trained with rankwise"
        )
    except Exception as error:  # the hub, and the way there, can fail in any way
        raise Refused(f"--push {repository}: {reason(error)}; what was exported is in {folder}") from None
    return str(address)
