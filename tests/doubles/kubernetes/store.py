"""The state of the cluster: objects with versions, and the history that watches read."""

from __future__ import annotations

import copy
import datetime
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str, str]
"""(resource, namespace, name)."""


@dataclass(frozen=True)
class Event:
    version: int
    kind: str
    resource: str
    namespace: str
    found: Json


@dataclass
class Store:
    """Objects by key. Every change gets the next version; `changed` is notified."""

    objects: dict[Key, Json] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    oldest: int = 0
    """Watches from before this version get 410."""
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1_000))
    version: int = 999

    def put(self, resource: str, found: Json) -> Json:
        """Create or replace. `generation` follows the spec, `resourceVersion` every change; no change is none."""
        with self.changed:
            metadata = found["metadata"]
            key = (resource, metadata["namespace"], metadata["name"])
            old = self.objects.get(key)
            if old is not None and _without_version(old) == _without_version(found):
                return copy.deepcopy(old)
            if old is None:
                metadata.setdefault("uid", f"uid-{next(self._versions)}")
                metadata.setdefault("creationTimestamp", now())
                metadata["generation"] = 1
            elif old.get("spec") != found.get("spec"):
                metadata["generation"] = old["metadata"]["generation"] + 1
            self._note("MODIFIED" if old else "ADDED", resource, found)
            self.objects[key] = copy.deepcopy(found)
            return copy.deepcopy(found)

    def get(self, resource: str, namespace: str, name: str) -> Json | None:
        with self.changed:
            found = self.objects.get((resource, namespace, name))
            return copy.deepcopy(found) if found else None

    def all(self, resource: str, namespace: str | None = None) -> list[Json]:
        with self.changed:
            return [
                copy.deepcopy(found)
                for (kind, space, _), found in sorted(self.objects.items())
                if kind == resource and namespace in (None, space)
            ]

    def delete(self, resource: str, namespace: str, name: str) -> Json | None:
        with self.changed:
            found = self.objects.pop((resource, namespace, name), None)
            if found:
                self._note("DELETED", resource, found)
            return found

    def compact(self) -> None:
        """Forget the history: older watches get 410 from now on."""
        with self.changed:
            self.oldest = self.version
            self.history.clear()
            self.changed.notify_all()

    def since(self, version: int, resource: str, namespace: str) -> list[Event]:
        with self.changed:
            return [
                one
                for one in self.history
                if one.version > version and one.resource == resource and one.namespace == namespace
            ]

    def _note(self, kind: str, resource: str, found: Json) -> None:
        self.version = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Event(self.version, kind, resource, found["metadata"]["namespace"], copy.deepcopy(found)))
        self.changed.notify_all()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_version(found: Json) -> Json:
    return {**found, "metadata": {k: v for k, v in found["metadata"].items() if k != "resourceVersion"}}
