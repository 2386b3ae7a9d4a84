"""`trt-action deploy IMAGE --workload KIND/NAME`: roll an image out by digest; what does not hold is put back."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from trt_action.commands import cluster, images


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    deploy = commands.add_parser("deploy", help="roll an image out to Kubernetes by digest, check it, undo what fails")
    deploy.add_argument("image", metavar="IMAGE", help="HOST/REPOSITORY@DIGEST, or a tag that stays where it is")
    deploy.add_argument("--key", metavar="FILE", help="public key: only what its owner has signed is deployed")
    cluster.add(deploy)
    cluster.add_rows(deploy.add_argument_group("checks after the rollout (token: PROMETHEUS_TOKEN)"), cluster.CHECKS)
    images.add_registry(deploy)
    deploy.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    asked = images.reference(arguments.image)
    wanted = cluster.wanted(arguments)
    where = cluster.place(wanted)
    import requests

    from trt_action.deploy import deploying, image

    key = images.public_key(arguments.key) if arguments.key else None
    with images.opened(arguments, asked) as registry, requests.Session() as session:
        checks = wanted.checks(session)
        resolved = image.resolve(registry, asked)
        known = image.known(registry, resolved, key, images.note)
        with cluster.opened(wanted, *where) as (client, order):
            order = replace(order, checks=checks, confirm=lambda: image.confirm(registry, asked, resolved))
            done = deploying.deploy(client, known, order)
    return cluster.tell(arguments, done)
