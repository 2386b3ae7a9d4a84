"""`trt-action serve`: engines behind the Open Inference Protocol v2 (docs/serving.md)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from trt_action.errors import BackendUnavailableError
from trt_action.serve import flags


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    serve = commands.add_parser("serve", help="serve engines made by `build` over HTTP: Open Inference Protocol v2")
    serve.add_argument("path", metavar="PATH", help="folder of an engine, of a model, or of a repository of models")
    for flag in flags.FLAGS:
        words = f"{flag.help}. Default: {flags.plain(flag.default)}." if flag.default != "" else f"{flag.help}."
        serve.add_argument(
            f"--{flag.name}",
            dest=flag.attribute,
            metavar=flag.metavar or "|".join(flag.choices or ("true", "false")),
            help=words.replace("%", "%%"),
        )
    serve.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    given = {flag.attribute: getattr(arguments, flag.attribute) for flag in flags.FLAGS}
    options = flags.parse(Path(arguments.path), given, os.environ)
    try:
        from trt_action.serve import server
    except ImportError as error:
        raise BackendUnavailableError(
            "The server's libraries are not in this Python environment.",
            why=" ".join(str(error).split())[:300],
            fix="Install them with `pip install 'trt-action[serve,onnxruntime]'` for the same Python.",
        ) from None
    server.run(options)
    return 0
