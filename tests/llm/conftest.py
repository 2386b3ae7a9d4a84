"""Servers to ask: one that can be told to fail, and a real one with a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles import llama, openai_server
from tests.doubles.openai_server import OpenAI


@pytest.fixture
def openai() -> Iterator[OpenAI]:
    """Changed by the test as it likes, also while it runs."""
    with openai_server.serve(OpenAI()) as state:
        yield state


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama.make(tmp_path_factory.mktemp("llama") / "tiny.gguf", layers=8, width=64)


@pytest.fixture(scope="session")
def llama_url(tiny_model: Path) -> Iterator[str]:
    """llama.cpp's server."""
    with llama.serve(tiny_model) as url:
        yield url
