"""What MLflow takes: the address of a server, names of registered models, aliases."""

from __future__ import annotations

import re

from trt_action.settings.values import BadValueError, http_parts, text


def tracking_uri(value: object) -> str:
    """Without a slash at its end. A login has no place in it: it is shown in reports.

    Raises:
        BadValueError: no http(s) address, or one with a login, a query or a fragment.
    """
    written = text(value)
    allowed = "the address of an MLflow server"
    parts = http_parts(written)
    if parts is None:
        raise BadValueError("is no address of http or https", allowed=allowed, example="https://mlflow.example.com")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadValueError(
            "holds a login, a query or a fragment",
            allowed=f"{allowed}; a login belongs into the environment (MLFLOW_TRACKING_TOKEN)",
            example="https://mlflow.example.com",
        )
    return written.rstrip("/")


def registered_name(value: object) -> str:
    """A registered model's name. https://mlflow.org/docs/latest/ml/model-registry/

    Raises:
        BadValueError: it has a sign that MLflow refuses, or more than 256 characters.
    """
    written = text(value)
    if re.search(r"[/:]", written) or len(written) > 256:
        raise BadValueError(
            "is no name of a registered model", allowed="up to 256 characters without `/` and `:`", example="detector"
        )
    return written


def alias(value: object) -> str:
    """An alias of a model version.

    Raises:
        BadValueError: it has other signs, or is one that MLflow keeps for itself (`latest`, `v1`).
    """
    written = text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", written) or re.fullmatch(r"latest|v\d+", written, re.IGNORECASE):
        raise BadValueError(
            "is no alias", allowed="letters, digits, `_` and `-`, but not `latest` or `v1`", example="champion"
        )
    return written
