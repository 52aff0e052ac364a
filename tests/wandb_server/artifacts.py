"""Artifacts: declared, uploaded, committed; found by name and downloaded."""

import json
from typing import Any

from wandb_server.runs import project_node
from wandb_server.store import CREATED, Artifact, Store

Variables = dict[str, Any]


def kind(store: Store, given: Variables) -> dict[str, Any]:
    """The type of an artifact that is there already."""
    found = _named(store, given["name"])
    return {"project": {"artifact": {"artifactType": {"name": found.type}} if found else None}}


def create(store: Store, given: Variables) -> dict[str, Any]:
    """A new version, or the one that has the same content."""
    sent = given["input"]
    collection = sent.get("artifactCollectionName") or (sent.get("artifactCollectionNames") or [""])[0]
    versions = [one for one in store.artifacts if one.collection == collection]
    made = next((one for one in versions if one.digest == sent["digest"]), None)
    if made is None:
        own = (sent["artifactTypeName"], sent["digest"], sent.get("runName") or "")
        own += ([one["alias"] for one in sent.get("aliases") or []], json.loads(sent.get("metadata") or "{}"))
        name = f"artifact-{len(store.artifacts) + 1}"
        made = Artifact(name, sent["projectName"], collection, *own, len(versions))
        store.artifacts.append(made)
    latest = {"id": versions[-1].id} if versions else None
    artifact = {"id": made.id, "state": made.state, "artifactSequence": {"latestArtifact": latest}}
    return {"createArtifact": {"artifact": artifact}}


def create_manifest(store: Store, given: Variables) -> dict[str, Any]:
    """Where to PUT the manifest."""
    url = f"{store.url}/storage/manifest/{given['artifactID']}"
    file = {"id": f"manifest:{given['artifactID']}", "uploadUrl": url, "uploadHeaders": []}
    return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest:{given['artifactID']}", "file": file}}}


def create_files(store: Store, given: Variables) -> dict[str, Any]:
    """Where to PUT each file."""
    edges = []
    for file in given["input"]["artifactFiles"]:
        path = f"artifact/{file['artifactID']}/{file['name']}"
        urls = {"uploadUrl": f"{store.url}/storage/{path}", "uploadHeaders": [], "uploadMultipartUrls": None}
        edges.append({"node": urls | {"storagePath": path, "artifact": {"id": file["artifactID"]}}})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def commit(store: Store, given: Variables) -> dict[str, Any]:
    """Everything is uploaded."""
    made = next(one for one in store.artifacts if one.id == given["artifactID"])
    made.state, made.manifest = "COMMITTED", store.stored[f"manifest/{made.id}"]
    return {"commitArtifact": {"artifact": {"id": made.id, "digest": made.digest}}}


def of_run(store: Store, given: Variables) -> dict[str, Any]:
    """What a run logged."""
    mine = [one for one in store.artifacts if one.run == given["run"]]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    edges = [{"node": _fragment(one), "cursor": one.id} for one in mine]
    logged = {"totalCount": len(mine), "pageInfo": page, "edges": edges}
    return {"project": {"run": {"artifacts": logged}}}


def _named(store: Store, name: str) -> Artifact | None:
    collection, _, alias = name.partition(":")
    versions = [one for one in store.artifacts if one.collection == collection]
    if alias in ("", "latest"):
        return versions[-1] if versions else None
    return next((one for one in versions if alias in (f"v{one.version}", *one.aliases)), None)


def _collection(made: Artifact) -> dict[str, Any]:
    return {"__typename": "ArtifactSequence", "name": made.collection, "project": project_node(made.project)}


def _fragment(made: Artifact) -> dict[str, Any]:
    contents = json.loads(made.manifest or "{}").get("contents", {})
    aliases = [{"__typename": "ArtifactAlias", "id": f"alias:{name}", "alias": name} for name in _aliases(made)]
    return {
        "__typename": "Artifact",
        "id": made.id,
        "artifactSequence": _collection(made),
        "versionIndex": made.version,
        "artifactType": {"name": made.type},
        **dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt")),
        "metadata": json.dumps(made.metadata),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": False,
        "tags": [],
        "state": made.state,
        "size": sum(entry["size"] for entry in contents.values()),
        "digest": made.digest,
        "fileCount": len(contents),
        "createdAt": CREATED,
        "aliases": [one | {"artifactCollection": _collection(made)} for one in aliases],
    }


def _aliases(made: Artifact) -> list[str]:
    return sorted({*made.aliases, "latest", f"v{made.version}"})
