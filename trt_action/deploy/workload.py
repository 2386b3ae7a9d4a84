"""What is deployed to: a Deployment, a StatefulSet or a KServe InferenceService, and the container in it. Pure.

Built-in kinds get a strategic merge patch: containers are merged by name, so nothing else of the pod is named. Custom
resources know no strategic merge; they get a JSON merge patch, which replaces the list of containers as a whole. Both
carry the `resourceVersion` that was read: whoever changed the workload since then makes the patch a conflict.
https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_action.errors import DeployError, SettingsError
from trt_action.inputs import nearest, quote, quote_all

Json = dict[str, Any]

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
KSERVE_CONTAINER = "kserve-container"
"""What KServe calls the container that serves, in the pods and where the resource gives no name."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Kind:
    """`api`: where its objects are; `containers`: where an object lists them; `builtin`: has a strategic merge."""

    name: str
    api: str
    plural: str
    containers: tuple[str, ...]
    builtin: bool = True


_POD = ("spec", "template", "spec", "containers")
DEPLOYMENT = Kind("Deployment", "/apis/apps/v1", "deployments", _POD)
STATEFUL_SET = Kind("StatefulSet", "/apis/apps/v1", "statefulsets", _POD)
INFERENCE_SERVICE = Kind(
    "InferenceService",
    "/apis/serving.kserve.io/v1beta1",
    "inferenceservices",
    ("spec", "predictor", "containers"),
    builtin=False,
)
KINDS: Mapping[str, Kind] = {
    "deployment": DEPLOYMENT,
    "deployments": DEPLOYMENT,
    "deploy": DEPLOYMENT,
    "statefulset": STATEFUL_SET,
    "statefulsets": STATEFUL_SET,
    "sts": STATEFUL_SET,
    "inferenceservice": INFERENCE_SERVICE,
    "inferenceservices": INFERENCE_SERVICE,
    "isvc": INFERENCE_SERVICE,
}
MODEL = ("spec", "predictor", "model")
"""An InferenceService without containers of its own may name an image here."""


@dataclass(frozen=True)
class Workload:
    """One object of a cluster."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str, namespace: str) -> Workload:
        """`deployment/detector`, in kubectl's words.

        Raises:
            SettingsError: another kind, or no name that an object can have.
        """
        word, slash, name = text.strip().partition("/")
        kind = KINDS.get(word.lower())
        if not slash or kind is None:
            near = nearest(word.lower(), KINDS)
            raise SettingsError(
                f"`workload` is {quote(text)}, which is no `KIND/NAME` of a workload.",
                why="There are: `deployment`, `statefulset` and `inferenceservice`.",
                fix=f"Write `{near or 'deployment'}/{name if _NAME.fullmatch(name) else 'NAME'}`.",
            )
        for what, value in (("name of a workload", name), ("name of a namespace", namespace)):
            if not _NAME.fullmatch(value):
                raise SettingsError(
                    f"{quote(value)} is no {what}.", fix="Names are lower-case letters, digits, `-` and `.`."
                )
        return cls(kind, namespace, name)

    @property
    def collection(self) -> str:
        """Path of the API for all objects of the kind in the namespace."""
        return f"{self.kind.api}/namespaces/{self.namespace}/{self.kind.plural}"

    @property
    def path(self) -> str:
        """Path of the API for this object."""
        return f"{self.collection}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind.name.lower()}/{self.name}"


@dataclass(frozen=True)
class Container:
    """A container of a workload: its image as the object says (empty: none), and where that stands."""

    name: str
    image: str
    place: tuple[str, ...]


@dataclass(frozen=True)
class Patch:
    """What is sent, and how it is to be read."""

    content_type: str
    body: Json


def find(workload: Workload, found: Json, name: str | None) -> Container:
    """The container to be changed: the one that is named, or the only one.

    Raises:
        DeployError: none has the name, or there are several and none was named.
    """
    known = _containers(workload.kind, found)
    if name is None and len(known) == 1:
        return known[0]
    for one in known:
        if one.name == name:
            return one
    names = [one.name for one in known]
    if name is None:
        raise DeployError(
            f"{workload} has {len(names)} containers, and none was named.",
            why=f"There are: {quote_all(names)}." if names else "",
            fix="Say which one: `--container NAME` (action: `deploy-container`).",
        )
    near = nearest(name, names)
    raise DeployError(
        f"{workload} has no container {quote(name)}.",
        why=f"There are: {quote_all(names) or 'none'}.",
        fix=f"Did you mean `{near}`?" if near else "Correct `--container` (action: `deploy-container`).",
    )


def patch(
    workload: Workload, found: Json, container: Container, image: str, annotations: Mapping[str, str | None]
) -> Patch:
    """Another image for one container, and annotations (None removes one), if `found` is still what is there.
    An empty `image` removes the field: so it was before."""
    metadata = {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": dict(annotations)}
    if workload.kind.builtin:
        change: Any = [{"name": container.name, "image": image}]
        return Patch(STRATEGIC, {"metadata": metadata, **_nested(container.place, change)})
    if container.place == MODEL:
        change = {"image": image or None}
    else:
        listed = at(found, container.place)
        change = [one | {"image": image} if _name(one) == container.name else one for one in listed]
    return Patch(MERGE, {"metadata": metadata, **_nested(container.place, change)})


def annotations_of(found: Json) -> dict[str, str]:
    """Of the workload itself, not of its pods."""
    held = found.get("metadata", {}).get("annotations")
    return {str(key): str(value) for key, value in held.items()} if isinstance(held, dict) else {}


def at(found: Json, place: tuple[str, ...]) -> Any:
    """What stands at a place of an object; None where there is nothing."""
    value: Any = found
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _containers(kind: Kind, found: Json) -> list[Container]:
    listed = at(found, kind.containers)
    known = [
        Container(_name(one), str(one.get("image") or ""), kind.containers)
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict)
    ]
    model = at(found, MODEL)
    if not kind.builtin and not known and isinstance(model, dict):
        known.append(Container(KSERVE_CONTAINER, str(model.get("image") or ""), MODEL))
    return known


def _name(container: Json) -> str:
    return str(container.get("name") or KSERVE_CONTAINER)


def _nested(place: tuple[str, ...], value: Any) -> Json:
    for key in reversed(place):
        value = {key: value}
    return dict(value)
