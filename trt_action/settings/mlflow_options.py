"""Rows of the table about MLflow (docs/mlflow.md)."""

from __future__ import annotations

from trt_action.settings.option import Option

MLFLOW_GROUP = "MLflow"

MLFLOW_OPTIONS: tuple[Option, ...] = (
    Option(
        "mlflow-tracking-uri",
        MLFLOW_GROUP,
        None,
        "URL",
        "MLflow server that records the run; login: MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, in the environment.",
    ),
    Option("mlflow-experiment", MLFLOW_GROUP, "trt-action", "NAME", "Experiment; it is made where it does not exist."),
    Option(
        "mlflow-model",
        MLFLOW_GROUP,
        None,
        "NAME",
        "Registered model that gets a version when the run passed; in the action only of what is published.",
    ),
    Option("mlflow-alias", MLFLOW_GROUP, None, "NAME", "Alias that moves to that version, e.g. `champion`."),
    Option(
        "mlflow-required",
        MLFLOW_GROUP,
        False,
        "true|false",
        "A run that passed and could not be recorded is an error (exit code 20), not only a warning.",
    ),
)
