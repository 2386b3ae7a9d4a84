"""The action's own inputs: what is refused says the input, the value, and what is allowed."""

from __future__ import annotations

import pytest

from trt_action.errors import SettingsError
from trt_action.github.inputs import ActionInputs, read, variable
from trt_action.settings.options import ACTION_BY_NAME, ACTION_OPTIONS, BY_NAME

TOKEN = "ghs_canary"  # noqa: S105 - made up


def test_nothing_given_is_the_default_and_equals_empty() -> None:
    empty = {variable(row.name): "" for row in ACTION_OPTIONS}
    assert read({}) == read(empty) == ActionInputs()


def test_every_input_is_read() -> None:
    found = read(
        {
            "INPUT_GITHUB-TOKEN": f" {TOKEN}\n",
            "INPUT_ACTIVITY": "report",
            "INPUT_COMMENT": "changes-only",
            "INPUT_COMMENT-ID": "a100",
            "INPUT_REPORT-ONLY": "true",
            "INPUT_ALLOW-UNTRUSTED-FORK": "false",
            "INPUT_CHECK-RUN": "status",
            "INPUT_SUMMARY": "false",
            "INPUT_EVIDENCE": "a/evidence.json\n\n  b/**/evidence.json \n",
            "INPUT_GPU": "NVIDIA A100-SXM4",
            "INPUT_GPUS": "0,GPU-5a1c",
            "INPUT_GPU-LOCK-TIMEOUT": "90s",
            "INPUT_REGISTRY": "ghcr.io:443",
            "INPUT_IMAGE": "acme/digits",
            "INPUT_PUSH": "true",
            "INPUT_MODEL": "model.onnx",
            "INPUT_CONFIG": "x.yml",
            "GITHUB_TOKEN": "not read",
        }
    )
    assert found.token is not None
    assert found.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(found)
    assert (found.evidence, found.gpus) == (("a/evidence.json", "b/**/evidence.json"), "0,GPU-5a1c")
    assert (found.gpu_lock_timeout, found.report_only, found.summary) == (90.0, True, False)
    assert (found.registry, found.image, found.push, found.comment) == (
        "ghcr.io:443",
        "acme/digits",
        "true",
        "changes-only",
    )


@pytest.mark.parametrize(
    ("name", "value", "what", "next_step"),
    [
        ("REPORT-ONLY", "True", "`report-only: True` is not a boolean", "`report-only: true`"),
        ("SUMMARY", "yes", "`summary: yes` is not a boolean", "`summary`"),
        ("COMMENT", "always", "`comment: always`", "`comment`"),
        ("ACTIVITY", "mesure", "`activity: mesure`", "`activity: measure`"),
        ("CHECK-RUN", "true", "`check-run: true`", ""),
        ("COMMENT-ID", "a -->", "`comment-id: a -->`", "`comment-id`"),
        ("GPU-LOCK-TIMEOUT", "5", "`gpu-lock-timeout: 5` has no unit", "5s"),
        ("GPUS", "0;rm", "`gpus: 0;rm`", ""),
        ("IMAGE", "Acme/Digits:v1", "`image: Acme/Digits:v1`", ""),
        ("REGISTRY", "https://ghcr.io", "`registry: https://ghcr.io`", ""),
        ("EVIDENCE", "x" * 1_001, "`evidence: xxx", ""),
        ("GITHUB-TOKEN", "two words", "`github-token: ***`", ""),
        ("MAX_SECONDS", "3s", "Unknown input `max_seconds`", "Did you mean `max-seconds`?"),
        ("GITHUB_TOKEN", "secret", "Unknown input `github_token`", "Did you mean `github-token`?"),
        ("PRECISON", "", "Unknown input `precison`", "Did you mean `precision`?"),
    ],
)
def test_what_is_refused(name: str, value: str, what: str, next_step: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({f"INPUT_{name}": value})
    assert what in caught.value.what
    assert next_step in caught.value.fix
    assert caught.value.why
    assert "two words" not in str(vars(caught.value)) or name != "GITHUB-TOKEN"


def test_the_tables_do_not_overlap() -> None:
    assert not set(ACTION_BY_NAME) & set(BY_NAME)
    assert not {"args", "entrypoint"} & (set(ACTION_BY_NAME) | set(BY_NAME))
    assert all(row.help.endswith(".") for row in ACTION_OPTIONS)
    assert all(str(row.default).lower() in row.choices for row in ACTION_OPTIONS if row.choices)
