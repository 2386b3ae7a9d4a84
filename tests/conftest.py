"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits() -> Path:
    """The folder of the trained example: base.onnx, model.onnx, calibration.npz, validation.npz, .trt-action.yml."""
    return Path(__file__).resolve().parents[1] / "examples" / "digits"
