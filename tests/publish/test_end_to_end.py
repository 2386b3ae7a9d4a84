"""An image's whole life by the commands alone, in a real registry, seen by the tools of others: docker, skopeo, garbage-collect."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.doubles.registry import PROGRAM, Running
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from trt_action import cli
from trt_action.errors import VerificationError
from trt_action.publish.signing import KeySigner

COMMIT, OLDER = "5" * 40, "6" * 40
LEGS = {"cpu": None, "a100": images.A100, "h100": images.H100}


def tool(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.docker
def test_from_push_to_prune(
    cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry = make(cncf.host)
    signer = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "cosign.pub").write_text(signer.public.pem())
    name, key = f"{registry.host}/{repository}", ("--key", str(tmp_path / "cosign.pub"))
    monkeypatch.chdir(tmp_path)  # no Git here: commits are named

    def run(*words: str, code: int = 0) -> Any:
        assert cli.main(words) == code, capsys.readouterr()
        out = capsys.readouterr().out
        return json.loads(out) if out.startswith(("[", "{")) else out

    def legs(commit: str) -> dict[str, images.Published]:
        made = {
            gpu: images.push(registry, repository, f"digits-{gpu}-int8-{commit}", gpu=facts, commit=commit, created="2024-05-06T07:08:09+00:00")
            for gpu, facts in LEGS.items()
        }  # fmt: skip
        for one in made.values():
            images.attached(registry, one, signer)
        run("index", f"{name}:{commit}")
        return made

    old, new = legs(OLDER), legs(COMMIT)
    assert all(one["verified"] for one in run("verify", f"{name}:{COMMIT}", *key, "--json"))
    assert [one["evidence"]["source"]["commit"] for one in run("inspect", f"{name}:{COMMIT}", "--json")["images"]] == [
        COMMIT
    ] * 3
    run("promote", name, "v1.0.0", "--commit", COMMIT, *key)
    chosen = run("select", f"{name}:1.0.0", "--compute-capability", "8.0").strip()
    assert chosen == f"{name}@{new['a100'].digest}"
    running = old["h100"].digest
    run("prune", name, "--older-than", "30d", "--deployed", running, "--delete")
    tool(PROGRAM, "garbage-collect", str(cncf.data.parent / "config.yml"))
    try:
        for one in (f"{name}:1.0.0", f"{name}:latest", chosen, f"{name}@{running}", f"{name}:digits-h100-int8-1.0.0"):
            tool("docker", "pull", "--quiet", one)
        said = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{chosen}"))["Labels"]
        assert said == dict(new["a100"].labels)
        assert said == json.loads(tool("docker", "image", "inspect", chosen, "--format", "{{json .Config.Labels}}"))
    finally:
        for one in (f"{name}:1.0.0", f"{name}:latest", chosen, f"{name}@{running}", f"{name}:digits-h100-int8-1.0.0"):
            tool("docker", "image", "rm", one, check=False)
    for one in (f"{name}:1.0.0", f"{name}@{running}"):
        assert all(each["verified"] for each in run("verify", one, *key, "--json"))
    # The older index keeps its deployed image, and with it the others that it lists.
    assert {tag for tag in registry.tags(repository) if OLDER in tag} == {
        OLDER,
        *(f"digits-{gpu}-int8-{OLDER}" for gpu in LEGS),
    }
    run("prune", name, "--older-than", "30d", "--delete")
    assert not any(OLDER in tag for tag in registry.tags(repository))
    run("verify", f"{name}@{running}", *key, code=VerificationError.exit_code)
    assert all(each["verified"] for each in run("verify", f"{name}:1.0.0", *key, "--json"))
