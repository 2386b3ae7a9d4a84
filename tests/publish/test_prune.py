"""What goes and what stays: the plan by itself, then in a real registry and through GitHub's package API."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.doubles.github import server
from tests.doubles.github.server import Fault, GitHub, Identity
from tests.doubles.registry import Running
from tests.doubles.registry_proxy import Fault as RegistryFault
from tests.doubles.registry_proxy import Proxy
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from trt_action import cli
from trt_action.errors import GitHubError, RegistryError, SettingsError
from trt_action.github.api import Client
from trt_action.github.packages import PackageVersions
from trt_action.publish import artifacts, prune, select, verify
from trt_action.publish.prune import Decision, Policy, Stored
from trt_action.publish.registry import Registry
from trt_action.publish.signing import KeySigner
from trt_action.publish.stored import RegistryVersions

NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def digest(name: str) -> str:
    return f"sha256:{name.encode().hex():0<64}"[:71]


def image(name: str, *tags: str, days: float | None = 90, **more: object) -> Stored:
    created = None if days is None else NOW - days * DAY
    return Stored(digest(name), more.pop("kind", "image"), tags, created, **more)  # type: ignore[arg-type]


def gone(stored: list[Stored], policy: Policy) -> set[str]:
    return {one.stored.digest for one in prune.plan(stored, policy, NOW) if one.goes}


def names(*given: str) -> set[str]:
    return {digest(one) for one in given}


OLD = Policy(older_than=30 * DAY)


@pytest.mark.parametrize(
    ("stored", "policy", "expected"),
    [
        pytest.param([image("a", "x"), image("b", "y", days=10)], OLD, {"a"}, id="age"),
        pytest.param([image("a", "x", days=None)], OLD, set(), id="unknown age stays"),
        pytest.param([image(str(n), f"t{n}", days=n) for n in range(5)], Policy(keep=2), {"2", "3", "4"}, id="count"),
        pytest.param([image("a", "x", days=90), image("b", "y", days=80)], Policy(OLD.older_than, 1), {"a"}, id="both"),
        pytest.param([image("a", "1.2.3"), image("b", "digits-h100-int8-1.2.3-rc.1"), image("c", "latest", "x")], OLD, set(), id="released"),
        pytest.param([image("a", "pr-12"), image("b", "main"), image("c", "pr-3", "main-2")], Policy(OLD.older_than, pattern="pr-*"), {"a"}, id="pattern"),
        pytest.param([image("a", "main"), image("b", "digits-h100-int8-main"), image("c", "maintenance")], Policy(keep=0), {"c"}, id="default branch"),
        pytest.param([image("a", "main"), image("b", "dev")], Policy(keep=0, protected=("dev",)), {"a"}, id="another branch"),
        pytest.param([image("a"), image("b", "x")], Policy(untagged=True), {"a"}, id="untagged alone"),
        pytest.param([image("a")], OLD, set(), id="untagged not asked for"),
        pytest.param([image("a", days=0.5), image("b", days=2)], Policy(untagged=True), {"b"}, id="being published"),
        pytest.param([image("a", "x"), image("b", "y")], Policy(OLD.older_than, deployed=frozenset({digest("a"), "y"})), set(), id="deployed"),
        pytest.param(
            [image("i", "x", kind="index", children=(digest("a"), digest("b"))), image("a", "x-a"), image("b", "x-b")],
            Policy(OLD.older_than, deployed=frozenset({digest("b")})), set(), id="index of a deployed image",
        ),
        pytest.param(
            [image("i", "1.0.0", kind="index", children=(digest("a"),)), image("a", "sha-a"), image("b", "sha-b")],
            OLD, {"b"}, id="children of a released index",
        ),
        pytest.param(
            [image("i", "x", kind="index", children=(digest("a"),)), image("a", "y", "x-a")], OLD, {"i", "a"}, id="an old index and its children",
        ),
        pytest.param(
            [image("i", "x", kind="index", days=5, children=(digest("a"),)), image("a", "x-a", days=5), image("b", "y", days=9)],
            Policy(keep=1), {"b"}, id="an index counts once",
        ),
        pytest.param(
            [image("a", "x"), image("s", kind="attachment", subject=digest("a")), image("l", "sha256-" + "0" * 64, kind="list", subject=digest("a"))],
            OLD, {"a", "s", "l"}, id="attachments go along",
        ),
        pytest.param(
            [image("a", "1.0.0"), image("s", kind="attachment", subject=digest("a")), image("t", kind="attachment", subject=digest("s"))],
            Policy(OLD.older_than, untagged=True), set(), id="attachments stay along, and theirs",
        ),
        pytest.param([image("s", kind="attachment", subject=digest("never"))], OLD, {"s"}, id="orphan"),
        pytest.param(
            [image("s", kind="attachment", subject=digest("t")), image("t", kind="attachment", subject=digest("s"))], OLD, {"s", "t"}, id="circle",
        ),
    ],
)  # fmt: skip
def test_the_plan(stored: list[Stored], policy: Policy, expected: set[str]) -> None:
    assert gone(stored, policy) == names(*expected)
    assert prune.plan(stored, policy, NOW) == prune.plan(stored[::-1], policy, NOW)


def test_nothing_asked_is_refused() -> None:
    with pytest.raises(SettingsError):
        prune.plan([image("a", "x")], Policy(), NOW)


def test_what_points_goes_before_what_is_pointed_at() -> None:
    stored = [
        image("a", "x-a"),
        image("s", kind="attachment", subject=digest("a")),
        image("l", "sha256-" + "0" * 64, kind="list", subject=digest("a")),
        image("i", "x", kind="index", children=(digest("a"),)),
    ]
    assert [one.stored.kind for one in prune.plan(stored, OLD, NOW)] == ["index", "attachment", "list", "image"]


TAGS = st.lists(st.sampled_from(["main", "pr-1", "1.0.0", "v2.0.0-rc.1", "d-h100-1.0.0", "latest", "x"]), max_size=2)


@st.composite
def repositories(draw: st.DrawFn) -> list[Stored]:
    count = draw(st.integers(1, 8))
    every = [digest(f"m{n}") for n in range(count)]
    found = []
    for own in every:
        kind: prune.Kind = draw(st.sampled_from(["image", "index", "attachment", "list"]))
        others = draw(st.lists(st.sampled_from(every), max_size=3, unique=True))
        days = draw(st.none() | st.integers(0, 100))
        found.append(
            Stored(
                own,
                kind,
                tuple(draw(TAGS)),
                None if days is None else NOW - days * DAY,
                tuple(others) if kind == "index" else (),
                others[0] if others and kind in ("attachment", "list") else None,
            )
        )
    return found


@given(
    repositories(),
    st.none() | st.integers(0, 100),
    st.none() | st.integers(0, 4),
    st.booleans(),
    st.sets(st.sampled_from([digest(f"m{n}") for n in range(8)])),
)
def test_what_must_stay_always_stays(
    stored: list[Stored], days: int | None, keep: int | None, untagged: bool, running: set[str]
) -> None:
    policy = Policy(None if days is None else days * DAY, keep, untagged=untagged, deployed=frozenset(running))
    if days is None and keep is None and not untagged:
        return
    plan = prune.plan(stored, policy, NOW)
    assert len(plan) == len(stored)
    stays = {one.stored.digest: one.stored for one in plan if not one.goes}
    for one in stored:
        if one.digest in running:
            assert one.digest in stays
        if one.kind in ("image", "index") and any(prune.is_release(tag) for tag in one.tags):
            assert one.digest in stays
        if one.digest in stays and one.kind == "index":
            roots = {other.digest for other in stored if other.kind in ("image", "index")}
            assert set(one.children) & roots <= set(stays)
        if (
            one.kind in ("attachment", "list")
            and one.subject in stays
            and stays[one.subject].kind in ("image", "index")
        ):
            assert one.digest in stays


@pytest.mark.parametrize(
    ("tag", "released"),
    [
        ("1.2.3", True), ("v1.2.3", True), ("1.2", True), ("1", True), ("latest", True), ("1.0.0-rc.1", True),
        ("digits-a100-fp16-1.2.3", True), ("digits-a100-fp16-latest", True), ("digits-a100-fp16-1.2.3-rc.1", True),
        ("pr-12", False), ("feature-2", False), ("main", False), ("4f2a9c1d7be0aa", False), ("digits-a100-fp16-main", False),
        ("20240101", False), ("latest-try", False),
    ],
)  # fmt: skip
def test_which_tags_are_releases(tag: str, released: bool) -> None:
    assert prune.is_release(tag) is released


# What is deployed

D1, D2, D3 = (f"sha256:{sign * 64}" for sign in "abc")
PODS = {
    "kind": "List",
    "items": [
        {
            "kind": "Pod",
            "spec": {"containers": [{"image": f"r.io/team/model@{D1}"}], "initContainers": [{"image": "r.io/init:v7"}]},
            "status": {
                "containerStatuses": [{"image": "r.io/team/model:x", "imageID": f"docker-pullable://r.io/m@{D2}"}]
            },
        },
        {"kind": "ReplicaSet", "spec": {"template": {"spec": {"containers": [{"image": f"r.io:5000/m:t@{D3}"}]}}}},
    ],
}


def test_what_kubectl_prints_is_understood() -> None:
    assert prune.deployed(json.dumps(PODS)) == {D1, D2, D3, "v7", "x"}
    assert prune.deployed('{"kind": "List", "items": []}') == set()
    assert prune.deployed(f"# running\n{D1}\nr.io:5000/m:tag\nr.io:5000/m\n") == {D1, "tag", "latest"}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"kind": "List", "items": [{"kind": "Pod"}]}', "error: You must be logged in", "[" * 99_999],
)
def test_what_is_no_list_deletes_nothing(text: str) -> None:
    with pytest.raises(SettingsError):
        prune.deployed(text)


@pytest.mark.parametrize("path", ["pods.json"])
def test_the_real_kubectl_prints_what_is_read(path: str, tmp_path: Path) -> None:
    """kubectl itself writes the JSON, from objects that it has read and not sent anywhere."""
    import shutil

    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": PODS["items"][0]["spec"]}  # type: ignore[index]
    pod["spec"] = {"containers": [{"name": "m", "image": f"r.io/team/model@{D1}"}]}
    (tmp_path / path).write_text(json.dumps(pod))
    command = ["kubectl", "label", "--local", "-f", str(tmp_path / path), "a=b", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert prune.deployed(done.stdout) == {D1}


# In a real registry


@pytest.fixture
def plain(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


@pytest.fixture(scope="module")
def signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that the commands make wait for nothing."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def dated(registry: Registry, repository: str, *tags: str, days: int = 90, **more: object) -> images.Published:
    created = (datetime.now(UTC) - days * DAY).isoformat(timespec="seconds")
    return images.push(registry, repository, *tags, created=created, **more)  # type: ignore[arg-type]


def test_old_images_go_and_everything_that_counts_stays(
    plain: Registry, repository: str, signer: KeySigner, capsys: pytest.CaptureFixture[str], no_time: None
) -> None:
    old = dated(plain, repository, "old", commit="1" * 40)
    released = dated(plain, repository, "2" * 40, "1.0.0", commit="2" * 40)
    running = dated(plain, repository, "3" * 40, commit="3" * 40)
    fresh = dated(plain, repository, "fresh", days=1)
    legs = [
        dated(plain, repository, f"digits-{gpu}-int8-{images.COMMIT}", gpu=facts)
        for gpu, facts in (("h100", images.H100), ("a100", images.A100))
    ]
    index = select.publish_index(plain, repository, images.COMMIT)
    plain.put_manifest(repository, "digits-2.0.0", *_again(plain, repository, index))
    for one in (old, released, running, *legs):
        images.attached(plain, one, signer)
    name = f"{plain.host}/{repository}"
    words = ["prune", name, "--older-than", "30d", "--untagged", "--deployed", running.digest]
    before = set(plain.tags(repository))
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["why"] for one in told if one["kind"] == "image" and not one["delete"]} == {
        "released as 1.0.0",
        f"deployed ({running.digest[:19]})",
        "1 days old",
        "part of the index digits-2.0.0",
    }
    assert {one["kind"] for one in told if one["delete"]} == {"image", "attachment", "list"}
    assert set(plain.tags(repository)) == before
    assert cli.main([*words, "--delete"]) == 0
    assert plain.manifest(repository, old.digest) is None
    assert not any(one["delete"] and plain.manifest(repository, one["digest"]) for one in told)
    assert set(plain.tags(repository)) == before - {"old", old.digest.replace(":", "-")}
    for one in (released, running, *legs):
        assert all(found.ok for found in verify.verify(plain, repository, one.digest, signer.public))
    assert plain.manifest(repository, fresh.digest)
    capsys.readouterr()
    assert cli.main([*words, "--delete"]) == 0
    assert "0 of" in capsys.readouterr().err


def _again(registry: Registry, repository: str, reference: str) -> tuple[bytes, str]:
    found = artifacts.resolve(registry, repository, reference)
    return found.body, found.media_type


def test_an_interrupted_pruning_goes_on(proxy: Proxy, make: MakeRegistry, repository: str, signer: KeySigner) -> None:
    registry = make(proxy.host, attempts=1)
    stays = dated(registry, repository, "1.0.0")
    for number in range(3):
        images.attached(registry, dated(registry, repository, f"old-{number}"), signer)
    versions = RegistryVersions(registry, repository)
    plan = prune.plan(versions.stored(), OLD, datetime.now(UTC))
    going = [one.stored.digest for one in plan if one.goes]
    proxy.faults.append(RegistryFault("DELETE", "/manifests/", status=503, skip=7, times=1))
    with pytest.raises(RegistryError):
        prune.prune(versions, plan)
    left = prune.plan(versions.stored(), OLD, datetime.now(UTC))
    assert {one.stored.digest for one in left if one.goes} == set(going[7:])
    prune.prune(versions, left)
    assert registry.tags(repository) == ["1.0.0"]
    assert registry.manifest(repository, stays.digest)


def test_a_rate_limit_is_waited_for(
    proxy: Proxy, make: MakeRegistry, repository: str, time: object, log: list[str]
) -> None:
    registry = make(proxy.host)
    dated(registry, repository, "old")
    proxy.faults.append(RegistryFault("DELETE", "/manifests/", status=429, headers={"Retry-After": "17"}))
    versions = RegistryVersions(registry, repository)
    done = prune.prune(versions, prune.plan(versions.stored(), OLD, datetime.now(UTC)))
    assert len(done.deleted) == 1
    assert any("again in 17 s" in line for line in log)
    assert registry.tags(repository) == []


def test_a_registry_that_may_not_delete_says_how(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    registry = make(proxy.host)
    dated(registry, repository, "old")
    proxy.faults.append(RegistryFault("DELETE", "/manifests/", status=405))
    versions = RegistryVersions(registry, repository)
    with pytest.raises(RegistryError) as refused:
        prune.prune(versions, prune.plan(versions.stored(), OLD, datetime.now(UTC)))
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in refused.value.fix


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--older-than", "soon"],
        ["--keep", "-1"],
        ["--keep", "1", "--deployed", "/missing"],
        ["--github-packages", "--keep", "1"],
    ],
)
def test_wrong_arguments_delete_nothing(
    plain: Registry, repository: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    dated(plain, repository, "old")
    assert cli.main(["prune", f"{plain.host}/{repository}", *words, "--delete"]) == 2
    assert plain.tags(repository) == ["old"]


def test_an_empty_answer_of_kubectl_deletes_nothing(
    plain: Registry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated(plain, repository, "old")
    words = ["prune", f"{plain.host}/{repository}", "--keep", "0", "--deployed", "-", "--delete"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(words) == 2
    assert plain.tags(repository) == ["old"]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(PODS)))
    assert cli.main(words) == 0
    assert plain.tags(repository) == []


# Through GitHub's package API

Publish = Callable[..., str]


@pytest.fixture
def github() -> Iterator[GitHub]:
    with server.serve() as double:
        double.tokens["a-test-token"] = Identity()
        yield double
        assert double.violations == []


@pytest.fixture
def client(github: GitHub, session: requests.Session, log: list[str]) -> Client:
    return Client(session, github.url, SecretStr("a-test-token"), sleep=lambda _: None, log=log.append)


def test_github_deletes_by_its_own_numbers(
    github: GitHub, client: Client, plain: Registry, repository: str, signer: KeySigner
) -> None:
    owner, _, package = repository.partition("/")
    old = dated(plain, repository, "old")
    images.attached(plain, old, signer)
    new = dated(plain, repository, "1.0.0")
    lonely = dated(plain, repository)
    long_ago = "2020-01-01T00:00:00Z"
    numbers = {}
    for one in RegistryVersions(plain, repository).stored():
        numbers[one.digest] = github.add_version(("users", owner), package, one.digest, one.tags, long_ago)
    numbers[lonely.digest] = github.add_version(("users", owner), package, lonely.digest, [], long_ago)
    versions = PackageVersions(client, plain, repository)
    plan = prune.plan(versions.stored(), Policy(30 * DAY, untagged=True), datetime.now(UTC))
    github.faults.append(Fault("DELETE", "/versions/", status=429, headers={"Retry-After": "3"}, times=2))
    prune.prune(versions, plan)
    left = github.packages["users", owner, package]
    assert set(left) == {numbers[new.digest]}
    assert lonely.digest not in {one["name"] for one in left.values()}
    assert len([one for one in github.seen if one.method == "DELETE"]) == 2 + len(numbers) - 1
    again = [Decision(one.stored, True, "") for one in plan if one.goes]
    prune.prune(versions, again)  # what is gone already is no failure


def test_what_github_refuses_is_told(github: GitHub, client: Client, plain: Registry, repository: str) -> None:
    owner, _, package = repository.partition("/")
    only = dated(plain, repository, "old")
    github.add_version(("orgs", owner), package, only.digest, ["old"], "2020-01-01T00:00:00Z")
    versions = PackageVersions(client, plain, repository)
    with pytest.raises(GitHubError, match="last tagged version"):
        prune.prune(versions, prune.plan(versions.stored(), Policy(keep=0), NOW))
    with pytest.raises(GitHubError, match="404"):
        PackageVersions(client, plain, "nobody/nothing").stored()


def test_hundreds_of_versions_come_in_pages(github: GitHub, client: Client, plain: Registry, repository: str) -> None:
    owner, _, package = repository.partition("/")
    only = dated(plain, repository, "old")
    for number in range(230):
        github.add_version(("orgs", owner), package, f"sha256:{number:064x}", [], "2020-01-01T00:00:00Z")
    github.add_version(("orgs", owner), package, only.digest, ["old"], "2020-01-01T00:00:00Z")
    assert [one.digest for one in PackageVersions(client, plain, repository).stored()] == [only.digest]
    assert len(github.seen) == 3
