"""Logins that a program gives (`aws eks get-token`, `gke-gcloud-auth-plugin`, …), asked as kubectl asks it.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins. The program runs
without a shell, without input, with a time limit, and without what the job has for others (`process.without_secrets`).
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from trt_action import process
from trt_action.console import clean
from trt_action.deploy.access import Login
from trt_action.errors import SettingsError
from trt_action.inputs import quote

SECONDS = 60.0
VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
KIND = "ExecCredential"
WORDS = 300
"""Characters of what a plugin complains that a message repeats."""


@dataclass(frozen=True)
class ClusterInfo:
    """What a plugin may learn of the cluster, if it asks for it."""

    server: str
    ca: bytes = field(repr=False)
    server_name: str
    insecure: bool


def run(spec: Mapping[str, Any], cluster: ClusterInfo, folder: Path, env: Mapping[str, str]) -> Login:
    """Ask the plugin of a kubeconfig's `exec`. A command with a slash is relative to the kubeconfig's `folder`.

    Raises:
        SettingsError: it is not there, fails, is too slow, wants a person, or answers what is no login.
    """
    version = str(spec.get("apiVersion") or "")
    if version not in VERSIONS:
        raise _refused(spec, f"speaks {quote(version)}; supported are {' and '.join(VERSIONS)}")
    if spec.get("interactiveMode") == "Always":
        raise _refused(spec, "wants to talk to a person (`interactiveMode: Always`)")
    try:
        done = subprocess.run(
            _command(spec, folder, env),
            env=_environment(spec, version, cluster, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refused(spec, f"gave no answer within {SECONDS:.0f} s") from None
    except OSError as error:
        raise _refused(spec, f"cannot be started: {error.strerror or type(error).__name__}") from None
    if done.returncode != 0:
        said = clean(done.stderr.decode("utf-8", "replace"))[-WORDS:]
        raise _refused(spec, f"failed (exit code {done.returncode})" + (f": {said}" if said else ""))
    return _read(spec, done.stdout, version)


def _command(spec: Mapping[str, Any], folder: Path, env: Mapping[str, str]) -> list[str]:
    name = str(spec.get("command") or "")
    found = shutil.which(str(folder / name) if "/" in name else name, path=env.get("PATH", ""))
    if not found:
        hint = clean(str(spec.get("installHint") or ""))[:WORDS]
        raise _refused(spec, "is not installed" + (f" ({hint})" if hint else ""))
    listed = spec.get("args")
    return [found, *(str(one) for one in (listed if isinstance(listed, list) else []))]


def _environment(spec: Mapping[str, Any], version: str, cluster: ClusterInfo, env: Mapping[str, str]) -> dict[str, str]:
    listed = spec.get("env")
    given = {
        str(one.get("name")): str(one.get("value"))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict)
    }
    asked: dict[str, Any] = {"interactive": False}
    if spec.get("provideClusterInfo") is True:
        asked["cluster"] = {
            "server": cluster.server,
            **({"certificate-authority-data": base64.b64encode(cluster.ca).decode()} if cluster.ca else {}),
            **({"tls-server-name": cluster.server_name} if cluster.server_name else {}),
            **({"insecure-skip-tls-verify": True} if cluster.insecure else {}),
        }
    info = json.dumps({"apiVersion": version, "kind": KIND, "spec": asked})
    return {**process.without_secrets(env), **given, "KUBERNETES_EXEC_INFO": info}


def _read(spec: Mapping[str, Any], content: bytes, version: str) -> Login:
    """What it printed is a secret: no message repeats it."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or answer.get("kind") != KIND or answer.get("apiVersion") != version:
        raise _refused(spec, f"did not answer with an {KIND} of {version}")
    token = status.get("token")
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if not (isinstance(token, str) and token) and not (isinstance(certificate, str) and isinstance(key, str)):
        raise _refused(spec, "gave neither a token nor a certificate with its key")
    return Login(
        token=SecretStr(token) if isinstance(token, str) and token else None,
        certificate=certificate.encode() if isinstance(certificate, str) and isinstance(key, str) else b"",
        key=SecretStr(key) if isinstance(certificate, str) and isinstance(key, str) else None,
    )


def _refused(spec: Mapping[str, Any], why: str) -> SettingsError:
    return SettingsError(
        f"The login program {quote(spec.get('command') or '')} of the kubeconfig {why}.",
        fix="Try it with `kubectl get namespaces`; in a job, log in to the provider first, or use a token.",
    )
