"""What a person asks of deploying, as texts, becomes typed and checked: the same for every door."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr

from trt_action.deploy import access, prometheus
from trt_action.deploy.checks import Checks, Health, Rules
from trt_action.deploy.prometheus import Prometheus
from trt_action.deploy.rollout import Limits
from trt_action.errors import SettingsError
from trt_action.inputs import quote
from trt_action.settings import units
from trt_action.settings.deploy_options import PREFIX
from trt_action.settings.options import ACTION_BY_NAME
from trt_action.settings.values import BadValueError

SECRETS = ("deploy-kubeconfig", "deploy-token", "deploy-prometheus-token", "deploy-github-token")
_DISPATCH = re.compile(r"(?P<repository>[\w.-]{1,100}/[\w.-]{1,100}):(?P<type>[\w.-]{1,100})")
MAX_COMMAND = 20_000


@dataclass(frozen=True)
class Bump:
    """The GitOps file. `paths`, `digests`, `kustomize`: see `bump.Wish`."""

    file: Path
    paths: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    kustomize: tuple[str, ...] = ()
    branch: str | None = None
    pull_request: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is asked. Secrets show in no repr. `dispatch`: (repository, type of the event)."""

    on: str = "publish"
    workload: str | None = None
    namespace: str | None = None
    container: str | None = None
    limits: Limits = field(default_factory=Limits)
    dry_run: bool = False
    connection: access.Asked = field(default_factory=access.Asked)
    health: Health | None = None
    rules: Rules | None = None
    prometheus_url: str | None = None
    prometheus_token: SecretStr | None = None
    command: str | None = None
    dispatch: tuple[str, str] | None = None
    bump: Bump | None = None
    github_token: SecretStr | None = None

    @property
    def anything(self) -> bool:
        """Whether somebody says where to deploy."""
        return bool(self.workload or self.command or self.dispatch or self.bump)

    def checks(self, session: requests.Session) -> Checks | None:
        """What must hold after a rollout; None: nothing was asked.

        Raises:
            SettingsError: Prometheus' address or token cannot be used.
        """
        if self.health is None and self.rules is None:
            return None
        server = Prometheus(session, self.prometheus_url, self.prometheus_token) if self.prometheus_url else None
        return Checks(self.health, self.rules, server, session)


@dataclass(frozen=True)
class _Given:
    """The text of an option by its name without `deploy-`, empty if it was not given.

    Args:
        spelled: the name as people write it at the door that they came through.
    """

    text: Callable[[str], str]
    spelled: Callable[[str], str]

    def __call__(self, name: str) -> str:
        return self.text(PREFIX + name).strip()


def read(text: Callable[[str], str], spelled: Callable[[str], str] = lambda name: PREFIX + name) -> Wanted:
    """What is asked; `text` gives an option's text by name (`deploy-…`), empty if it was not given.

    Args:
        spelled: how people write an option, by its name without `deploy-`; default: as an input of the action.

    Raises:
        SettingsError: a value that the option cannot take, or options that do not go together.
    """
    given = _Given(text, spelled)
    rules, url = _rules(given), given("prometheus-url")
    if bool(rules) != bool(url):
        limits = ["max-p99", "max-error-rate"]
        there = ["prometheus-url"] if url else [name for name in limits if given(name)]
        missing = limits if url else ["prometheus-url"]
        raise SettingsError(
            f"`{spelled(there[0])}` has no effect without {' or '.join(f'`{spelled(name)}`' for name in missing)}.",
            fix="Say both: who knows the numbers, and what they may be.",
        )
    token = _secret(given, "token")
    kubeconfig = _secret(given, "kubeconfig")
    wanted = Wanted(
        on=_choice("on", given),
        workload=given("workload") or None,
        namespace=given("namespace") or None,
        container=given("container") or None,
        limits=Limits(timeout=_quantity("timeout", given, units.duration)),
        dry_run=_boolean("dry-run", given),
        connection=access.Asked(
            content=kubeconfig,
            context=given("context") or None,
            server=given("server") or None,
            token=token,
            ca=text(f"{PREFIX}ca").encode(),
            insecure=_boolean("insecure", given),
        ),
        health=Health.parse(given("health")) if given("health") else None,
        rules=rules,
        prometheus_url=url or None,
        prometheus_token=_secret(given, "prometheus-token"),
        command=given("command") or None,
        dispatch=_dispatch(given("dispatch")),
        bump=_bump(given),
        github_token=_secret(given, "github-token"),
    )
    if not wanted.workload and (wanted.health or wanted.rules):
        raise SettingsError(
            f"`{spelled('health' if wanted.health else 'prometheus-url')}` has no effect without `{spelled('workload')}`.",
            fix="Name the workload, e.g. `deployment/detector`.",
        )
    return wanted


def _rules(given: _Given) -> Rules | None:
    if not given("max-p99") and not given("max-error-rate"):
        return None
    return Rules(
        seconds=_quantity("watch", given, units.duration),
        max_p99=_quantity("max-p99", given, units.duration) if given("max-p99") else None,
        max_error_rate=_quantity("max-error-rate", given, units.percent) if given("max-error-rate") else None,
        p99=given("p99-query") or prometheus.P99,
        error_rate=given("error-rate-query") or prometheus.ERROR_RATE,
        selector=given("prometheus-selector") or prometheus.SELECTOR,
    )


def _bump(given: _Given) -> Bump | None:
    paths, digests, entries = (
        tuple(_lines(given(name))) for name in ("bump-path", "bump-digest-path", "bump-kustomize")
    )
    if not given("bump-file"):
        if paths or digests or entries:
            there = "bump-path" if paths else "bump-digest-path" if digests else "bump-kustomize"
            raise SettingsError(
                f"`{given.spelled(there)}` has no effect without `{given.spelled('bump-file')}`.", fix="Name the file."
            )
        return None
    if not (paths or digests or entries):
        raise SettingsError(
            "`deploy-bump-file` does not say where in the file the image stands.",
            fix="Add `deploy-bump-path`, `deploy-bump-digest-path` or `deploy-bump-kustomize`.",
        )
    return Bump(
        Path(given("bump-file")),
        paths=paths,
        digests=digests,
        kustomize=entries,
        branch=given("bump-branch") or None,
        pull_request=_boolean("bump-pull-request", given),
    )


def _dispatch(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    found = _DISPATCH.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"`deploy-dispatch` is {quote(text)}, which is no repository with a type of event.",
            fix="Write it as `acme/gitops:image-published`.",
        )
    return found["repository"], found["type"]


def _secret(given: _Given, name: str) -> SecretStr | None:
    """A token is refused here if no header takes it: the library that refuses it later would quote it."""
    if name == "kubeconfig":
        return SecretStr(given.text(PREFIX + name)) if given(name) else None
    value = given(name)
    if not all("!" <= character <= "~" for character in value):
        raise SettingsError(
            f"`{given.spelled(name)}` holds a character that no token has: a space, a line break, or one outside of ASCII.",
            fix="Set it to the token alone, without quotation marks and line ends.",
        )
    return SecretStr(value) if value else None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _choice(name: str, given: _Given) -> str:
    row = ACTION_BY_NAME[PREFIX + name]
    value = given(name) or str(row.default)
    if value not in row.choices:
        allowed = ", ".join(f"`{one}`" for one in row.choices)
        raise SettingsError(
            f"`{given.spelled(name)}` is {quote(value)}, which is none of its values.", fix=f"Allowed: {allowed}."
        )
    return value


def _boolean(name: str, given: _Given) -> bool:
    value = given(name)
    if value not in ("", "true", "false"):
        raise SettingsError(f"`{given.spelled(name)}` is {quote(value)}.", fix="Write exactly `true` or `false`.")
    return value == "true"


def _quantity(name: str, given: _Given, parse: Callable[[Any], float]) -> float:
    row = ACTION_BY_NAME[PREFIX + name]
    value = given(name) or str(row.default)
    try:
        return parse(value)
    except BadValueError as error:
        raise SettingsError(
            f"`{given.spelled(name)}` is {quote(value)}, which {error.reason}.",
            why=f"Allowed: {error.allowed}.",
            fix=f"Write for example `{error.example}`.",
        ) from None


def who(env: Mapping[str, str]) -> str:
    """Who deploys, in words: a run with its actor, or a person on a machine."""
    server, repository, run = (env.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    if server and repository and run:
        return f"{env.get('GITHUB_ACTOR', 'unknown')}, {server}/{repository}/actions/runs/{run}"
    if env.get("CI_JOB_URL"):
        return f"{env.get('GITLAB_USER_LOGIN', 'unknown')}, {env['CI_JOB_URL']}"
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user id without a name
        return socket.gethostname()
