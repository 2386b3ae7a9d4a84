"""`trt-action rollback --workload KIND/NAME`: back to the digest that ran before."""

from __future__ import annotations

import argparse
from typing import Any

from trt_action import errors
from trt_action.commands import cluster


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    rollback = commands.add_parser("rollback", help="return a workload to the digest that ran before the last deploy")
    rollback.add_argument("--to", metavar="DIGEST", help="another digest of the same repository, `sha256:…`")
    cluster.add(rollback)
    rollback.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    wanted = cluster.wanted(arguments)
    from trt_action.deploy import deploying
    from trt_action.publish.reference import is_digest

    if arguments.to is not None and not is_digest(arguments.to):
        raise errors.SettingsError(
            f"`{arguments.to[:200]}` is no digest.", fix="Write `sha256:` and 64 hexadecimal digits."
        )
    with cluster.opened(wanted, *cluster.place(wanted)) as (client, order):
        done = deploying.rollback(client, order, arguments.to)
    return cluster.tell(arguments, done)
