"""One way to fail.

Every failure that a user can meet is a `TrtActionError` subclass with its own exit code. The doors
(`cli.py`, `entrypoint.py`) turn it into a message, an annotation, a section of the comment and the exit code;
nothing below the doors calls `sys.exit`.

Exit codes 0, 1 and 3 are outcomes of a run that worked (passed, failed, inconclusive); the others are here.
"""

from __future__ import annotations

import sys
import tempfile
from typing import ClassVar

from trt_action import __version__

EXIT_PASSED = 0
EXIT_GATE_FAILED = 1
EXIT_INCONCLUSIVE = 3


class TrtActionError(Exception):
    """Base of every failure that is told to a person.

    Args:
        what: what happened, in one sentence, with the name and the value that caused it.
        why: what that means or where it usually comes from (one or two sentences; may be empty).
        fix: the next step for the reader, as an instruction.
    """

    exit_code: ClassVar[int] = 70
    title: ClassVar[str] = "Internal error"
    default_fix: ClassVar[str] = ""

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix or self.default_fix

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self).__name__, self.what, self.why, self.fix)


class SettingsError(TrtActionError):
    """A setting is unknown, malformed, out of range or contradicts another."""

    exit_code = 2
    title = "Bad settings"
    default_fix = "Run `trt-action run --help` for the names, or `trt-action schema config` for your editor."


class UncalibratedError(SettingsError):
    """int8, fp8 or int4 was asked for without `calibration-data`, and the model has no Q/DQ nodes of its own."""


class ModelError(TrtActionError):
    """The ONNX model cannot be used: unreadable, invalid, incomplete, unsafe, or its shapes are open."""

    exit_code = 2
    title = "Bad model"
    default_fix = "Check the file with `python -c \"import onnx; onnx.checker.check_model('model.onnx')\"`."


class DataError(TrtActionError):
    """Calibration or validation data do not fit the model (names, shapes, dtypes, lengths) or are unreadable."""

    exit_code = 2
    title = "Bad data"


class EvidenceError(TrtActionError):
    """An evidence file is not valid against the schema, too large, or of an unknown version."""

    exit_code = 2
    title = "Bad evidence"
    default_fix = "Make a new one with `trt-action run`; `trt-action schema evidence` prints the schema."


class PrecisionError(TrtActionError):
    """The asked precision could not be made, or was made and is not there (counted, not assumed)."""

    exit_code = 4
    title = "Precision not achieved"


class BuildError(TrtActionError):
    """The backend refused to build or to load the engine."""

    exit_code = 5
    title = "Engine build failed"


class MeasureError(TrtActionError):
    """A measuring worker crashed, hung, or its clock or outputs cannot be trusted."""

    exit_code = 6
    title = "Measurement failed"


class MetricError(TrtActionError):
    """The user's own metric or data function failed, ran too long, or returned something unusable."""

    exit_code = 7
    title = "User function failed"


class StorageError(TrtActionError):
    """A file cannot be read or written: permissions, read-only file system, disk full."""

    exit_code = 8
    title = "Cannot read or write a file"


class OutOfMemoryError(TrtActionError):
    """A child process ran out of host or device memory."""

    exit_code = 9
    title = "Out of memory"
    default_fix = "Give the runner more memory, use a smaller batch or shape profile, or fewer calibration samples."
    killed = False
    """True where the process was killed and could not say so itself."""


class BackendUnavailableError(TrtActionError):
    """The backend's libraries or its hardware are not on this host, or not the ones asked for."""

    exit_code = 10
    title = "Backend not available"


class GitError(TrtActionError):
    """The base cannot be read from Git: no repository, unknown revision, missing history, LFS object missing."""

    exit_code = 11
    title = "Base not readable from Git"


class GitHubError(TrtActionError):
    """GitHub's API refused a request, or could not be reached within the time limit.

    Args:
        status: the HTTP status; 0 if there was no answer.
    """

    exit_code = 12
    title = "GitHub API"
    default_fix = "See https://www.githubstatus.com and the `permissions:` of the workflow, then run the job again."

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


class RegistryError(TrtActionError):
    """An image registry refused a request, could not be reached, or gave what does not match its digest.

    Args:
        status: the HTTP status; 0 if there was no answer.
        code: the registry's own word for it, such as `DENIED`; may be empty.
    """

    exit_code = 13
    title = "Image registry"
    default_fix = "Check the image's name, the registry's state and the login, then run it again: what is there stays."

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0, code: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status
        self.code = code


class VerificationError(TrtActionError):
    """An image, its signature or its evidence is not what it claims to be, or nothing vouches for it."""

    exit_code = 14
    title = "Not verified"
    default_fix = "Do not use the image; publish it again with `trt-action publish` if it is your own."


class ScanError(TrtActionError):
    """A scan was asked for and could not be made: no scanner, it failed, or its answer is not readable."""

    exit_code = 15
    title = "Scan failed"
    default_fix = "Install trivy or grype, or name an image of one with `scanner-image`."


class NotPublishedError(TrtActionError):
    """The engine may not be published: its run is red or measured nothing, the image is too large, or a scan found
    what `max-severity` forbids."""

    exit_code = 16
    title = "Not published"
    default_fix = "See the comment or the report of the run; publish again once every rule holds."


class DeployError(TrtActionError):
    """A cluster refused a request, or what was rolled out did not come up or hold and was put back.

    Args:
        status: the HTTP status of the cluster's refusal; 0 if it did not answer, or if nothing was refused.
    """

    exit_code = 17
    title = "Not deployed"
    default_fix = "Look at the workload with `kubectl describe` and at its events; then deploy again."

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


class GitLabError(TrtActionError):
    """GitLab's API refused a request, or could not be reached within the time limit.

    Args:
        status: the HTTP status; 0 if there was no answer.
    """

    exit_code = 18
    title = "GitLab API"
    default_fix = "Check the state of the GitLab instance and the role of the token's user, then run the job again."

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


class EndpointError(MeasureError):
    """A served language model could not be asked: no connection, a key refused, answers that are cut or malformed."""

    exit_code = 19
    title = "Endpoint"
    default_fix = "Ask it once with `curl` from this host, and look at the server's log."


class TrackingError(TrtActionError):
    """A run could not be recorded in MLflow, and `mlflow-required` asks for it.

    Args:
        status: the HTTP status; 0 if there was no answer.
    """

    exit_code = 20
    title = "MLflow"
    default_fix = "Check the tracking server and the login, then `trt-action record` the evidence of this run."

    def __init__(self, what: str, *, why: str = "", fix: str = "", status: int = 0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.status = status


class InterruptedRunError(TrtActionError):
    """The run was stopped by a signal (Ctrl-C or a cancelled job)."""

    exit_code = 130
    title = "Stopped"
    default_fix = "Start it again; engines that were finished are in the cache."


def interrupted(stop: KeyboardInterrupt) -> InterruptedRunError:
    """The error for a stop that a door raised on a signal: a `KeyboardInterrupt`, so that no room that goes on after a
    failure of its own takes it for one."""
    error = InterruptedRunError(str(stop) or "The run was stopped (Ctrl-C).")
    for note in getattr(stop, "__notes__", []):
        error.add_note(note)
    return error


class InternalError(TrtActionError):
    """Something this program did not foresee. Always a bug of ours."""

    default_fix = "Please report it with the log file that this message names."


def write_log(details: str) -> str:
    """Keep the details of a bug in a file of its own, for the report to us. Returns its path."""
    with tempfile.NamedTemporaryFile("w", prefix="trt-action-", suffix=".log", delete=False) as log:
        log.write(f"trt-action {__version__}, Python {sys.version}\n{details}\n")
    return log.name


def all_errors() -> dict[str, type[TrtActionError]]:
    """Every error class by name, for the table in the documentation and for crossing a process boundary."""
    found: dict[str, type[TrtActionError]] = {}
    queue: list[type[TrtActionError]] = [TrtActionError]
    while queue:
        cls = queue.pop()
        if not cls.__name__.startswith("_"):  # those never leave their module
            found[cls.__name__] = cls
        queue.extend(cls.__subclasses__())
    return found


def _restore(name: str, what: str, why: str, fix: str) -> TrtActionError:
    return all_errors().get(name, InternalError)(what, why=why, fix=fix)


def restore(record: dict[str, str]) -> TrtActionError:
    """The error that a child process sent as `{"type", "what", "why", "fix"}`."""
    return _restore(record.get("type", ""), record.get("what", ""), record.get("why", ""), record.get("fix", ""))


def record(error: TrtActionError) -> dict[str, str]:
    """The inverse of `restore`: plain strings, safe as JSON."""
    return {"type": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
