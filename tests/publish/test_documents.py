"""What docs/supply-chain.md tells people to write and to type works as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from trt_action import cli
from trt_action.publish import scan
from trt_action.publish.signing import KeySigner, PublicKey

DOCUMENT = (Path(__file__).parents[2] / "docs" / "supply-chain.md").read_text()


def test_the_key_made_as_documented_signs(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(openssl.*?)```", DOCUMENT, re.DOTALL)
    assert block
    script = block[1].replace("-topk8", "-topk8 -passout pass:secret").replace("-pubout", "-pubout -passin pass:secret")
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    signer = KeySigner.from_pem(SecretStr((tmp_path / "signing.pem").read_text()), SecretStr("secret"))
    assert PublicKey.from_pem((tmp_path / "cosign.pub").read_bytes()).hint == signer.public.hint


def test_the_ignore_file_is_read_as_documented(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert block
    (tmp_path / "ignore.yml").write_text(block[1])
    (one,) = scan.read_ignore(tmp_path / "ignore.yml")
    assert (one.id, one.package) == ("CVE-2025-0001", "libssl3")


@pytest.mark.parametrize(
    "line",
    sorted(
        set(
            re.findall(
                r"^(?:.*\| *)?trt-action ((?:inspect|verify|prune|promote|select|index) [^|`#]*)",
                DOCUMENT,
                re.MULTILINE,
            )
        )
    ),
)
def test_commands_are_written_as_they_are_taken(line: str) -> None:
    words = [word.strip("'") for word in line.partition("  ")[0].split()]
    cli.parser().parse_args(words)
