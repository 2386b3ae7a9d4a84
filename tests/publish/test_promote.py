"""A release finds the image that was measured for its commit; the same digest gets tags that never go back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from trt_action import cli
from trt_action.errors import GitError, VerificationError
from trt_action.publish import promote, select
from trt_action.publish.promote import Candidate, Promoted
from trt_action.publish.registry import Registry
from trt_action.publish.signing import KeySigner
from trt_action.publish.tags import Version

C1, C2 = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def plain(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


def version(text: str) -> Version:
    found = Version.parse(text)
    assert found
    return found


def promoted(registry: Registry, repository: str, text: str, commit: str = C1, **more: object) -> Promoted:
    candidates = [Candidate(commit, "test")]
    return promote.promote(registry, repository, version(text), candidates, **{"key": None, **more})  # type: ignore[arg-type]


def where(registry: Registry, repository: str, *tags: str) -> list[str | None]:
    return [registry.digest(repository, tag) for tag in tags]


def test_the_same_digest_gets_the_releases_tags(plain: Registry, repository: str, signer: KeySigner) -> None:
    image = images.push(plain, repository, C1, f"digits-cpu-int8-{C1}", "main", commit=C1)
    images.push(plain, repository, C2, commit=C2)
    images.attached(plain, image, signer)
    done = promoted(plain, repository, "v1.2.3", key=signer.public)
    names = ["1.2.3", "1.2", "1", "latest"]
    assert [move.tag for move in done.moves] == [*names, *(f"digits-cpu-int8-{name}" for name in names)]
    assert set(where(plain, repository, *(move.tag for move in done.moves))) == {image.digest}
    again = promoted(plain, repository, "v1.2.3", key=signer.public)
    assert not any(move.changes for move in again.moves)


def test_moving_tags_never_go_back(plain: Registry, repository: str) -> None:
    new, old = images.push(plain, repository, C1, commit=C1), images.push(plain, repository, C2, commit=C2)
    for image in (new, old):
        images.attached(plain, image, None)
    promoted(plain, repository, "1.3.0", C1)
    promoted(plain, repository, "1.2.3", C2)
    assert where(plain, repository, "1.2.3", "1.2", "1", "latest") == [old.digest, old.digest, new.digest, new.digest]
    promoted(plain, repository, "2.0.0-rc.1", C2)
    assert where(plain, repository, "2.0.0-rc.1", "latest") == [old.digest, new.digest]
    assert "2" not in plain.tags(repository)


def test_a_released_version_never_changes(plain: Registry, repository: str) -> None:
    for commit in (C1, C2):
        images.attached(plain, images.push(plain, repository, commit, commit=commit), None)
    promoted(plain, repository, "1.0.0", C1)
    before = where(plain, repository, "1.0.0", "latest")
    with pytest.raises(VerificationError, match="is another image"):
        promoted(plain, repository, "1.0.0", C2)
    assert where(plain, repository, "1.0.0", "latest") == before


def test_what_must_not_be_released(plain: Registry, repository: str, signer: KeySigner) -> None:
    images.push(plain, repository, C2, commit=C2)
    with pytest.raises(VerificationError, match="No image was measured"):
        promoted(plain, repository, "1.0.0", C1)
    images.push(plain, repository, C1, commit=C2)  # somebody tagged another commit's image
    with pytest.raises(VerificationError, match="No image was measured"):
        promoted(plain, repository, "1.0.0", C1)
    image = images.push(plain, repository, C1, commit=C1)
    with pytest.raises(VerificationError, match="no evidence"):
        promoted(plain, repository, "1.0.0", C1)
    images.attached(plain, image, None)
    with pytest.raises(VerificationError, match="not signed"):
        promoted(plain, repository, "1.0.0", C1, key=signer.public)
    images.attached(plain, image, KeySigner(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(VerificationError, match="none is by this key"):
        promoted(plain, repository, "1.0.0", C1, key=signer.public)
    assert "1.0.0" not in plain.tags(repository)
    assert promoted(plain, repository, "1.0.0", C1, dry_run=True).notes
    assert "1.0.0" not in plain.tags(repository)


def test_the_evidence_decides_of_which_commit_an_image_is(plain: Registry, repository: str) -> None:
    image, other = images.push(plain, repository, C1, commit=C1), images.push(plain, repository, commit=C2)
    images.attached(plain, image, None, evidence=other.evidence)
    with pytest.raises(VerificationError, match="was measured for"):
        promoted(plain, repository, "1.0.0", C1)


@pytest.mark.parametrize(
    ("change", "words"), [({"outcome": "failed"}, "failed its gates"), ({"dirty": True}, "uncommitted")]
)
def test_a_red_or_unclean_run_is_not_released(
    plain: Registry, repository: str, change: dict[str, object], words: str
) -> None:
    image = images.push(plain, repository, C1, commit=C1)
    record = json.loads(image.evidence)
    (record["source"] if "dirty" in change else record).update(change)
    images.attached(plain, image, None, evidence=json.dumps(record).encode())
    with pytest.raises(VerificationError, match=words):
        promoted(plain, repository, "1.0.0", C1)


def test_every_gpus_image_and_their_index_are_released(plain: Registry, repository: str, signer: KeySigner) -> None:
    legs = {
        gpu: images.push(plain, repository, f"digits-{gpu}-int8-{C1}", commit=C1, gpu=facts)
        for gpu, facts in (("h100", images.H100), ("a100", images.A100))
    }
    for image in legs.values():
        images.attached(plain, image, signer)
    index = select.publish_index(plain, repository, C1)
    promoted(plain, repository, "1.2.3", key=signer.public)
    assert where(plain, repository, "1.2.3", "latest") == [index, index]
    for gpu, image in legs.items():
        assert where(plain, repository, f"digits-{gpu}-int8-1.2.3") == [image.digest]


# The commit


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "file").write_text(text)
    git(folder, "add", "file")
    git(folder, "commit", "-qm", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, str, str, str]:
    """(work tree, commit on the branch, its merge into main which changed nothing, a later change)."""
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    git(folder, "checkout", "-qb", "topic")
    topic = commit(folder, "topic")
    git(folder, "checkout", "-q", "main")
    git(folder, "merge", "-q", "--no-ff", "-m", "merge", "topic")
    merge = git(folder, "rev-parse", "HEAD")
    git(folder, "tag", "v1.0.0")
    later = commit(folder, "later")
    git(folder, "tag", "v2.0.0")
    return folder, topic, merge, later


def test_a_merge_that_changed_nothing_was_measured_before(merged: tuple[Path, str, str, str]) -> None:
    folder, topic, merge, later = merged
    assert [one.commit for one in promote.candidates(folder, "v1.0.0")] == [merge, topic]
    assert [one.commit for one in promote.candidates(folder, "v2.0.0")] == [later]
    with pytest.raises(GitError, match="The release's commit") as unknown:
        promote.candidates(folder, "v3.0.0")
    assert "--commit" in unknown.value.fix


def test_a_shallow_checkout_finds_it_too(merged: tuple[Path, str, str, str], tmp_path: Path) -> None:
    folder, topic, merge, _ = merged
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(tmp_path, "clone", "-q", "--depth=1", "--branch=v1.0.0", folder.as_uri(), "shallow")
    assert [one.commit for one in promote.candidates(tmp_path / "shallow", "v1.0.0")] == [merge, topic]


def test_the_command_releases_the_merge_parents_image(
    plain: Registry, repository: str, merged: tuple[Path, str, str, str], signer: KeySigner, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, topic, _, _ = merged
    image = images.push(plain, repository, topic, commit=topic)
    images.attached(plain, image, signer)
    (tmp_path / "cosign.pub").write_text(signer.public.pem())
    monkeypatch.chdir(folder)
    words = ["promote", f"{plain.host}/{repository}", "v1.0.0", "--key", str(tmp_path / "cosign.pub")]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "would move" in capsys.readouterr().out
    assert "1.0.0" not in plain.tags(repository)
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["tag"] for one in told["tags"]] == ["1.0.0", "1.0", "1", "latest"]
    assert where(plain, repository, "1.0.0", "latest") == [image.digest] * 2
    for wrong in (
        ["promote", f"{plain.host}/{repository}", "main"],
        ["promote", f"{plain.host}/{repository}:x", "v1.0.0"],
    ):
        assert cli.main(wrong) == 2
    assert cli.main(["promote", f"{plain.host}/{repository}", "v2.0.0"]) == VerificationError.exit_code
    assert "No image was measured" in capsys.readouterr().err
