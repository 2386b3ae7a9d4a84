"""The scan gate: known vulnerabilities above a severity keep an image from being published.

It never fails open: no scanner, a scanner that fails, an answer that cannot be read, and an exception that has expired all
count against the image. Answers: trivy's JSON (`SchemaVersion` 2, https://trivy.dev) and grype's (https://github.com/anchore/grype).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from trt_action.console import clean
from trt_action.errors import BackendUnavailableError, NotPublishedError, ScanError, SettingsError
from trt_action.inputs import open_regular, quote
from trt_action.publish import tools

Severity = Literal["unknown", "negligible", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
TOLERATED = ("none", "negligible", "low", "medium", "high")
"""Values of `max-severity`: the highest severity that is let through; `none` lets nothing through."""

Log = Callable[[str], None]
Scanner = Literal["trivy", "grype"]
SECONDS = 1_200
MAX_ANSWER_BYTES = 256_000_000
MAX_IGNORE_BYTES = 1_000_000
SHOWN = 20
CACHE_VOLUME = "trt-action-scanner"
"""Keeps the scanner's database between runs where it runs from an image."""

_KEYS = {"id", "expires", "reason", "package"}


@dataclass(frozen=True)
class Finding:
    """One known vulnerability in one package. `fixed` is empty where there is no fix."""

    id: str
    package: str
    version: str
    severity: Severity
    fixed: str = ""

    def words(self) -> str:
        """For a person."""
        fix = f"fixed in {self.fixed}" if self.fixed else "no fix yet"
        return f"{self.id} ({self.severity}): {self.package} {self.version}, {fix}"


@dataclass(frozen=True)
class Ignored:
    """One exception. It holds to the end of the day `expires`, for one package or for all."""

    id: str
    expires: date
    reason: str
    package: str = ""

    def covers(self, finding: Finding) -> bool:
        return self.id == finding.id and self.package in ("", finding.package)


@dataclass(frozen=True)
class Asked:
    """The gate as a person asks for it. `scanner_image`: what to run where neither trivy nor grype is on PATH, or
    instead of them."""

    max_severity: str
    ignore: Sequence[Ignored] = ()
    scanner_image: str = ""


@dataclass(frozen=True)
class Target:
    """What is scanned: an image of the Docker engine on this host (`docker`), or one in a registry."""

    kind: Literal["docker", "registry"]
    name: str


@dataclass(frozen=True)
class Report:
    """What a scan found. `over` breaks the gate; `excused` would, if it were not ignored; `notes` are for people."""

    scanner: str
    findings: tuple[Finding, ...] = field(repr=False)
    over: tuple[Finding, ...]
    excused: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[Severity, int]:
        """Findings by severity, the worst first."""
        every = {one: sum(each.severity == one for each in self.findings) for one in reversed(SEVERITIES)}
        return {severity: count for severity, count in every.items() if count}

    def words(self) -> str:
        """One line for a person."""
        found = ", ".join(f"{count} {severity}" for severity, count in self.counts().items()) or "nothing known"
        excused = f"; {len(self.excused)} ignored for now" if self.excused else ""
        return f"{self.scanner}: {found}{excused}"


def gate(target: Target, asked: Asked, *, today: date, env: Mapping[str, str] | None = None, log: Log) -> Report:
    """Scan, and refuse what is over the limit.

    Args:
        today: in UTC: exceptions expire by it.
        env: the login for the scanner, under the scanner's own names (`TRIVY_USERNAME`, …); never in a process list.

    Raises:
        NotPublishedError: something known is worse than `max-severity`.
        ScanError: there is no scanner, it failed, or its answer cannot be read.
        SettingsError: `max-severity` is none of its values.
    """
    report = scan(target, asked, today=today, env=env)
    log(f"Scan of {target.name}: {report.words()}.")
    for note in report.notes:
        log(note)
    if report.over:
        more = f", and {len(report.over) - SHOWN} more" if len(report.over) > SHOWN else ""
        raise NotPublishedError(
            f"Nothing is published: {len(report.over)} known vulnerabilities are above `max-severity: {asked.max_severity}`.",
            why=clean("; ".join(one.words() for one in report.over[:SHOWN]) + more),
            fix="Build on a newer base image, or write an exception with an expiry date into the ignore file.",
        )
    return report


def scan(target: Target, asked: Asked, *, today: date, env: Mapping[str, str] | None = None) -> Report:
    """Scan, and judge without refusing.

    Raises:
        ScanError, SettingsError: as `gate`.
    """
    if asked.max_severity not in TOLERATED:
        raise SettingsError(f"`max-severity` is {quote(asked.max_severity)}.", fix=f"Allowed: {', '.join(TOLERATED)}.")
    scanner, raw = _answer(target, asked, env or {})
    findings = sorted(
        set(parse(raw, scanner)), key=lambda one: (-SEVERITIES.index(one.severity), one.id, one.package, one.version)
    )
    limit = SEVERITIES.index(asked.max_severity) if asked.max_severity in SEVERITIES else -1
    forbidden = [one for one in findings if SEVERITIES.index(one.severity) > limit]
    valid = [one for one in asked.ignore if one.expires >= today]
    excused = [one for one in forbidden if any(each.covers(one) for each in valid)]
    over = [one for one in forbidden if one not in excused]
    return Report(
        scanner, tuple(findings), tuple(over), tuple(excused), tuple(_notes(asked.ignore, over, findings, today))
    )


def _notes(ignore: Sequence[Ignored], over: Sequence[Finding], findings: Sequence[Finding], today: date) -> list[str]:
    notes = []
    for one in ignore:
        matched = any(one.covers(each) for each in findings)
        if one.expires < today and any(one.covers(each) for each in over):
            notes.append(f"The exception for {one.id} expired on {one.expires}: it is not ignored any more.")
        elif not matched:
            notes.append(f"The exception for {one.id} fits nothing that was found; it can go.")
    return notes


def read_ignore(path: Path) -> tuple[Ignored, ...]:
    """The exceptions in a YAML file: a list of `id`, `expires` (YYYY-MM-DD), `reason`, and `package` if for one only.

    Raises:
        SettingsError: it is not that; every exception needs a date and a reason.
        StorageError: it cannot be read.
    """
    with open_regular(path, noun="ignore file", wrong=SettingsError) as file:
        text = file.read(MAX_IGNORE_BYTES + 1)
    try:
        data = yaml.safe_load(text) if len(text) <= MAX_IGNORE_BYTES else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"The ignore file {quote(path)} is no YAML: {clean(str(error))[:300]}.") from None
    if data is None and len(text) <= MAX_IGNORE_BYTES:
        return ()
    if not isinstance(data, list):
        raise _bad_ignore(path, "it is no list")
    return tuple(_ignored(path, number, one) for number, one in enumerate(data, start=1))


def _ignored(path: Path, number: int, data: object) -> Ignored:
    if not isinstance(data, Mapping):
        raise _bad_ignore(path, f"its entry {number} is no mapping")
    unknown = [str(key) for key in data if key not in _KEYS]
    if unknown:
        raise _bad_ignore(path, f"its entry {number} has the unknown key {quote(unknown[0])}")
    for key in ("id", "reason", "package"):
        if not isinstance(data.get(key, ""), str) or (key != "package" and not data.get(key)):
            raise _bad_ignore(path, f"its entry {number} has no `{key}`")
    expires = data.get("expires")
    if not isinstance(expires, date) or hasattr(expires, "hour"):
        raise _bad_ignore(path, f"its entry {number} ({quote(data['id'])}) has no date in `expires`")
    return Ignored(data["id"], expires, data["reason"], data.get("package", ""))


def parse(raw: bytes, scanner: Scanner) -> list[Finding]:
    """The findings in a scanner's answer.

    Raises:
        ScanError: it is not the answer of this scanner: never an empty list instead.
    """
    try:
        data: Any = json.loads(raw) if len(raw) <= MAX_ANSWER_BYTES else None
        return _of_trivy(data) if scanner == "trivy" else _of_grype(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ScanError(
            f"The answer of {scanner} cannot be read.",
            why=clean(raw[:300].decode("utf-8", "replace")) or "It is empty.",
            fix="Use a version of the scanner with the documented JSON output (trivy 0.50 or later, grype 0.70 or later).",
        ) from None


def _of_trivy(data: Any) -> list[Finding]:
    if data["SchemaVersion"] != 2 or "ArtifactName" not in data:
        raise ValueError
    found = []
    for result in data.get("Results") or []:
        for one in result.get("Vulnerabilities") or []:
            severity = _severity(one["Severity"])
            fixed = str(one.get("FixedVersion") or "")
            found.append(
                Finding(str(one["VulnerabilityID"]), str(one["PkgName"]), str(one["InstalledVersion"]), severity, fixed)
            )
    return found


def _of_grype(data: Any) -> list[Finding]:
    if data["descriptor"]["name"] != "grype":
        raise ValueError
    found = []
    for one in data["matches"]:
        known, package = one["vulnerability"], one["artifact"]
        fixed = ", ".join(str(version) for version in (known.get("fix") or {}).get("versions") or [])
        severity = _severity(known["severity"])
        found.append(Finding(str(known["id"]), str(package["name"]), str(package["version"]), severity, fixed))
    return found


def _severity(text: str) -> Severity:
    """A word that is not known is no reason to let something through: it is an error."""
    return SEVERITIES[SEVERITIES.index(text.lower())]


def _answer(target: Target, asked: Asked, env: Mapping[str, str]) -> tuple[Scanner, bytes]:
    if asked.scanner_image:
        scanner: Scanner = "grype" if "grype" in asked.scanner_image else "trivy"
        return scanner, _in_container(target, scanner, asked.scanner_image, env)
    for found in get_args(Scanner):
        if (path := shutil.which(found)) is not None:
            return found, _on_path(target, found, path, env)
    raise ScanError(
        "`max-severity` was asked, and there is no scanner.",
        why="Neither `trivy` nor `grype` is on PATH, and `scanner-image` is not set. Without a scan nothing is published.",
    )


def arguments(target: Target, scanner: Scanner) -> list[str]:
    """The scanner's command line, behind its name."""
    if scanner == "grype":
        return [f"{target.kind}:{target.name}", "--output", "json", "--quiet"]
    source = "docker" if target.kind == "docker" else "remote"
    return ["image", "--quiet", "--format", "json", "--scanners", "vuln", "--image-src", source, "--", target.name]


def _on_path(target: Target, scanner: Scanner, path: str, env: Mapping[str, str]) -> bytes:
    try:
        done = subprocess.run(
            [path, *arguments(target, scanner)],
            env=tools.environment(scanner, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(scanner, clean(str(error))[:300]) from None
    if done.returncode != 0:  # it is asked for no verdict: any other code is a failure of its own
        raise _failed(scanner, done.stderr.decode("utf-8", "replace"), done.returncode)
    return done.stdout


def _in_container(target: Target, scanner: Scanner, image: str, env: Mapping[str, str]) -> bytes:
    """Run the scanner's image; it gets the engine's socket only where it has to read an image of the engine."""
    import docker
    import requests

    from trt_action.publish.docker import connect

    volumes = [f"{CACHE_VOLUME}:/cache"]
    if target.kind == "docker":
        volumes.append("/var/run/docker.sock:/var/run/docker.sock")
    caches = {"TRIVY_CACHE_DIR": "/cache", "GRYPE_DB_CACHE_DIR": "/cache"}
    try:
        with connect() as api:
            if not api.images(image, quiet=True):
                api.pull(image)
            container = api.create_container(
                image,
                command=arguments(target, scanner),
                environment={**caches, **env},
                labels={"trt-action": "scanner"},
                host_config=api.create_host_config(
                    binds=volumes, network_mode="host", cap_drop=["ALL"], security_opt=["no-new-privileges"]
                ),
            )["Id"]
            try:
                api.start(container)
                code = api.wait(container, timeout=SECONDS)["StatusCode"]
                said = b"".join(api.logs(container, stdout=False, stderr=True, stream=True, tail=20))
                raw = _bounded(api.logs(container, stdout=True, stderr=False, stream=True))
            finally:
                api.remove_container(container, force=True, v=False)
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _failed(image, clean(str(error))[:300]) from None
    except BackendUnavailableError as error:
        raise _failed(image, error.what) from None
    if code != 0:
        raise _failed(image, said.decode("utf-8", "replace"), code)
    return raw


def _bounded(pieces: Any) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            break
    return bytes(content)


def _failed(scanner: str, said: str, code: int | None = None) -> ScanError:
    how = f" (exit code {code})" if code is not None else ""
    return ScanError(
        f"The scanner {quote(scanner)} failed{how}.",
        why=clean(said)[-500:],
        fix="Run it by hand on the image; a scanner that cannot fetch its database needs the network.",
    )


def _bad_ignore(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"The ignore file {quote(path)} cannot be read: {why}.",
        fix="Write a list of `{id: CVE-…, expires: YYYY-MM-DD, reason: …}`; `package:` limits one to a package.",
    )
