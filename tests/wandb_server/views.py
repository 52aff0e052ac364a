"""Reports and saved workspaces."""

from base64 import b64encode
from typing import Any

from wandb_server.runs import project_node
from wandb_server.store import CREATED, Store

Variables = dict[str, Any]
_KEYS = ("type", "name", "displayName", "description", "spec")


def upsert(store: Store, given: Variables) -> dict[str, Any]:
    """Save a view, new or old."""
    identity = given.get("id") or b64encode(b"View:%06d" % (len(store.views) + 1)).decode()  # without padding
    inserted = identity not in store.views
    sent = {key: given[key] for key in _KEYS if given.get(key) is not None}
    project = {"project": project_node(given["projectName"])} if given.get("projectName") else {}
    old = store.views.get(identity, {"description": "", "createdAt": CREATED, "updatedAt": CREATED})
    store.views[identity] = old | sent | project | {"id": identity}
    return {"upsertView": {"view": store.views[identity], "inserted": inserted}}


def named(store: Store, given: Variables) -> dict[str, Any]:
    """Saved workspaces of a name."""
    found = [
        one for one in store.views.values() if (one["name"], one["type"]) == (given["viewName"], given["viewType"])
    ]
    return {"project": project_node(given["projectName"]) | {"allViews": {"edges": [{"node": one} for one in found]}}}


def listed(store: Store, given: Variables) -> dict[str, Any]:
    """Reports of a project, as ``Api().reports`` asks for them."""
    shown = [one for one in store.views.values() if one["type"] == given.get("viewType", "runs")]
    edges = [{"node": one | {"user": None}, "cursor": str(i)} for i, one in enumerate(shown)]
    page = {"endCursor": None, "hasNextPage": False}
    return {"project": project_node(given["project"]) | {"allViews": {"edges": edges, "pageInfo": page}}}
