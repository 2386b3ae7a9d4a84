"""What a person asks of publishing: texts in, checked values out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from trt_action.errors import SettingsError
from trt_action.publish import wanted
from trt_action.publish.wanted import Wanted


def read(**given: str) -> Wanted:
    texts = {name.replace("_", "-"): value for name, value in given.items()}
    return wanted.read(lambda name: texts.get(name, ""))


def test_nothing_asked_is_the_default() -> None:
    assert read() == Wanted()


def test_everything_asked() -> None:
    found = read(
        variant="triton",
        base_image="nvcr.io/nvidia/tritonserver:26.08-py3",
        dockerfile="docker/Dockerfile.j2",
        publish_mode="registry",
        tags="type=sha\ntype=raw,value=x\n",
        labels="com.example.team=vision\ncom.example.url=https://x/?a=b\n",
        max_image_size="500MB",
        max_severity="medium",
        scanner_image="aquasec/trivy:0.60.0",
        scan_ignore="ignore.yml",
        registry_username="u",
        registry_password="canary",  # noqa: S106
        sign_key="canary-key",
    )
    assert (found.variant, found.mode, found.max_size) == ("triton", "registry", 500_000_000)
    assert (str(found.base), found.dockerfile) == (
        "nvcr.io/nvidia/tritonserver:26.08-py3",
        Path("docker/Dockerfile.j2"),
    )
    assert [rule.kind for rule in found.rules] == ["sha", "raw"]
    assert found.labels == {"com.example.team": "vision", "com.example.url": "https://x/?a=b"}
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variant": "tensort"}, "Did you mean `tensorrt`?"),
        ({"publish_mode": "dokcer"}, "Did you mean `docker`?"),
        ({"base_image": "Upper/Case"}, "upper-case"),
        ({"max_image_size": "lots"}, "max-image-size"),
        ({"labels": "no equals sign"}, "is no label"),
        ({"labels": "a b=c"}, "is no label"),
        ({"labels": "k=v\x07"}, "is no label"),
        ({"tags": "type=what"}, "there is no type"),
        ({"sign": "key"}, "`sign-key` is empty"),
        ({"max_severity": "critical"}, "none of its values"),
    ],
)
def test_what_cannot_be_asked_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(**given)
    assert said in f"{refused.value.what} {refused.value.why} {refused.value.fix}"


def test_the_scan_gate(tmp_path: Path) -> None:
    assert wanted.scan_of(read(), tmp_path) is None
    (tmp_path / "ignore.yml").write_text("- {id: CVE-2026-1, expires: 2030-01-01, reason: not reachable}\n")
    asked = wanted.scan_of(read(max_severity="low", scan_ignore="ignore.yml"), tmp_path)
    assert asked
    assert (asked.max_severity, asked.ignore[0].id) == ("low", "CVE-2026-1")
    with pytest.raises(SettingsError, match="no effect without `max-severity`"):
        wanted.scan_of(read(scan_ignore="ignore.yml"), tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"sign": "keyless"}, "id-token: write"), ({"sign_key": "canary-no-key"}, "signing key")],
)
def test_a_signer_that_cannot_be(given: dict[str, str], said: str) -> None:
    with requests.Session() as session, pytest.raises(SettingsError) as refused:
        wanted.signer(read(**given), session, {})
    told: Any = f"{refused.value.what} {refused.value.why} {refused.value.fix}"
    assert said in told
    assert "canary" not in told


def test_nobody_signs_unless_asked() -> None:
    with requests.Session() as session:
        assert wanted.signer(read(), session, {}) is None
        assert wanted.signer(read(sign="false", sign_key="canary"), session, {}) is None
