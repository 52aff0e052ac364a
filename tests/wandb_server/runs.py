"""Runs: opened by wandb.init, filled by the file stream, read back by wandb.Api."""

import json
import re
from typing import Any

from wandb_server.store import CREATED, ENTITY, Run, Store

Variables = dict[str, Any]
_FIELDS = ("displayName", "groupName", "jobType", "tags", "sweep")


def viewer(store: Store, given: Variables) -> dict[str, Any]:
    """Who the key belongs to."""
    names = dict.fromkeys(("entity", "username", "name"), ENTITY)
    return {"viewer": names | {"id": "user:1", "email": "tester@localhost", "flags": "{}", "teams": {"edges": []}}}


def upsert(store: Store, given: Variables) -> dict[str, Any]:
    """Open or change a run."""
    assert given.get("name") not in store.deleted
    run = store.runs.get(given.get("name") or "") or _by_id(store, given.get("id"))
    if inserted := run is None:
        run = store.runs[given["name"]] = Run(given["name"], given["project"], given.get("entity") or ENTITY)
    assert run is not None
    if given.get("host"):
        run.started, run.state, run.exit_code = run.started + 1, "running", None
    run.fields |= {key: given[key] for key in _FIELDS if given.get(key) is not None}
    run.config |= json.loads(given.get("config") or "{}")
    run.summary |= json.loads(given.get("summaryMetrics") or "{}")
    return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}


def resume_status(store: Store, given: Variables) -> dict[str, Any]:
    """What a run that goes on must know; null where there is none."""
    run = store.runs.get(given["name"])
    model = {"id": "model:1", "name": given["project"], "entity": {"id": "entity:1", "name": ENTITY}}
    if run is None:
        return {"model": model | {"bucket": None}}
    tail = {
        "summaryMetrics": json.dumps(run.summary),
        "historyTail": json.dumps(run.lines[-1:]),
        "eventsTail": "[]",
        "logLineCount": 0,
        "eventsLineCount": 0,
        "wandbConfig": '{"t": 1}',
        "notes": None,
    }
    return {"model": model | {"bucket": _bucket(run) | tail | {"tags": run.fields.get("tags") or []}}}


def create_files(store: Store, given: Variables) -> dict[str, Any]:
    """Where to PUT a run's files."""
    where = f"{store.url}/storage/run/{given['run']}"
    files = [{"name": name, "uploadUrl": f"{where}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def files(store: Store, given: Variables) -> dict[str, Any]:
    """Files of a run by name, an absent one with 0 for its hash, as W&B answers; or all."""
    name = given.get("runName") or given.get("run") or given["name"]
    own = {path.removeprefix(f"run/{name}/"): path for path in store.stored if path.startswith(f"run/{name}/")}
    wanted = {file: own.get(file) for file in given.get("fileNames") or own}
    edges = []
    for file, path in wanted.items():
        size, md5 = (len(store.stored[path]), "") if path else (0, "0")
        node = {"id": f"file:{path}", "name": file, "sizeBytes": size, "updatedAt": CREATED, "mimetype": "", "md5": md5}
        node |= dict.fromkeys(("url", "directUrl"), f"{store.url}/storage/{path}")
        edges.append({"node": node, "cursor": file})
    page = {"endCursor": None, "hasNextPage": False}
    found = {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": page}}
    return {"project": project_node(given["project"]) | {"run": found}}


def stream(store: Store, name: str, sent: dict[str, Any]) -> None:
    """One POST of the file stream."""
    run = store.runs[name]
    for file, chunk in (sent.get("files") or {}).items():
        if file == "wandb-history.jsonl":
            run.lines[chunk["offset"] : chunk["offset"] + len(chunk["content"])] = chunk["content"]
        elif file == "wandb-summary.json":
            run.summary = json.loads(chunk["content"][-1])
    if sent.get("complete"):
        run.exit_code = sent["exitcode"]
        run.state = "failed" if run.exit_code else "finished"


def find(store: Store, given: Variables) -> dict[str, Any]:
    """A page (all of them) of the runs of a project."""
    group = json.loads(given.get("filters") or "{}").get("group", {}).get("$regex", "")
    runs = [run for run in store.runs.values() if run.project == given["project"]]
    nodes = [_node(run) for run in runs if re.search(group, run.fields.get("groupName") or "")]
    edges = [{"node": node, "cursor": str(i)} for i, node in enumerate(nodes)]
    page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
    return {"project": project_node(given["project"]) | {"runCount": len(nodes), "readOnly": False, "runs": page}}


def delete(store: Store, given: Variables) -> dict[str, Any]:
    """Take a run away; its id is not free again."""
    run = _by_id(store, given["id"])
    assert run is not None
    store.deleted.append(store.runs.pop(run.name).name)
    return {"deleteRun": {"clientMutationId": None}}


def projects(store: Store, given: Variables) -> dict[str, Any]:
    """Every project, in the two shapes that clients ask for."""
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    nodes = [project_node(name) for name in store.projects()]
    return {"models": {"edges": [{"node": node} for node in nodes], "pageInfo": page}}


def project(store: Store, given: Variables) -> dict[str, Any]:
    """One project, by whichever variable names it."""
    return {"project": project_node(given.get("projectName") or given.get("project") or given["name"])}


def project_node(name: str) -> dict[str, Any]:
    return {
        "__typename": "Project",
        "id": f"project:{name}",
        "internalId": "1",
        "name": name,
        "entityName": ENTITY,
        "entity": {"id": "entity:1", "name": ENTITY},
        "createdAt": CREATED,
        "isBenchmark": False,
        "user": None,
    }


def _by_id(store: Store, identity: str | None) -> Run | None:
    return next((run for run in store.runs.values() if run.id == identity), None)


def _bucket(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "displayName": run.fields.get("displayName") or run.name,
        "description": None,
        "config": json.dumps(run.config),
        "sweepName": run.fields.get("sweep"),
        "project": project_node(run.project),
        "historyLineCount": len(run.lines),
    }


def _node(run: Run) -> dict[str, Any]:
    return _bucket(run) | {
        "projectId": "1",
        "tags": run.fields.get("tags") or [],
        "state": run.state,
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "group": run.fields.get("groupName"),
        "jobType": run.fields.get("jobType"),
        "commit": None,
        "readOnly": False,
        "createdAt": CREATED,
        "heartbeatAt": CREATED,
        "notes": None,
        "user": {"name": ENTITY, "username": ENTITY},
    }
