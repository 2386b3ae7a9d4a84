"""The door for the command line (with `commands/`). Rooms are imported when a command needs them: `--help` stays instant."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trt_action import __version__, errors, interruption
from trt_action.commands import (
    bump,
    deploy,
    doctor,
    gitlab,
    history,
    inspect,
    promote,
    prune,
    publish,
    record,
    rollback,
    select,
    serve,
    verify,
)
from trt_action.commands.parser import Parser
from trt_action.settings import options
from trt_action.settings.llm_options import ENDPOINT

if TYPE_CHECKING:
    from trt_action.console import Console
    from trt_action.draft import Keeper
    from trt_action.evidence import Comparison, Evidence
    from trt_action.pipeline import Part
    from trt_action.settings import Settings

DESCRIPTION = "From an ONNX model to a verdict: build, measure head and base in one run, check accuracy, judge, report."
EXIT_CODES = """exit codes:
  0 passed   1 a gate failed   2 bad settings, model or data   3 inconclusive (with --on-inconclusive fail)
  others: see docs/exit-codes.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never raises, never shows a traceback."""
    interruption.on_signals(_words)
    try:
        arguments = parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except errors.TrtActionError as error:
        return _tell(error)
    except KeyboardInterrupt as stop:
        return _tell(errors.interrupted(stop))
    except BrokenPipeError:
        sys.stdout = None  # the reader of our stdout went away: not our failure
        return 141
    except Exception as error:  # noqa: BLE001 - the outermost boundary: a person gets a message, the log gets the rest
        return _tell(_bug(error))
    finally:
        if process := sys.modules.get("trt_action.process"):  # not imported: no child was started
            process.end_all()


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="trt-action", description=DESCRIPTION, epilog=EXIT_CODES)
    top.add_argument("--version", action="version", version=f"trt-action {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="the whole pipeline: verdict, comment, evidence, report")
    _model_arguments(run, ("model",))
    run.add_argument("--keep", metavar="DIR", help="also keep the measured engine with its record, for `publish`")
    run.set_defaults(command=_run, parts=("compare", "bench", "accuracy"))

    build = commands.add_parser("build", help="prepare and build one engine into the output folder")
    _model_arguments(build, ("model",))
    build.set_defaults(command=_build, parts=())

    bench = commands.add_parser("bench", help="latency, throughput, memory and cold start of one model")
    _model_arguments(bench, ("model",))
    bench.set_defaults(command=_run, parts=("bench",))

    accuracy = commands.add_parser("accuracy", help="parity with the FP32 reference, and the task metric")
    _model_arguments(accuracy, ("model",))
    accuracy.set_defaults(command=_run, parts=("accuracy",))

    compare = commands.add_parser(
        "compare", help="is HEAD slower than BASE? Two models, or two folders made by `build`; or --from evidence.json"
    )
    compare.add_argument("--from", dest="recorded", metavar="EVIDENCE", help="recompute the verdict of a recorded run")
    _model_arguments(compare, ("model", "base"))
    compare.set_defaults(command=_compare, parts=("compare",))

    render = commands.add_parser("render", help="comment, summary or report from evidence files")
    render.add_argument("evidence", nargs="+", metavar="EVIDENCE")
    render.add_argument("--format", choices=("comment", "summary", "html", "junit", "metrics"), default="comment")
    render.add_argument("--template", metavar="PATH", help="your own comment template")
    render.add_argument("--output", metavar="FILE", help="write here instead of to stdout")
    render.set_defaults(command=_render)

    schema = commands.add_parser("schema", help="JSON Schema of the config file or of the evidence")
    schema.add_argument("which", choices=("config", "evidence"))
    schema.set_defaults(command=_schema)

    for module in (
        doctor,
        serve,
        publish,
        inspect,
        verify,
        promote,
        select,
        prune,
        deploy,
        rollback,
        bump,
        gitlab,
        record,
        history,
    ):
        module.add(commands)
    return top


def _model_arguments(command: argparse.ArgumentParser, positional: tuple[str, ...]) -> None:
    for name in positional:
        option = options.BY_NAME[name]
        command.add_argument(name, nargs="?", metavar=name.upper(), help=option.help)
    command.add_argument("--config", metavar="FILE", help="config file; default: .trt-action.yml/.yaml/.toml here")
    command.add_argument("--json", action="store_true", help="print the evidence as JSON instead of the comment")
    groups = {title: command.add_argument_group(title) for title in options.GROUPS}
    for option in options.OPTIONS:
        if option.name not in positional:
            text = option.help.replace("%", "%%")
            if option.choices:
                text += f" One of: {', '.join(option.choices)}."
            if option.default not in (None, []):
                text += f" Default: {_plain(option.default)}".replace("%", "%%")
            groups[option.group].add_argument(f"--{option.name}", dest=option.name, metavar=option.metavar, help=text)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _settings(arguments: argparse.Namespace) -> list[Settings]:
    from trt_action import settings

    given = {name: value for name, value in vars(arguments).items() if name in options.BY_NAME and value is not None}
    config = Path(arguments.config) if arguments.config else None
    return settings.load(given, os.environ, Path.cwd(), config)


def _run(arguments: argparse.Namespace) -> int:
    from trt_action import bookkeeping, files, judge, report

    chosen = _settings(arguments)
    folder, template = chosen[0].output, chosen[0].template
    files.check_folder(folder)
    if template:
        report.check_template(template)
    console = _console(folder)
    evidences = []
    for one in chosen:
        where = folder if len(chosen) == 1 else folder / report.slug(one.display_name)
        evidences.append(_one(arguments, one, console, where, _keeper(arguments, one, chosen)))
        if _stopped(evidences[-1]):
            break
    written = report.write(evidences, folder, template=template)
    if len(chosen) == 1:
        written = {"evidence": folder / "evidence.json", **written}
    _print_result(arguments, evidences, template)
    for evidence in evidences:
        console.show(report.terminal(evidence, written if evidence is evidences[-1] else None))
    recording = bookkeeping.keep(evidences, chosen, os.environ, log=console.note, tell=_unrecorded(console))
    code = max(
        (judge.exit_code(e, s.on_inconclusive) for e, s in zip(evidences, chosen, strict=False)),
        key=lambda code: (code not in (0, 3), code == 3, code),
    )
    return code or recording


def _unrecorded(console: Console) -> Callable[[errors.TrtActionError, bool], None]:
    """How a person hears that MLflow has not taken a run."""

    def tell(error: errors.TrtActionError, required: bool) -> None:
        if required:
            _tell(error)
        else:
            console.warn(f"Not recorded in MLflow: {error.what} {error.fix}".strip())

    return tell


def _keeper(arguments: argparse.Namespace, one: Settings, chosen: Sequence[Settings]) -> Keeper | None:
    """Keeps the engine of a run in `--keep`, each of several models in a folder of its own."""
    if not getattr(arguments, "keep", None):
        return None
    from trt_action import draft, report

    if one.backend == ENDPOINT:
        raise errors.SettingsError(
            f"`--keep` keeps an engine, and `backend: {ENDPOINT}` has none: the model is served already.",
            fix="Leave `--keep` out.",
        )
    folder = Path(arguments.keep)
    return draft.Keeper(folder if len(chosen) == 1 else folder / report.slug(one.display_name))


def _one(
    arguments: argparse.Namespace,
    one: Settings,
    console: Console,
    folder: Path,
    keep: Keeper | None = None,
) -> Evidence:
    from trt_action import pipeline, report

    console.note(f"trt-action {__version__} · {one.display_name}")
    console.settings(one.effective(), one.sources)
    parts: frozenset[Part] = frozenset(arguments.parts)
    evidence = pipeline.run(one, console=console, cwd=Path.cwd(), parts=parts, keep=keep)
    if keep is not None:
        keep.finish(evidence)
    for warning in evidence.warnings:
        console.warn(warning)
    report.write_evidence(evidence, folder)
    if evidence.error:
        _tell(errors.restore(evidence.error.model_dump(include={"type", "what", "why", "fix"})))
    return evidence


def _stopped(evidence: Evidence) -> bool:
    return evidence.error is not None and evidence.error.exit_code == errors.InterruptedRunError.exit_code


def _print_result(arguments: argparse.Namespace, evidences: list[Evidence], template: Path | None) -> None:
    from trt_action import report

    if arguments.json:
        records = [evidence.model_dump(mode="json") for evidence in evidences]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=2))
    else:
        print(report.comment(evidences, template=template))


def _build(arguments: argparse.Namespace) -> int:
    from trt_action import draft, files, report

    chosen = _settings(arguments)
    files.check_folder(chosen[0].output)
    console = _console(chosen[0].output)
    code = 0
    for one in chosen:
        folder = one.output if len(chosen) == 1 else one.output / report.slug(one.display_name)

        evidence = _one(arguments, one, console, folder, draft.Keeper(folder))
        if arguments.json:
            print(evidence.model_dump_json(indent=2))
        elif evidence.error is None:
            console.show(report.searched(evidence))
            print(folder)
        code = code or (evidence.error.exit_code if evidence.error else 0)
        if _stopped(evidence):
            break
    return code


def _compare(arguments: argparse.Namespace) -> int:
    from trt_action import evidence as schema
    from trt_action import judge, measure, report

    if arguments.recorded:
        _refuse_settings(arguments)
        old = report.read_evidence(Path(arguments.recorded))
        if old.comparison is None:
            raise errors.EvidenceError(
                f"`{arguments.recorded}` holds no comparison.", fix="Record one with `trt-action run`."
            )
        again = measure.recompute(old.comparison)
        _refuse_another_verdict(arguments.recorded, old.comparison, again)
        new = old.model_copy(update={"comparison": again})
        _print_result(arguments, [schema.Evidence.model_validate(new)], None)
        return judge.exit_code(new, str(old.settings.get("on-inconclusive", "pass")))
    unnamed = [one for one in _settings(arguments) if not one.has_base_endpoint]
    if not arguments.base and unnamed and all(one.sources.get("base", "default") == "default" for one in unnamed):
        raise errors.SettingsError(
            "`trt-action compare` needs HEAD and BASE, or --from EVIDENCE.",
            fix="Write `trt-action compare new.onnx old.onnx`, or name `base` in the config file.",
        )
    return _run(arguments)


def _refuse_another_verdict(path: str, recorded: Comparison, again: Comparison) -> None:
    """Gates and outcome of the record were decided by its verdict; beside another one they would be shown as if they held."""
    then, now = ((one.verdict, one.limit_status) for one in (recorded, again))
    if then != now:
        raise errors.EvidenceError(
            f"The verdict recorded in `{path}` is `{then[0]}` (limit: {then[1]}), and its series say `{now[0]}` (limit: {now[1]}).",
            why=f"The file was changed, or a version with another rule made it. {again.reason}",
            fix="Compare again with `trt-action compare HEAD BASE`.",
        )


def _refuse_settings(arguments: argparse.Namespace) -> None:
    """`--from` takes everything from the evidence; what would be ignored is refused."""
    given = [name for name, value in vars(arguments).items() if name in options.BY_NAME and value is not None]
    if given:
        raise errors.SettingsError(
            f"`{given[0]}` has no effect beside `--from`: the verdict is recomputed as it was asked for then.",
            fix="Leave it out, or compare again with `trt-action compare HEAD BASE`.",
        )


def _render(arguments: argparse.Namespace) -> int:
    from trt_action import files, report

    evidences = [report.read_evidence(Path(path)) for path in arguments.evidence]
    template = Path(arguments.template) if arguments.template else None
    if arguments.format == "comment":
        text = report.comment(evidences, template=template)
    else:
        writers = {"summary": report.summary, "html": report.html, "junit": report.junit, "metrics": report.metrics}
        text = writers[arguments.format](evidences)
    if arguments.output:
        files.write_atomic(Path(arguments.output), text)
    else:
        print(text)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    if arguments.which == "config":
        from trt_action import settings

        document = settings.config_schema()
    else:
        from trt_action.evidence import Evidence

        document = Evidence.model_json_schema()
    print(json.dumps(document, indent=2))
    return 0


def _console(folder: Path) -> Console:
    """The console, with the stage times of the last run in this folder as expectation."""
    from trt_action import console, report

    expected: dict[str, float] = {}
    if (folder / "evidence.json").is_file():
        try:
            expected = {stage.name: stage.seconds for stage in report.read_evidence(folder / "evidence.json").stages}
        except errors.TrtActionError:
            expected = {}  # an old or foreign file: no expectation
    return console.console(sys.stderr, expected)


def _tell(error: errors.TrtActionError) -> int:
    from trt_action.console import clean

    print(f"\n{error.title} (exit code {error.exit_code})", file=sys.stderr)
    for label, text in (("What", error.what), ("Why", error.why), ("Next", error.fix)):
        if text:
            print(f"  {label}: {clean(text)}", file=sys.stderr)
    return error.exit_code


def _bug(error: Exception) -> errors.TrtActionError:
    log = errors.write_log("".join(traceback.format_exception(error)))
    return errors.InternalError(f"{type(error).__name__}: {str(error)[:500]}", why=f"The details are in {log}.")


def _words(number: int) -> str:
    how = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return f"The run was stopped ({how})."


if __name__ == "__main__":
    sys.exit(main())
