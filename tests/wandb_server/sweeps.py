"""Sweeps: made by ``wandb sweep``, worked off by ``wandb agent``; grids only."""

import itertools
import json
from typing import Any

import yaml

from wandb_server.runs import project_node
from wandb_server.store import CREATED, Run, Store, Sweep

Variables = dict[str, Any]


def upsert(store: Store, given: Variables) -> dict[str, Any]:
    """A new sweep, or a new state of one."""
    sweep = next((one for one in store.sweeps.values() if one.id == given.get("id")), None)
    if sweep is None:
        name = f"sweep{len(store.sweeps) + 1}"
        sweep = Sweep(name, given["projectName"], yaml.safe_load(given["config"]), given["config"])
        store.sweeps[name] = sweep
    sweep.state = given.get("state") or sweep.state
    answer = {"name": sweep.name, "project": project_node(sweep.project)}
    return {"upsertSweep": {"sweep": answer, "configValidationWarnings": []}}


def get(store: Store, given: Variables) -> dict[str, Any]:
    """A sweep with its runs."""
    sweep = store.sweeps.get(given.get("sweep") or given.get("name") or "")
    found = project_node(given["project"])
    if sweep is None:
        return {"project": found | {"sweep": None}}
    runs = [store.runs[name] for name in sweep.points if name in store.runs]
    values = {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "displayName": sweep.config.get("name"),
        "method": sweep.config["method"],
        "state": sweep.state,
        "config": sweep.text,
        "earlyStopJobRunning": False,
        **dict.fromkeys(("createdAt", "heartbeatAt", "updatedAt"), CREATED),
        **dict.fromkeys(("description", "bestLoss", "controller", "scheduler")),
        "runCount": len(runs),
        "runs": {"edges": [{"node": _run(run)} for run in runs]},
    }
    return {"project": found | {"sweep": values}}


def create_agent(store: Store, given: Variables) -> dict[str, Any]:
    """A new agent."""
    sweep = store.sweeps[given["sweep"]]
    name = f"{sweep.name}-agent{len(sweep.agents) + 1}"
    sweep.agents[name], sweep.state = [], "RUNNING"
    return {"createAgent": {"agent": {"id": name}}}


def heartbeat(store: Store, given: Variables) -> dict[str, Any]:
    """The next run for an agent that has none, or the end."""
    sweep = next(one for one in store.sweeps.values() if given["id"] in one.agents)
    busy = set(json.loads(given["runState"] or "{}"))
    commands = [] if busy else [_next(store, sweep, given["id"])]
    return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}


def _next(store: Store, sweep: Sweep, agent: str) -> dict[str, Any]:
    axes = {key: given.get("values", [given.get("value")]) for key, given in sweep.config["parameters"].items()}
    number = len(sweep.points)
    point = next(itertools.islice(itertools.product(*axes.values()), number, None), None)
    if point is None:
        sweep.state = "FINISHED"
        return {"type": "exit"}
    name = f"{sweep.name}-run{number + 1}"
    sweep.points[name] = dict(zip(axes, point, strict=True))
    sweep.agents[agent].append(name)
    args = {key: {"value": value} for key, value in sweep.points[name].items()}
    return {"type": "run", "run_id": name, "args": args, "program": sweep.config.get("program", "")}


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "config": json.dumps(run.config),
        "exitcode": run.exit_code,
        "heartbeatAt": CREATED,
        "shouldStop": False,
        "failed": run.state == "failed",
        "stopped": False,
        "running": run.state == "running",
        "summaryMetrics": json.dumps(run.summary),
        "sampledHistory": [],
    }
