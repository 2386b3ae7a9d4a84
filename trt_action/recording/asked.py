"""Where a run is recorded, and as whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.settings import Settings


@dataclass(frozen=True)
class Login:
    """`username` and `password` (Basic), or a token alone (Bearer). Neither: the server asks for none."""

    username: str = ""
    secret: SecretStr | None = None


@dataclass(frozen=True)
class Target:
    """What is asked. `model`: the registered model that gets a version, `alias` what moves to it."""

    uri: str
    experiment: str = "trt-action"
    model: str | None = None
    alias: str | None = None
    required: bool = False
    login: Login = Login()


def asked(settings: Settings, env: Mapping[str, str]) -> Target | None:
    """What these settings ask for, with the login from the environment; None: nothing is recorded.

    Raises:
        SettingsError: the login is incomplete.
    """
    if settings.mlflow_tracking_uri is None:
        return None
    return Target(
        uri=settings.mlflow_tracking_uri,
        experiment=settings.mlflow_experiment,
        model=settings.mlflow_model,
        alias=settings.mlflow_alias,
        required=settings.mlflow_required,
        login=login(env),
    )


def login(env: Mapping[str, str]) -> Login:
    """MLflow's own variables. As in its client, a user with a password comes before a token.

    Raises:
        SettingsError: a user without a password or the reverse, or signs that no header can carry.
    """
    username, password = env.get("MLFLOW_TRACKING_USERNAME", ""), env.get("MLFLOW_TRACKING_PASSWORD", "")
    token = env.get("MLFLOW_TRACKING_TOKEN", "").strip()
    for name, value in (("USERNAME", username), ("PASSWORD", password), ("TOKEN", token)):
        if not value.isprintable() or (name == "TOKEN" and not value.isascii()):
            raise SettingsError(f"MLFLOW_TRACKING_{name} holds signs that no login can have.", fix="Check the secret.")
    if bool(username) != bool(password):
        there, lacking = ("USERNAME", "PASSWORD") if username else ("PASSWORD", "USERNAME")
        raise SettingsError(
            f"MLFLOW_TRACKING_{there} is set, and MLFLOW_TRACKING_{lacking} is not.",
            fix="Set both, or MLFLOW_TRACKING_TOKEN alone, or none of them.",
        )
    if username:
        return Login(username, SecretStr(password))
    return Login("", SecretStr(token)) if token else Login()
