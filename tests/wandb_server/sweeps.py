"""Sweeps: made by ``wandb sweep``, worked off by ``wandb agent``; the points come from W&B's own engine."""

from __future__ import annotations

import json
import warnings
from typing import Any

import yaml

from wandb_server.runs import project_node
from wandb_server.store import CREATED, Run, Store, Sweep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # written for an older pydantic
    import sweeps as engine

Variables = dict[str, Any]
_ENGINE_KEYS = ("method", "metric", "parameters", "early_terminate")  # it refuses others, such as run_cap
_OVER = ("finished", "failed")


def upsert(store: Store, given: Variables) -> dict[str, Any]:
    """A new sweep, or a new state of one."""
    sweep = next((one for one in store.sweeps.values() if one.id == given.get("id")), None)
    if sweep is None:
        name = f"sweep{len(store.sweeps) + 1}"
        sweep = Sweep(name, given["projectName"], yaml.safe_load(given["config"]), given["config"])
        bad = engine.schema_violations_from_proposed_config({k: sweep.config[k] for k in _keys(sweep)})
        assert not bad, bad
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
        "__typename": "Sweep", "id": sweep.id, "name": sweep.name, "displayName": sweep.config.get("name"),
        "method": sweep.config["method"], "state": sweep.state, "description": None, "config": sweep.text,
        "createdAt": CREATED, "heartbeatAt": CREATED, "updatedAt": CREATED, "earlyStopJobRunning": False,
        "bestLoss": None, "controller": None, "scheduler": None, "runCount": len(runs), "runCountExpected": None,
        "runs": {"edges": [{"node": _run(run)} for run in runs]},
    }  # fmt: skip
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
    told = [_told(store, sweep, name) for name in sweep.points]
    config = {key: sweep.config[key] for key in _keys(sweep)}
    capped = len(told) >= sweep.config.get("run_cap", len(told) + 1)
    point = None if capped else engine.next_run(config, told, validate=True)
    if point is None:
        sweep.state = "FINISHED"
        return {"type": "exit"}
    name = f"{sweep.name}-run{len(told) + 1}"
    args = json.loads(json.dumps(point.config, default=lambda number: number.item()))
    sweep.points[name] = {key: value["value"] for key, value in args.items()}
    sweep.agents[agent].append(name)
    return {"type": "run", "run_id": name, "args": args, "program": sweep.config.get("program", "")}


def _keys(sweep: Sweep) -> list[str]:
    return [key for key in _ENGINE_KEYS if key in sweep.config]


def _told(store: Store, sweep: Sweep, name: str) -> Any:
    run = store.runs.get(name)
    config = {key: {"value": value} for key, value in sweep.points[name].items()}
    if run is None:  # its process came to nothing
        return engine.SweepRun(name=name, config=config, state="failed")
    state = run.state if run.state in _OVER else "running"
    return engine.SweepRun(name=name, config=config, state=state, summaryMetrics=run.summary)


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name, "state": run.state, "config": json.dumps(run.config), "exitcode": run.exit_code,
        "heartbeatAt": CREATED, "shouldStop": False, "failed": run.state == "failed", "stopped": False,
        "running": run.state == "running", "summaryMetrics": json.dumps(run.summary), "sampledHistory": [],
    }  # fmt: skip
