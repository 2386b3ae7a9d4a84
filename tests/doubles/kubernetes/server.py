"""The API server: TLS, logins, rights (RBAC), discovery, objects, watches, logs, proxies; with faults on demand.

What kubectl asks for (discovery, informers with fieldSelector) and what Kubernetes documents
(https://kubernetes.io/docs/reference/using-api/api-concepts/) is here; anything else is 404.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.doubles.kubernetes import patching
from tests.doubles.kubernetes.certificates import Authority, Pair
from tests.doubles.kubernetes.controllers import Controllers, Image
from tests.doubles.kubernetes.store import Json, Store

GROUPS: dict[tuple[str, str], dict[str, tuple[str, tuple[str, ...]]]] = {
    ("", "v1"): {
        "pods": ("Pod", ("po",)),
        "events": ("Event", ("ev",)),
        "services": ("Service", ("svc",)),
    },
    ("apps", "v1"): {
        "deployments": ("Deployment", ("deploy",)),
        "statefulsets": ("StatefulSet", ("sts",)),
        "replicasets": ("ReplicaSet", ("rs",)),
        "controllerrevisions": ("ControllerRevision", ()),
    },
    ("serving.kserve.io", "v1beta1"): {"inferenceservices": ("InferenceService", ("isvc",))},
}
VERBS = ["create", "delete", "get", "list", "patch", "watch"]
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)/(?:namespaces/(?P<namespace>[^/]+)/)?(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+)(?P<rest>/.*)?)?"
)


@dataclass(frozen=True)
class Identity:
    """Who asks. `rules` None: may everything; else those of a Role."""

    name: str
    rules: tuple[Json, ...] | None = None


@dataclass
class Fault:
    """What happens instead of, or around, the next `times` matching requests, after `skip` of them.

    `kind`: answer `status`; no answer before or after it took effect; a watch that is cut in a line; no answer at all
    until `released`; somebody else changes the object just before (`meddle`).
    """

    method: str
    path: str
    kind: Literal["status", "reset", "lost-answer", "cut", "silence", "meddle", "gone"] = "status"
    status: int = 500
    message: str = "Injected"
    reason: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0
    meddle: Callable[[], None] | None = None


@dataclass(frozen=True)
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    content_type: str
    who: str

    def json(self) -> Any:
        return json.loads(self.body)


class RefusedError(Exception):
    """Answered with a `Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Kubernetes:
    """The state. Use `serve()`."""

    url: str
    ca: Path
    authority: Authority
    store: Store = field(default_factory=Store)
    tokens: dict[str, Identity] = field(default_factory=dict)
    users: dict[str, Identity] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    health: Callable[[str], int] = lambda _name: 200
    """Status of a pod's or service's `/v2/health/ready`, by its `name:port`."""
    released: threading.Event = field(default_factory=threading.Event)
    controllers: Controllers = field(init=False)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.controllers = Controllers(self.store)

    @property
    def images(self) -> dict[str, Image]:
        return self.controllers.images

    # What tests arrange

    def create(self, manifest: Json) -> Json:
        for resources in GROUPS.values():
            for resource, (kind, _) in resources.items():
                if kind == manifest["kind"]:
                    found = copy.deepcopy(manifest)
                    if kind == "StatefulSet":
                        found["spec"].setdefault("updateStrategy", {"type": "RollingUpdate"})
                    return self.store.put(resource, found)
        raise KeyError(manifest["kind"])

    def get(self, resource: str, name: str, namespace: str = "models") -> Json:
        found = self.store.get(resource, namespace, name)
        assert found is not None, f"{resource}/{name}"
        return found

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Until `condition` holds: looked at after every change of an object, and now and then."""
        end = time.monotonic() + seconds
        with self.store.changed:
            while not condition():
                left = end - time.monotonic()
                assert left > 0, "it did not come to that"
                assert not self.controllers.broken, self.controllers.broken
                self.store.changed.wait(min(left, 0.05))  # requests that arrive notify nobody

    def settled(self, resource: str, name: str, image: str, namespace: str = "models") -> bool:
        """Whether every pod of a workload runs `image` and is ready, and no other is left."""
        one = self.get(resource, name, namespace)
        spec = one["spec"]
        wanted = spec.get("replicas", spec.get("predictor", {}).get("minReplicas", 1))
        labels = (
            {"serving.kserve.io/inferenceservice": name}
            if resource == "inferenceservices"
            else spec["selector"]["matchLabels"]
        )
        pods = [p for p in self.store.all("pods", namespace) if labels.items() <= p["metadata"]["labels"].items()]
        good = [p for p in pods if any(c["image"] == image for c in p["spec"]["containers"]) and _is_ready(p)]
        seen = one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
        return bool(len(pods) == len(good) == wanted and seen)

    def kubeconfig(self, path: Path, *, token: str = "", pair: Pair | None = None, **cluster: Any) -> Path:
        """A config file for kubectl and for us."""
        user: Json = {"token": token} if token else {}
        if pair:
            user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [
                {"name": "here", "cluster": {"server": self.url, "certificate-authority-data": authority, **cluster}}
            ],
            "users": [{"name": "me", "user": user}],
            "contexts": [{"name": "double", "context": {"cluster": "here", "user": "me", "namespace": "models"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    # What the server does

    def allowed(self, who: Identity, verb: str, found: re.Match[str], query: dict[str, str]) -> bool:
        if who.rules is None:
            return True
        resource = found["resource"] + (f"/{found['sub']}" if found["sub"] else "")
        name = found["name"] or dict(  # of a proxy with its port: `detector:8000`, as a real server has it
            part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if "=" in part
        ).get("metadata.name")
        return any(
            (found["group"] or "") in rule["apiGroups"]
            and resource in rule["resources"]
            and verb in rule["verbs"]
            and ("resourceNames" not in rule or name in rule["resourceNames"])
            for rule in who.rules
        )

    def patched(self, resource: str, old: Json, seen: Seen) -> Json:
        """What a patch makes of an object, checked."""
        patcher = patching.PATCHERS.get(seen.content_type)
        custom = resource == "inferenceservices"
        if patcher is None or (custom and patcher is patching.strategic):
            raise RefusedError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {seen.content_type}")  # fmt: skip
        try:
            new = patcher(old, seen.body)
        except (patching.BadPatchError, KeyError, IndexError, ValueError) as error:
            raise RefusedError(400, "BadRequest", str(error)) from None
        if new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
            raise RefusedError(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {resource} "{old["metadata"]["name"]}": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        new["metadata"] = {
            **new["metadata"],
            **{
                key: old["metadata"][key]
                for key in ("uid", "generation", "creationTimestamp")
                if key in old["metadata"]
            },
        }
        if not new["metadata"].get("annotations"):
            new["metadata"].pop("annotations", None)
        _validate(resource, old, new)
        return new


def _validate(resource: str, old: Json, new: Json) -> None:
    if new["metadata"]["name"] != old["metadata"]["name"]:
        raise RefusedError(422, "Invalid", "metadata.name: Invalid value: field is immutable")
    if "selector" in old.get("spec", {}) and old["spec"]["selector"] != new["spec"].get("selector"):
        raise RefusedError(422, "Invalid", "spec.selector: Invalid value: field is immutable")
    if resource in ("deployments", "statefulsets"):
        for number, one in enumerate(new["spec"]["template"]["spec"]["containers"]):
            if not one.get("image"):
                place = f"spec.template.spec.containers[{number}].image"
                raise RefusedError(422, "Invalid", f'"{new["metadata"]["name"]}" is invalid: {place}: Required value')
            unknown = set(one) - {"name", "image", "ports", "env", "args", "command", "readinessProbe", "resources", "volumeMounts"}  # fmt: skip
            if unknown:
                raise RefusedError(400, "BadRequest", f"unknown fields {sorted(unknown)}")
    for key, value in new["metadata"].get("annotations", {}).items():
        if not isinstance(value, str) or not re.fullmatch(
            r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", key
        ):
            raise RefusedError(422, "Invalid", f"metadata.annotations: Invalid value: {key!r}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    kubernetes: Kubernetes

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Silent."""

    def _serve(self) -> None:
        k8s = self.kubernetes
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        who = self._identity()
        content_type = (self.headers.get("Content-Type") or "").partition(";")[0]
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        seen = Seen(self.command, parts.path, query, body, content_type, who.name if who else "")
        with k8s.lock:
            k8s.seen.append(seen)
            fault = self._fault(seen)
        if fault and fault.kind == "reset":
            return self._reset()
        if fault and fault.kind == "silence":
            k8s.released.wait(60)
            return self._reset()
        if fault and fault.kind == "status":
            return self._send(fault.status, _status(fault.status, fault.reason, fault.message), fault.headers)
        if fault and fault.kind == "meddle" and fault.meddle:
            fault.meddle()
        try:
            if who is None:
                raise RefusedError(401, "Unauthorized", "Unauthorized")
            data = self._answer(seen, who, fault)
        except RefusedError as refused:
            return self._send(refused.code, _status(refused.code, refused.reason, str(refused)))
        if fault and fault.kind == "lost-answer":
            return self._reset()
        return None if data is None else self._send(200, data)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 - the names that http.server asks for

    def _identity(self) -> Identity | None:
        token = re.fullmatch(r"Bearer (.+)", self.headers.get("Authorization") or "")
        if token:
            return self.kubernetes.tokens.get(token[1])
        connection: Any = self.connection
        certificate = connection.getpeercert()
        for part in (certificate or {}).get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return self.kubernetes.users.get(value)
        return None

    def _fault(self, seen: Seen) -> Fault | None:
        for fault in self.kubernetes.faults:
            if fault.times > 0 and fault.method in (seen.method, "*") and re.search(fault.path, self.path):
                if (fault.kind in ("cut", "gone")) != ("watch" in seen.query):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _answer(self, seen: Seen, who: Identity, fault: Fault | None) -> Any:
        if (found := _discovery(seen.path)) is not None:
            return found
        match = _PATH.fullmatch(seen.path)
        known = GROUPS.get((match["group"] or "", match["version"]), {}) if match else {}
        if match is None or match["resource"] not in known:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        watching = seen.query.get("watch") in ("1", "true")
        verb = {
            "GET": "get" if match["name"] else "watch" if watching else "list",
            "DELETE": "delete",
            "PATCH": "patch",
        }
        asked = verb.get(seen.method, "create")
        if not self.kubernetes.allowed(who, asked, match, seen.query):
            resource = f'resource "{match["resource"]}" in API group "{match["group"] or ""}"'
            where = f'in the namespace "{match["namespace"]}"'
            raise RefusedError(403, "Forbidden", f'User "{who.name}" cannot {asked} {resource} {where}')
        if watching:
            return self._watch(seen, match, fault)
        return self._objects(seen, match)

    def _objects(self, seen: Seen, match: re.Match[str]) -> Any:
        k8s, resource, namespace, name = self.kubernetes, match["resource"], match["namespace"], match["name"]
        kind = GROUPS[match["group"] or "", match["version"]][resource][0]
        if name is None:
            if seen.method == "POST":
                return k8s.store.put(resource, json.loads(seen.body))
            version = {"": "v1"}.get(match["group"] or "", f"{match['group']}/{match['version']}")
            items = [one for one in k8s.store.all(resource, namespace) if _selected(one, seen.query)]
            metadata = {"resourceVersion": str(k8s.store.version)}
            return {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items}
        if match["sub"] == "proxy":
            return self._proxy(match)
        with k8s.store.changed:
            found = k8s.store.get(resource, namespace, name)
            if found is None:
                raise RefusedError(404, "NotFound", f'{resource} "{name}" not found')
            if match["sub"] == "log":
                return self._log(found, seen)
            if seen.method == "PATCH":
                if seen.query.get("dryRun") not in (None, "All"):
                    raise RefusedError(400, "BadRequest", "dryRun: Unsupported value")
                new = k8s.patched(resource, found, seen)
                return new if "dryRun" in seen.query else k8s.store.put(resource, new)
            if seen.method == "DELETE":
                found["metadata"]["deletionTimestamp"] = found["metadata"]["creationTimestamp"]
                return k8s.store.put(resource, found)
            return found

    def _log(self, pod: Json, seen: Seen) -> str:
        if len(pod["spec"]["containers"]) > 1 and "container" not in seen.query:
            raise RefusedError(400, "BadRequest", "a container name must be specified")
        text = self.kubernetes.controllers.logs.get(f"{pod['metadata']['name']}/{seen.query.get('container')}", "")
        restarts = [one.get("restartCount", 0) for one in pod.get("status", {}).get("containerStatuses", [])]
        if seen.query.get("previous") == "true" and not any(restarts):
            raise RefusedError(400, "BadRequest", "previous terminated container not found")
        lines = text.splitlines(keepends=True)
        return "".join(lines[-int(seen.query.get("tailLines", len(lines) or 1)) :])

    def _proxy(self, match: re.Match[str]) -> Any:
        status = self.kubernetes.health(str(match["name"])) if match["rest"] == "/v2/health/ready" else 404
        if status != 200:
            raise RefusedError(status, "ServiceUnavailable", "the server is not ready")
        return ""

    def _watch(self, seen: Seen, match: re.Match[str], fault: Fault | None) -> None:
        k8s = self.kubernetes
        version = int(seen.query.get("resourceVersion") or k8s.store.version)
        end = time.monotonic() + min(float(seen.query.get("timeoutSeconds") or 60), 60)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        if version < k8s.store.oldest or (fault and fault.kind == "gone"):
            self._chunk({"type": "ERROR", "object": _status(410, "Expired", "too old resource version")})
            return self._chunk(None)
        if fault and fault.kind == "cut":
            self.wfile.write(b'10\r\n{"type":"MODIFIED"')
            self.wfile.flush()
            return self._reset()
        while time.monotonic() < end:
            with k8s.store.changed:
                events = k8s.store.since(version, match["resource"], match["namespace"])
                if not events:
                    k8s.store.changed.wait(min(0.5, max(0.0, end - time.monotonic())))
                    continue
            for event in events:
                version = event.version
                if _selected(event.found, seen.query):
                    self._chunk({"type": event.kind, "object": event.found})
        return self._chunk(None)

    def _chunk(self, data: Any) -> None:
        content = b"" if data is None else json.dumps(data).encode() + b"\n"
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        text = isinstance(data, str)
        content = data.encode() if text else json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.wfile = self.rfile = _Nowhere()  # type: ignore[assignment]


class _Nowhere:
    """http.server flushes and closes its files after a handler; here nobody is left to hear it."""

    closed = True

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._context = context

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or does not like our certificate is no failure; anything else is a bug here."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | ssl.SSLError | TimeoutError):
            handler: Any = self.RequestHandlerClass
            handler.kubernetes.violations.append(f"bug in the double: {error!r}")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Kubernetes]:
    """A running cluster; its certificates lie in `folder`. A token `admin` may everything."""
    authority = Authority(folder)
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    handler = type("Handler", (_Handler,), {})
    server = _Server(handler, context)
    double = Kubernetes(f"https://127.0.0.1:{server.server_address[1]}", authority.ca, authority)
    double.tokens["admin"] = Identity("admin")
    handler.kubernetes = double  # type: ignore[attr-defined]
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True),
        threading.Thread(target=double.controllers.run, daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield double
    finally:
        double.released.set()
        double.controllers.stop()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join(5)
        double.violations += double.controllers.broken


def _discovery(path: str) -> Any:
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for group, version in GROUPS:
            if group:
                one = {"groupVersion": f"{group}/{version}", "version": version}
                groups.append({"name": group, "versions": [one], "preferredVersion": one})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    for (group, version), resources in GROUPS.items():
        where = f"/apis/{group}/{version}" if group else "/api/v1"
        if path == where:
            listed = [
                {
                    "name": name,
                    "singularName": kind.lower(),
                    "namespaced": True,
                    "kind": kind,
                    "verbs": VERBS,
                    "shortNames": list(short),
                }
                for name, (kind, short) in resources.items()
            ]
            return {
                "kind": "APIResourceList",
                "groupVersion": f"{group}/{version}" if group else "v1",
                "resources": listed,
            }
    return None


def _selected(found: Json, query: dict[str, str]) -> bool:
    labels = found["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = part.partition("=")
        assert equals, f"not understood: {part}"
        if labels.get(key) != value.removeprefix("="):
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        holder: Any = found
        for step in key.split("."):
            holder = holder.get(step) if isinstance(holder, dict) else None
        if holder != value:
            return False
    return True


def _status(code: int, reason: str, message: str) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ending = "deletionTimestamp" in pod["metadata"]
    return not ending and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
