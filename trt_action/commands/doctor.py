"""`trt-action doctor`: what of this host is ready, and how to fix the rest."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trt_action import errors


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    doctor = commands.add_parser("doctor", help="what of this host is ready, and how to fix the rest")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--output", default="trt-action-report", metavar="DIR")
    doctor.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    from trt_action.engine import doctor
    from trt_action.settings.schema import default_cache_folder

    checks = doctor.checks(Path(arguments.output), default_cache_folder(os.environ))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.status:<6} {check.name:<22} {check.found}")
            if check.status != "green" and check.fix:
                print(f"       {'':<22} → {check.fix}")
    return errors.EXIT_GATE_FAILED if any(check.status == "red" for check in checks) else 0
