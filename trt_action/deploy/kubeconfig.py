"""kubectl's config file, read as kubectl does: files merged, one context chosen, files relative to the config.

https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from trt_action.deploy import plugin
from trt_action.deploy.access import MAX_CA_BYTES, Access, Login, read_bytes, read_token
from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote, quote_all

MAX_BYTES = 10_000_000
Json = dict[str, Any]


@dataclass
class _Merged:
    """Several files as one: the first that says something wins. Each entry remembers its file's folder."""

    origin: str
    current: str = ""
    contexts: dict[str, Json] = field(default_factory=dict)
    clusters: dict[str, tuple[Json, Path]] = field(default_factory=dict)
    users: dict[str, tuple[Json, Path]] = field(default_factory=dict)


def usual(env: Mapping[str, str]) -> list[Path]:
    """The files that kubectl would read; those that are there."""
    named = [Path(part) for part in env.get("KUBECONFIG", "").split(":") if part]
    paths = named or ([Path(env["HOME"], ".kube", "config")] if env.get("HOME") else [])
    return [path for path in paths if path.exists()]


def of_files(paths: Sequence[Path], context: str | None, *, insecure: bool, env: Mapping[str, str]) -> Access:
    """The connection of a context (None: the current one).

    Raises:
        SettingsError: no kubeconfig, no such context, or something in it that cannot be used.
    """
    merged = _Merged(f"kubeconfig {', '.join(quote(path) for path in paths)}")
    for path in paths:
        text = read_bytes(path, "kubeconfig", MAX_BYTES).decode("utf-8", "replace")
        _add(merged, _parsed(text, quote(path)), path.absolute().parent)
    return _access(merged, context, insecure=insecure, env=env)


def of_text(text: str, context: str | None, *, insecure: bool, env: Mapping[str, str]) -> Access:
    """As `of_files`, for a kubeconfig that is a secret of the job."""
    merged = _Merged("`deploy-kubeconfig`")
    _add(merged, _parsed(text, "`deploy-kubeconfig`"), Path.cwd())
    return _access(merged, context, insecure=insecure, env=env)


def _parsed(text: str, origin: str) -> Json:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):  # what YAML says quotes the text, and that holds secrets
        document = None
    if not isinstance(document, dict):
        raise SettingsError(
            f"{origin} is no kubeconfig: it is not YAML, or no mapping.",
            fix="`kubectl config view --raw` prints one that works.",
        )
    return document


def _add(merged: _Merged, document: Json, folder: Path) -> None:
    merged.current = merged.current or str(document.get("current-context") or "")
    for name, entry in _entries(document, "contexts", "context"):
        merged.contexts.setdefault(name, entry)
    for name, entry in _entries(document, "clusters", "cluster"):
        merged.clusters.setdefault(name, (entry, folder))
    for name, entry in _entries(document, "users", "user"):
        merged.users.setdefault(name, (entry, folder))


def _entries(document: Json, plural: str, singular: str) -> list[tuple[str, Json]]:
    listed = document.get(plural)
    found = []
    for one in listed if isinstance(listed, list) else []:
        inner = one.get(singular) if isinstance(one, dict) else None
        if isinstance(inner, dict) and one.get("name"):
            found.append((str(one["name"]), inner))
    return found


def _access(merged: _Merged, asked: str | None, *, insecure: bool, env: Mapping[str, str]) -> Access:
    name = asked or merged.current
    context = merged.contexts.get(name)
    if context is None:
        near = nearest(name, merged.contexts)
        raise SettingsError(
            f"{merged.origin} has no context {quote(name)}." if name else f"{merged.origin} has no current context.",
            why=f"There are: {quote_all(merged.contexts)}." if merged.contexts else "It has no context at all.",
            fix=f"Did you mean `{near}`?" if near else "Name one with `--context` (action: `deploy-context`).",
        )
    cluster, cluster_folder = _of(merged.clusters, context, "cluster", name, merged.origin)
    user, user_folder = _of(merged.users, context, "user", name, merged.origin)
    skip = cluster.get("insecure-skip-tls-verify") is True
    if skip and not insecure:
        raise SettingsError(
            f"The context {quote(name)} says `insecure-skip-tls-verify`: anybody on the way could be the cluster.",
            fix="Put the cluster's certificate into the kubeconfig (`certificate-authority-data`); to go on without, say "
            "`--insecure-skip-tls-verify` (action: `deploy-insecure: true`).",
        )
    _refuse_unknown(user, name)
    ca = _content(cluster, "certificate-authority", cluster_folder)
    server = str(cluster.get("server") or "")
    info = plugin.ClusterInfo(server, ca, str(cluster.get("tls-server-name") or ""), skip)
    return Access(
        server=server.rstrip("/"),
        login=_login(user, user_folder, info, env),
        origin=f"context {quote(name)} of {merged.origin}",
        namespace=str(context.get("namespace") or ""),
        ca=ca,
        insecure=skip or insecure,
        server_name=info.server_name,
        proxy=str(cluster.get("proxy-url") or ""),
        impersonate={"Impersonate-User": str(user["as"])} if user.get("as") else {},
    )


def _of(known: Mapping[str, tuple[Json, Path]], context: Json, what: str, name: str, origin: str) -> tuple[Json, Path]:
    wanted = str(context.get(what) or "")
    if wanted not in known:
        raise SettingsError(
            f"The context {quote(name)} names the {what} {quote(wanted)}, which {origin} does not have.",
            fix="`kubectl config view` shows what is there.",
        )
    return known[wanted]


def _refuse_unknown(user: Json, name: str) -> None:
    """Ways to log in that no cluster of today takes, or that we do not follow: better told than ignored."""
    for key, why in (
        ("auth-provider", "kubectl has dropped it too (1.26); cloud providers have an `exec` plugin instead"),
        ("username", "no API server has taken a name and a password since Kubernetes 1.19"),
        ("as-groups", "only `as` is followed"),
        ("as-user-extra", "only `as` is followed"),
    ):
        if user.get(key):
            raise SettingsError(
                f"The user of the context {quote(name)} logs in with `{key}`, which is not supported.",
                why=f"{why[:1].upper()}{why[1:]}.",
                fix="Use a token, a client certificate or an `exec` plugin.",
            )


def _login(user: Json, folder: Path, info: plugin.ClusterInfo, env: Mapping[str, str]) -> Callable[[], Login]:
    """kubectl's order: certificate beside token; a token's file before its text; a plugin where there is none."""
    certificate = _content(user, "client-certificate", folder)
    key = _content(user, "client-key", folder)
    if bool(certificate) != bool(key):
        raise SettingsError(
            "The kubeconfig has a client certificate without its key, or a key without its certificate.",
            fix="Give both, `client-certificate` and `client-key` (or their `-data`).",
        )
    fixed = Login(certificate=certificate, key=SecretStr(key.decode("utf-8", "replace")) if key else None)
    if user.get("tokenFile"):
        path = folder / str(user["tokenFile"])
        return lambda: Login(read_token(path), fixed.certificate, fixed.key)
    if user.get("token"):
        token = SecretStr(str(user["token"]).strip())
        return lambda: Login(token, fixed.certificate, fixed.key)
    if isinstance(user.get("exec"), dict):
        return lambda: plugin.run(user["exec"], info, folder, env)
    return lambda: fixed


def _content(entry: Json, name: str, folder: Path) -> bytes:
    """A field that is base64 (`…-data`) or a file's name; empty where there is neither."""
    data = entry.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise SettingsError(
                f"`{name}-data` in the kubeconfig is not base64.", fix="Make the kubeconfig again."
            ) from None
    if entry.get(name):
        return read_bytes(folder / str(entry[name]), name, MAX_CA_BYTES)
    return b""
