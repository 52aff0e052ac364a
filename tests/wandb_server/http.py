"""The wire: GraphQL, the file stream and storage over HTTP on the loopback."""

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from wandb_server import artifacts, runs, sweeps, views
from wandb_server.faults import Fault
from wandb_server.store import Store

Answer = Callable[[Store, dict[str, Any]], dict[str, Any]]
OPERATIONS: dict[str, Answer] = {
    "Viewer": runs.viewer,
    "ServerFeaturesQuery": lambda store, given: {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": lambda store, given: {"entity": {"organization": None}},
    "UpsertBucket": runs.upsert,
    "RunResumeStatus": runs.resume_status,
    "CreateRunFiles": runs.create_files,
    "RunFiles": runs.files,
    "Runs": runs.find,
    "DeleteRun": runs.delete,
    "GetProjects": runs.projects,
    "ProjectInternalId": runs.project,
    "ArtifactType": artifacts.kind,
    "CreateArtifact": artifacts.create,
    "CommitArtifact": artifacts.commit,
    "CreateArtifactManifest": artifacts.create_manifest,
    "CreateArtifactFiles": artifacts.create_files,
    "RunOutputArtifacts": artifacts.of_run,
    "UpsertSweep": sweeps.upsert,
    "SweepWithRuns": sweeps.get,
    "CreateAgent": sweeps.create_agent,
    "Heartbeat": sweeps.heartbeat,
    "upsertView": views.upsert,
    "UpsertView2": views.upsert,
    "View": views.named,
    "ProjectViews": views.listed,
}
_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
_STREAM = re.compile(r"/files/[^/]+/[^/]+/([^/]+)/file_stream$")


class Loopback(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 in a thread of its own."""

    daemon_threads = True

    def __init__(self, store: Store, fault: Fault | None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.fault, self.lock = store, fault, threading.Lock()
        self.asked: list[str] = []  # operations, in order
        self.unknown: list[str] = []  # what it could not answer
        self.ended = threading.Event()
        store.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop listening; whoever hangs is let go."""
        if not self.ended.is_set():
            self.ended.set()
            self.shutdown()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Loopback

    def do_POST(self) -> None:
        body = self._body()
        if not self._meets_fault():
            if self.path == "/graphql":
                self._graphql(json.loads(body))
            elif stream := _STREAM.search(self.path):
                with self.server.lock:
                    runs.stream(self.server.store, stream[1], json.loads(body))
                self._send(200, b"{}", "file_stream")
            else:
                self._unknown(f"POST {self.path}")

    def do_PUT(self) -> None:
        body = self._body()
        if not self._meets_fault():
            path = unquote(self.path).removeprefix("/storage/")
            with self.server.lock:
                self.server.store.stored[path] = body
            self._send(200, b"", "storage")

    def do_GET(self) -> None:
        if not self._meets_fault():
            if self.path == "/":
                return self._send(200, b"", "hello")
            found = self.server.store.stored.get(unquote(self.path).removeprefix("/storage/"))
            if found is None:
                return self._unknown(f"GET {self.path}")
            self._send(200, found, "storage")

    def _graphql(self, sent: dict[str, Any]) -> None:
        named = _OPERATION.search(sent["query"])
        name = named[1] if named else sent["query"]
        self.server.asked.append(name)
        if name not in OPERATIONS:
            return self._unknown(name)
        try:
            with self.server.lock:
                data = OPERATIONS[name](self.server.store, sent.get("variables") or {})
        except Exception as error:
            return self._unknown(f"{name}: {type(error).__name__}: {error}")
        self._send(200, json.dumps({"data": data}).encode(), name)

    def _unknown(self, what: str) -> None:
        self.server.unknown.append(what)
        self._send(400, json.dumps({"errors": [{"message": f"the test's server does not know: {what}"}]}).encode(), "")

    def _meets_fault(self) -> bool:
        fault = self.server.fault
        if fault is None or not fault.active.is_set():
            return False
        if fault.kind == "hang":
            self.server.ended.wait()
        if isinstance(fault.kind, int):
            self._send(fault.kind, json.dumps({"errors": [{"message": f"HTTP {fault.kind} on purpose"}]}).encode(), "")
        else:
            self.close_connection = True
        return True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, status: int, body: bytes, answered: str) -> None:
        fault = self.server.fault
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        if fault:
            fault.answered(answered)
            if fault.kind == "die" and fault.active.is_set():
                threading.Thread(target=self.server.close, daemon=True).start()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
