"""Logins for programs of others (syft, trivy, grype): in their environment, so that no process list shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trt_action import process

if TYPE_CHECKING:
    from trt_action.publish.reference import Reference
    from trt_action.publish.runtime import Open


def environment(program: str, given: Mapping[str, str]) -> dict[str, str]:
    """What `program` gets: its own variables (`SYFT_…`, `TRIVY_…`), what is no secret of the job, and `given`."""
    front = f"{program.upper()}_"
    own = {name: value for name, value in os.environ.items() if name.startswith(front)}
    return {**process.without_secrets(os.environ), **own, **given}


def login(image: Reference, open_registry: Open) -> dict[str, str]:
    """Variables for all of them, by their own names; empty where the registry needs no login.

    syft: https://github.com/anchore/syft/wiki/configuration; grype reads the same with its own name in front; trivy:
    https://trivy.dev/latest/docs/advanced/private-registries/.
    """
    credentials = open_registry(image.host)[1]
    if credentials is None:
        return {}
    secret = credentials.secret.get_secret_value()
    found = {}
    for name in ("SYFT", "GRYPE"):
        found[f"{name}_REGISTRY_AUTH_AUTHORITY"] = image.host
        if credentials.identity:
            found[f"{name}_REGISTRY_AUTH_TOKEN"] = secret
        else:
            found |= {
                f"{name}_REGISTRY_AUTH_USERNAME": credentials.username,
                f"{name}_REGISTRY_AUTH_PASSWORD": secret,
            }
    if credentials.identity:
        return {**found, "TRIVY_REGISTRY_TOKEN": secret}
    return {**found, "TRIVY_USERNAME": credentials.username, "TRIVY_PASSWORD": secret}
