"""`trt-action doctor`: what of this host is ready, and how to fix the rest."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from trt_action import errors
from trt_action.commands import images
from trt_action.settings.options import BY_NAME

WIDTH = 24


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    doctor = commands.add_parser("doctor", help="what of this host is ready, and how to fix the rest")
    doctor.add_argument("--json", action="store_true", help="print JSON, without folders and serial numbers")
    doctor.add_argument("--output", default="trt-action-report", metavar="DIR")
    doctor.add_argument(
        "--backend", choices=BY_NAME["backend"].choices, help="what is to run here: red if it cannot. Default: any"
    )
    doctor.add_argument("--device", default="auto", metavar="DEVICE", help="as the setting `device`, e.g. `cuda:0`")
    doctor.add_argument("--registry", metavar="HOST", help="log in there, e.g. `ghcr.io`")
    images.add_registry(doctor)
    doctor.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from trt_action import doctor
    from trt_action.engine import cuda
    from trt_action.settings.schema import default_cache_folder

    if arguments.device != "auto":
        cuda.parse_device(arguments.device)
    asked = doctor.Asked(
        output=Path(arguments.output),
        cache=default_cache_folder(os.environ),
        env=os.environ,
        backend=arguments.backend,
        device=arguments.device,
        registry=arguments.registry,
        username=arguments.username,
        ca=Path(arguments.ca) if arguments.ca else None,
        insecure=True if arguments.insecure else None,
    )
    checks = doctor.checks(asked, tell=_nothing if arguments.json else _tell)
    if arguments.json:
        home = os.environ.get("HOME", "").rstrip("/")
        print(json.dumps([check.shareable(home) for check in checks], indent=2))
    return errors.EXIT_GATE_FAILED if any(check.status == "red" for check in checks) else 0


def _tell(check: Any) -> None:
    private = f" ({check.private})" if check.private else ""
    print(f"{check.status:<6} {check.name:<{WIDTH}} {check.found}{private}", flush=True)
    if check.fix:
        print(f"       {'':<{WIDTH}} → {check.fix}", flush=True)


def _nothing(_: Any) -> None:
    """JSON comes as a whole."""
