"""One way to fail: every class has its own words, and the documentation lists them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from trt_action import errors

ALL = sorted(errors.all_errors().items())


@pytest.mark.parametrize(("name", "cls"), ALL)
def test_an_error_survives_a_process_boundary(name: str, cls: type[errors.TrtActionError]) -> None:
    error = cls("what happened", why="the reason", fix="do this")
    for copy in (errors.restore(errors.record(error)), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        assert (type(copy), copy.what, copy.why, copy.fix) == (cls, "what happened", "the reason", "do this")


@pytest.mark.parametrize(("name", "cls"), ALL)
def test_an_error_has_title_code_and_documentation(name: str, cls: type[errors.TrtActionError]) -> None:
    assert cls.title
    assert cls.exit_code not in (errors.EXIT_PASSED, errors.EXIT_GATE_FAILED, errors.EXIT_INCONCLUSIVE)
    assert cls.__doc__
    document = Path(__file__).parents[1] / "docs" / "exit-codes.md"
    assert f"| {cls.exit_code} | `{name}` |" in document.read_text() or cls is errors.TrtActionError


def test_an_unknown_type_from_a_child_is_internal() -> None:
    assert type(errors.restore({"type": "SystemExit", "what": "x"})) is errors.InternalError
