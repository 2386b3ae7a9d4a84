"""What GitHub's runner does around a Docker action, after its `ContainerActionHandler` and `DockerCommandManager`.

`docker run` with the same mounts, `-e NAME` by name, translated paths, file commands and event file; and what the runner
makes of the step's log: masks, annotations, `stop-commands`. One thing differs: the container shares this host's network,
where the runner takes the default bridge, so that it reaches the GitHub double on loopback whatever the host's firewall.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SOCKET = "/var/run/docker.sock"
FILE_COMMANDS = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STATE", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
_COMMAND = re.compile(r"^::(?P<name>[a-zA-Z0-9_-]+)(?: (?P<properties>.*?))?::(?P<message>.*)$")


@dataclass(frozen=True)
class Annotation:
    level: str
    message: str
    properties: dict[str, str]


@dataclass
class Step:
    """A step that has ended. `log` is what a reader sees: commands taken out, masks applied; `raw` is what was printed."""

    exit_code: int
    raw: str
    first_line_seconds: float | None
    outputs: dict[str, str]
    summary: str
    log: str = ""
    annotations: list[Annotation] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        reader = _LogReader()
        self.log = "\n".join(line for line in map(reader.line, self.raw.splitlines()) if line is not None)
        self.annotations, self.masks = reader.annotations, reader.masks


class Running:
    """A step that runs."""

    def __init__(self, process: subprocess.Popen[str], name: str, files: Mapping[str, Path], started: float) -> None:
        self._process, self.name, self._files, self._started = process, name, files, started
        self._lines: list[str] = []
        self._first: float | None = None
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._seen:
                if self._first is None:
                    self._first = time.monotonic() - self._started
                self._lines.append(line)
                self._seen.notify_all()

    def wait_for(self, text: str, timeout: float) -> None:
        """Until a line with this text was printed."""
        with self._seen:
            assert self._seen.wait_for(lambda: any(text in line for line in self._lines), timeout), "".join(self._lines)

    def cancel(self) -> None:
        """What the runner sends first when a job is cancelled; the Docker client passes it on."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """The runner's second signal."""
        self._process.send_signal(signal.SIGTERM)

    def result(self, timeout: float = 300) -> Step:
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            subprocess.run(["docker", "rm", "--force", self.name], capture_output=True, check=False)
            raise
        self._reader.join(timeout)
        if self._process.stdout:
            self._process.stdout.close()
        outputs = read_file_command(self._files["GITHUB_OUTPUT"].read_text())
        return Step(code, "".join(self._lines), self._first, outputs, self._files["GITHUB_STEP_SUMMARY"].read_text())


class Runner:
    """A self-hosted runner's folders, and steps run in them.

    Args:
        root: gets `_work`, as below a runner's installation.
        image: what the action's Dockerfile was built to.
        action: action.yml, for inputs and their defaults.
    """

    def __init__(self, root: Path, image: str, action: Path, repository: str = "acme/models") -> None:
        self.image, self.repository = image, repository
        self.inputs = {
            name: row.get("default", "") for name, row in yaml.safe_load(action.read_text())["inputs"].items()
        }
        self.work = root / "_work"
        self.temp = self.work / "_temp"
        self.workspace = self.work / repository.rpartition("/")[2] / repository.rpartition("/")[2]
        self.home = self.temp / "_github_home"
        self.workflow = self.temp / "_github_workflow"
        self.file_commands = self.temp / "_runner_file_commands"
        for folder in (self.workspace, self.home, self.workflow, self.file_commands):
            folder.mkdir(parents=True, exist_ok=True)
        self._mounts = {
            SOCKET: SOCKET,
            str(self.home): "/github/home",
            str(self.workflow): "/github/workflow",
            str(self.file_commands): "/github/file_commands",
            str(self.workspace): "/github/workspace",
            str(self.temp): "/github/runner_temp",
        }

    def step(self, **arguments: Any) -> Step:
        """Run a step to its end; arguments as for `start`."""
        return self.start(**arguments).result()

    def start(
        self,
        *,
        with_: Mapping[str, str],
        event: str,
        payload: Mapping[str, Any],
        sha: str,
        ref: str = "refs/pull/7/merge",
        token: str = "",
        api_url: str = "https://api.github.com",
        env: Mapping[str, str] | None = None,
        socket: bool = True,
    ) -> Running:
        """Start `docker run` as the runner does. `with_` are the inputs of the workflow."""
        files = self._files(payload)
        values = self._environment(event, sha, ref, api_url, files) | self._given(with_, token) | dict(env or {})
        values = {name: self._translate(value) for name, value in values.items()}
        name = f"trtaction_{secrets.token_hex(6)}"
        command = ["docker", "run", "--name", name, "--label", "e2e", "--workdir", "/github/workspace", "--rm"]
        command += ["--network", "host"]
        for variable in values:
            command += ["-e", variable]
        for host, inside in self._mounts.items():
            if socket or host != SOCKET:
                command += ["-v", f"{host}:{inside}"]
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, self.image],
            env={"PATH": os.environ["PATH"], **values},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        return Running(process, name, files, started)

    def _files(self, payload: Mapping[str, Any]) -> dict[str, Path]:
        identifier = secrets.token_hex(16)
        files = {
            name: self.file_commands / f"{name.lower().removeprefix('github_')}_{identifier}" for name in FILE_COMMANDS
        }
        for path in files.values():
            path.touch()
        (self.workflow / "event.json").write_text(json.dumps(payload))
        return files

    def _environment(self, event: str, sha: str, ref: str, api_url: str, files: Mapping[str, Path]) -> dict[str, str]:
        return {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION": "__acme_trt-action",
            "GITHUB_ACTOR": "octocat",
            "GITHUB_API_URL": api_url,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(self.workflow / "event.json"),
            "GITHUB_SHA": sha,
            "GITHUB_REF": ref,
            "GITHUB_RUN_ID": "4711",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_WORKFLOW": "models",
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(self.temp),
            "RUNNER_WORKSPACE": str(self.workspace.parent),
            "HOME": "/github/home",
            **{name: str(path) for name, path in files.items()},
        }

    def _given(self, with_: Mapping[str, str], token: str) -> dict[str, str]:
        values = self.inputs | dict(with_)
        values = {name: value.replace("${{ github.token }}", token) for name, value in values.items()}
        return {f"INPUT_{name.replace(' ', '_').upper()}": value for name, value in values.items()}

    def _translate(self, value: str) -> str:
        """Host paths as the container sees them; the deepest mount first, as the runner lists them."""
        for host, inside in self._mounts.items():
            if value == host or value.startswith(host + "/"):
                return inside + value[len(host) :]
        return value


class _LogReader:
    """The runner's reading of a log."""

    def __init__(self) -> None:
        self.annotations: list[Annotation] = []
        self.masks: list[str] = []
        self._stopped_by: str | None = None

    def line(self, text: str) -> str | None:
        """What is shown of a line; None for a command."""
        found = _COMMAND.match(text.strip())
        if found:
            if self._stopped_by is not None:
                if found["name"] == self._stopped_by:
                    self._stopped_by = None  # and the line is shown, as its beginning was
            elif self._obey(found):
                return None
        for mask in self.masks:
            text = text.replace(mask, "***")
        return text

    def _obey(self, found: re.Match[str]) -> bool:
        name, message = found["name"], _unescape(found["message"])
        pairs = (pair.partition("=") for pair in (found["properties"] or "").split(",") if pair)
        properties = {key.strip(): _unescape(value, property_=True) for key, _, value in pairs}
        if name == "stop-commands":
            self._stopped_by = message
            return False
        if name == "add-mask":
            self.masks.append(message)
        elif name in ("error", "warning", "notice"):
            self.annotations.append(Annotation(name, message, properties))
        else:
            return name in ("group", "endgroup", "debug")
        return True


def _unescape(text: str, *, property_: bool = False) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), *((("%3A", ":"), ("%2C", ",")) if property_ else ())):
        text = text.replace(code, character)
    return text.replace("%25", "%")


def read_file_command(text: str) -> dict[str, str]:
    """`name=value` lines and heredocs of GITHUB_OUTPUT and its like."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if heredoc >= 0 and (equals < 0 or heredoc < equals):
            name, end = line[:heredoc], line[heredoc + 2 :]
            value = []
            for inner in lines:
                if inner == end:
                    break
                value.append(inner)
            else:
                raise AssertionError(f"the heredoc of {name} does not end")
            found[name] = "\n".join(value)
        else:
            assert equals > 0, f"neither `=` nor `<<` in {line!r}"
            found[line[:equals]] = line[equals + 1 :]
    return found
