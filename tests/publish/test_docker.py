"""What the Docker engine says of a build, as people read it."""

from __future__ import annotations

from trt_action.publish.docker import _said


def test_colours_are_no_part_of_what_the_engine_says() -> None:
    event = {"stream": "\x1b[91mE: List directory is missing.\n\x1b[0m\nRemoving intermediate container\n"}
    assert _said(event) == ["E: List directory is missing.", "Removing intermediate container"]
    assert _said({"aux": {"ID": "sha256:0"}}) == []
