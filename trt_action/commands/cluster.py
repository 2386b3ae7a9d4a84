"""What `deploy` and `rollback` share: the cluster's arguments, the connection they make, and how results are shown."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trt_action.commands import images
from trt_action.settings.deploy_options import PREFIX
from trt_action.settings.options import ACTION_BY_NAME

if TYPE_CHECKING:
    from trt_action.deploy.access import Access
    from trt_action.deploy.cluster import Cluster
    from trt_action.deploy.deploying import Deployed, Order
    from trt_action.deploy.wanted import Wanted
    from trt_action.deploy.workload import Workload

TARGET = ("namespace", "container", "timeout")
CHECKS = (
    "health",
    "prometheus-url",
    "watch",
    "max-p99",
    "max-error-rate",
    "p99-query",
    "error-rate-query",
    "prometheus-selector",
)
FLAGS = ("workload", *TARGET, "dry-run", "context", "server", *CHECKS)
"""Flags that are rows of the action's table; `--ca` and `--insecure` are the registry's."""

SECRETS = {"deploy-token": "KUBE_TOKEN", "deploy-prometheus-token": "PROMETHEUS_TOKEN"}
"""Others see a command's arguments: secrets come from the environment."""

MAX_CA_BYTES = 1_000_000


def add(command: argparse.ArgumentParser) -> None:
    """Which workload, and how its cluster is reached."""
    command.add_argument("--workload", required=True, metavar="KIND/NAME", help=_help("workload"))
    add_rows(command, TARGET)
    command.add_argument("--dry-run", action="store_true", help=_help("dry-run"))
    command.add_argument("--json", action="store_true", help="print JSON")
    group = command.add_argument_group("cluster")
    group.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, ~/.kube/config, or the pod's own")
    group.add_argument("--context", metavar="NAME", help=_help("context"))
    group.add_argument("--server", metavar="URL", help="instead of a kubeconfig; the token comes from KUBE_TOKEN")
    group.add_argument("--cluster-ca", metavar="FILE", help="certificate of the authority of --server (PEM)")
    group.add_argument("--insecure-skip-tls-verify", action="store_true", help=_help("insecure"))


def add_rows(command: argparse._ActionsContainer, names: tuple[str, ...]) -> None:
    """Flags for rows of the table of the action's inputs, without their `deploy-`."""
    for name in names:
        row = ACTION_BY_NAME[PREFIX + name]
        default = f" Default: {row.default}." if row.default else ""
        command.add_argument(f"--{name}", metavar=row.metavar, help=_help(name) + default)


def wanted(arguments: argparse.Namespace) -> Wanted:
    """What the arguments ask for.

    Raises:
        SettingsError: a value that cannot be taken, or what is needed is not installed.
    """
    with images.installed():
        from trt_action.deploy import wanted as asked

    def text(name: str) -> str:
        if name in SECRETS:
            uses = {"deploy-token": arguments.server, "deploy-prometheus-token": _given(arguments, "prometheus-url")}
            return os.environ.get(SECRETS[name], "") if uses.get(name) else ""
        flag = name.removeprefix(PREFIX)
        value = _given(arguments, flag) if flag in FLAGS else None
        return str(value).lower() if isinstance(value, bool) else str(value or "")

    found = asked.read(text, lambda name: SECRETS.get(PREFIX + name, f"--{name}"))
    ca = Path(arguments.cluster_ca) if arguments.cluster_ca else None
    connection = replace(
        found.connection,
        kubeconfig=Path(arguments.kubeconfig) if arguments.kubeconfig else None,
        insecure=arguments.insecure_skip_tls_verify,
    )
    if ca is not None:
        from trt_action.deploy import access

        connection = replace(connection, ca=access.read_bytes(ca, "certificate", MAX_CA_BYTES))
    return replace(found, connection=connection)


def place(asked: Wanted) -> tuple[Access, Workload]:
    """The cluster and the workload in it: what can be wrong with them shows before anything is asked for.

    Raises:
        SettingsError: no cluster, or no workload, can be made of what is given.
    """
    from trt_action.deploy import access
    from trt_action.deploy.workload import Workload

    found = access.find(asked.connection, os.environ)
    return found, Workload.parse(str(asked.workload), asked.namespace or found.namespace or "default")


@contextlib.contextmanager
def opened(asked: Wanted, found: Access, target: Workload) -> Iterator[tuple[Cluster, Order]]:
    """A client of the cluster, and what is asked of it; progress goes to stderr.

    Raises:
        SettingsError: the login or the certificates cannot be used.
    """
    from trt_action.console import console
    from trt_action.deploy import cluster, wanted
    from trt_action.deploy.deploying import Order

    talk = console(sys.stderr)
    with cluster.opened(found, talk.note) as client, talk.stage("deploy", f"{target} in {target.namespace}") as show:
        yield (
            client,
            Order(
                target,
                asked.container,
                asked.limits,
                asked.dry_run,
                by=wanted.who(os.environ),
                show=show,
                log=lambda text: show(text, None),
            ),
        )


def tell(arguments: argparse.Namespace, done: Deployed) -> int:
    """Print what was done."""
    from trt_action.console import clean

    if arguments.json:
        print(json.dumps(done.as_json(), indent=2))
        return 0
    words = {
        "deployed": "rolled out",
        "unchanged": "is there already; nothing was changed",
        "rolled-back": "rolled back to",
        "would-deploy": "would be rolled out (dry run)",
        "would-roll-back": "would be rolled back to (dry run)",
    }
    print(clean(f"{done.target}  {words[done.done]}: {done.image}  ({done.seconds:.1f} s)"))
    for name, before, after in done.changes:
        print("  " + clean(f"{name}: {before or '(none)'} -> {after or '(none)'}"))
    return 0


def _given(arguments: argparse.Namespace, flag: str) -> object:
    return getattr(arguments, flag.replace("-", "_"), None)


def _help(name: str) -> str:
    row = ACTION_BY_NAME[PREFIX + name]
    return row.help.replace(f"`{PREFIX}", "`--").replace("%", "%%")
