"""The scan gate never fails open. Scanners are stand-ins that answer with files after the documented formats."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from trt_action.errors import NotPublishedError, ScanError, SettingsError
from trt_action.publish import sbom, scan
from trt_action.publish.scan import Asked, Ignored, Report, Target

DATA = Path(__file__).parents[1] / "data" / "scans"
IMAGE = Target("registry", "registry.invalid/team/model@sha256:" + "a" * 64)
TODAY = date(2025, 6, 1)
Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a scanner on PATH; until then there is none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(scan, "CACHE_VOLUME", "trt-action-test-scanner")

    def made(name: str, answer: Path | None, *, code: int = 0) -> Path:
        out = f'/bin/cat "{answer}"\n' if answer else ""
        script = f'#!/bin/sh\necho "$@" >"{tmp_path}/words"\n/usr/bin/env >"{tmp_path}/env"\n{out}echo no database >&2\nexit {code}\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
        return tmp_path

    return made


def scanned(severity: str = "high", *ignore: Ignored, **more: str) -> Report:
    return scan.scan(IMAGE, Asked(severity, ignore, more.get("scanner_image", "")), today=TODAY)


def ids(report: Report) -> list[str]:
    return [one.id for one in report.over]


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        ("high", ["CVE-2025-0001"]),
        ("medium", ["CVE-2025-0001", "CVE-2025-0002", "CVE-2025-0005"]),
        ("low", ["CVE-2025-0001", "CVE-2025-0002", "CVE-2025-0005", "CVE-2025-0003"]),
        ("negligible", ["CVE-2025-0001", "CVE-2025-0002", "CVE-2025-0005", "CVE-2025-0003", "CVE-2011-3374"]),
        (
            "none",
            ["CVE-2025-0001", "CVE-2025-0002", "CVE-2025-0005", "CVE-2025-0003", "CVE-2011-3374", "CVE-2025-0004"],
        ),
    ],
)
def test_what_is_over_the_limit(install: Install, severity: str, expected: list[str]) -> None:
    install("trivy", DATA / "trivy.json")
    assert ids(scanned(severity)) == expected


def test_both_scanners_are_understood(install: Install) -> None:
    install("grype", DATA / "grype.json")
    report = scanned("medium")
    assert (report.scanner, ids(report)) == ("grype", ["CVE-2025-0001", "CVE-2025-0002", "GHSA-aaaa-bbbb-cccc"])
    assert report.over[0].words() == ("CVE-2025-0001 (critical): libssl3 3.0.15-1~deb12u1, fixed in 3.0.16-1~deb12u1")
    install("trivy", DATA / "trivy.json")
    assert scanned().scanner == "trivy"
    assert scanned().words() == "trivy: 1 critical, 2 high, 1 medium, 1 low, 1 unknown"


def test_a_clean_image_passes(install: Install) -> None:
    install("trivy", DATA / "trivy-clean.json")
    log: list[str] = []
    scan.gate(IMAGE, Asked("none"), today=TODAY, log=log.append)
    assert "nothing known" in log[0]


def test_the_gate_refuses_and_says_what_and_how(install: Install) -> None:
    install("trivy", DATA / "trivy.json")
    with pytest.raises(NotPublishedError) as refused:
        scan.gate(IMAGE, Asked("medium"), today=TODAY, log=lambda _: None)
    assert "3 known vulnerabilities are above `max-severity: medium`" in refused.value.what
    assert "libssl3 3.0.15-1~deb12u1, fixed in 3.0.16-1~deb12u1" in refused.value.why


def test_the_scanner_gets_its_own_variables_and_nothing_of_the_job(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("TRIVY_GITHUB_TOKEN", "its own")
    where = install("trivy", DATA / "trivy-clean.json")
    scan.scan(IMAGE, Asked("high"), today=TODAY)
    told = (where / "env").read_text()
    assert "canary" not in told
    assert "TRIVY_GITHUB_TOKEN=its own" in told
    (where / "syft").write_text(f'#!/bin/sh\n/usr/bin/env >{where}/env\necho \'{{"bomFormat":"CycloneDX"}}\'\n')
    (where / "syft").chmod(0o755)
    monkeypatch.setenv("SYFT_REGISTRY_AUTH_TOKEN", "its own")
    sbom.packages("dir:/", syft=where / "syft", env={"SYFT_REGISTRY_AUTH_USERNAME": "given"})
    told = (where / "env").read_text()
    assert "canary" not in told
    assert {"SYFT_REGISTRY_AUTH_TOKEN=its own", "SYFT_REGISTRY_AUTH_USERNAME=given"} <= set(told.splitlines())


SECRETS = (
    "INPUT_REGISTRY-PASSWORD",
    "INPUT_SIGN-KEY",
    "REGISTRY_PASSWORD",
    "SIGN_KEY",
    "SIGN_KEY_PASSWORD",
    "TRT_ACTION_SIGN_KEY",
    "TRT_ACTION_DEPLOY_TOKEN",
    "COSIGN_PASSWORD",
    "KUBE_TOKEN",
    "PROMETHEUS_TOKEN",
    "GITHUB_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "DOCKER_AUTH_CONFIG",
)


def test_the_scanner_is_asked_for_the_digest_and_the_login_is_no_argument(install: Install) -> None:
    where = install("trivy", DATA / "trivy-clean.json")
    scan.scan(IMAGE, Asked("high"), today=TODAY, env={"TRIVY_PASSWORD": "canary"})
    assert (where / "words").read_text() == (
        f"image --quiet --format json --scanners vuln --image-src remote -- {IMAGE.name}\n"
    )
    assert "TRIVY_PASSWORD=canary" in (where / "env").read_text()
    (where / "bin" / "trivy").unlink()
    install("grype", DATA / "grype.json")
    scan.scan(Target("docker", "x:1"), Asked("high"), today=TODAY)
    assert (where / "words").read_text() == "docker:x:1 --output json --quiet\n"


# Never open


def test_no_scanner_is_a_failure() -> None:
    with pytest.raises(ScanError, match="there is no scanner"):
        scanned()


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_failing_scanner_is_a_failure(install: Install, code: int) -> None:
    install("trivy", DATA / "trivy-clean.json", code=code)
    with pytest.raises(ScanError) as refused:
        scanned()
    assert refused.value.why == "no database"


@pytest.mark.parametrize("scanner", ["trivy", "grype"])
@pytest.mark.parametrize(
    "answer",
    [
        "", "null", "[]", "{}", "not json", '{"Results": []}', '{"SchemaVersion": 1, "ArtifactName": "x", "Results": []}',
        '{"SchemaVersion": 2, "ArtifactName": "x", "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-1"}]}]}',
        '{"SchemaVersion": 2, "ArtifactName": "x", "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-1", '
        '"PkgName": "p", "InstalledVersion": "1", "Severity": "SUPER"}]}]}',
        '{"matches": []}', '{"descriptor": {"name": "grype"}}', '{"descriptor": {"name": "grype"}, "matches": [{}]}',
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_is_a_failure(
    install: Install, tmp_path: Path, scanner: str, answer: str
) -> None:
    (tmp_path / "answer").write_text(answer)
    install(scanner, tmp_path / "answer")
    with pytest.raises(ScanError):
        scanned("high")


def test_a_severity_that_is_none_is_refused(install: Install) -> None:
    install("trivy", DATA / "trivy-clean.json")
    for severity in ("critical", "", "HIGH", "severe"):
        with pytest.raises(SettingsError):
            scanned(severity)


# Exceptions


def ignored(name: str, day: date, package: str = "") -> Ignored:
    return Ignored(name, day, "no fix upstream", package)


def test_an_exception_holds_to_its_last_day(install: Install) -> None:
    install("trivy", DATA / "trivy.json")
    report = scanned("high", ignored("CVE-2025-0001", TODAY))
    assert (ids(report), [one.id for one in report.excused], report.notes) == ([], ["CVE-2025-0001"], ())
    assert "1 ignored for now" in report.words()


def test_an_expired_exception_does_not_hold_and_says_so(install: Install) -> None:
    install("trivy", DATA / "trivy.json")
    report = scanned("high", ignored("CVE-2025-0001", date(2025, 5, 31)))
    assert ids(report) == ["CVE-2025-0001"]
    assert "expired on 2025-05-31" in report.notes[0]


def test_an_exception_may_be_for_one_package_only(install: Install) -> None:
    install("trivy", DATA / "trivy.json")
    other = scanned("high", ignored("CVE-2025-0001", TODAY, "openssl"))
    assert ids(other) == ["CVE-2025-0001"]
    assert "fits nothing" in other.notes[0]
    assert ids(scanned("high", ignored("CVE-2025-0001", TODAY, "libssl3"))) == []


def test_the_ignore_file(tmp_path: Path) -> None:
    path = tmp_path / "ignore.yml"
    path.write_text(
        "- {id: CVE-1, expires: 2025-07-01, reason: waiting}\n- id: CVE-2\n  expires: 2025-07-02\n  reason: x\n  package: p\n"
    )
    assert scan.read_ignore(path) == (
        Ignored("CVE-1", date(2025, 7, 1), "waiting"),
        Ignored("CVE-2", date(2025, 7, 2), "x", "p"),
    )
    path.write_text("# nothing\n")
    assert scan.read_ignore(path) == ()


@pytest.mark.parametrize(
    "text",
    [
        "{}", "- CVE-1", "- {id: CVE-1, reason: x}", "- {id: CVE-1, expires: never, reason: x}", "- {expires: 2025-01-01, reason: x}",
        "- {id: CVE-1, expires: 2025-01-01}", "- {id: CVE-1, expires: 2025-01-01, reason: x, until: 2026-01-01}", "- {id: 1, expires: 2025-01-01, reason: x}",
        "- [", "a: &a [*a]", "- {id: CVE-1, expires: 2025-01-01T00:00:00, reason: x}", "- {id: CVE-1, expires: 2025-13-01, reason: x}",
    ],
)  # fmt: skip
def test_a_wrong_ignore_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ignore.yml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        scan.read_ignore(path)


# From an image


@pytest.fixture(scope="module")
def scanner_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """An image of this host's shell, whose `trivy` is a script."""
    path = f"{os.defpath}:/usr/sbin:/usr/local/bin"
    if subprocess.run(["/usr/bin/env", f"PATH={path}", "docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    made: list[str] = []

    def build(script: str) -> str:
        folder = tmp_path_factory.mktemp("scanner")
        (folder / "answer.json").write_text((DATA / "trivy.json").read_text())
        (folder / "trivy").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "trivy").chmod(0o755)
        with tarfile.open(folder / "image.tar", "w", dereference=True) as tar:
            for program in ("/bin/sh", "/bin/cat"):
                tar.add(program)
            listed = subprocess.run(["/usr/bin/ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
            for library in {word for word in listed.split() if word.startswith("/")}:
                tar.add(library)
            for name in ("answer.json", "trivy"):
                tar.add(folder / name, name)
        name = f"trt-action-test-trivy-{datetime.now(UTC).timestamp():.6f}:1"
        change = ["--change", 'ENTRYPOINT ["/trivy"]']
        run = ["/usr/bin/env", f"PATH={path}", "docker", "import", *change, str(folder / "image.tar"), name]
        subprocess.run(run, check=True, capture_output=True, timeout=120)
        made.append(name)
        return name

    yield build
    for name in made:
        run = ["/usr/bin/env", f"PATH={path}", "docker", "image", "rm", "--force", name]
        subprocess.run(run, capture_output=True, timeout=60, check=False)


@pytest.mark.docker
def test_a_scanner_may_come_as_an_image(scanner_image: Callable[[str], str]) -> None:
    image = scanner_image('test "${10}" = "' + IMAGE.name + '" && test "$LOGIN" = canary && cat /answer.json')
    report = scan.scan(IMAGE, Asked("high", (), image), today=TODAY, env={"LOGIN": "canary"})
    assert ids(report) == ["CVE-2025-0001"]
    clean_up_volume()


@pytest.mark.docker
@pytest.mark.parametrize("script", ["echo no database >&2; exit 3", "exit 0", "echo '[]'"])
def test_an_image_that_fails_is_a_failure(scanner_image: Callable[[str], str], script: str) -> None:
    with pytest.raises(ScanError) as refused:
        scanned("high", scanner_image=scanner_image(script))
    assert "exit code 3" not in script or refused.value.why == "no database"
    listed = [
        "/usr/bin/env",
        f"PATH={os.defpath}:/usr/local/bin",
        "docker",
        "ps",
        "-aq",
        "--filter",
        "label=trt-action=scanner",
    ]
    assert subprocess.run(listed, capture_output=True, text=True, check=True).stdout == ""
    clean_up_volume()


@pytest.mark.docker
def test_an_image_that_is_not_there_is_a_failure(scanner_image: Callable[[str], str]) -> None:
    with pytest.raises(ScanError):
        scanned("high", scanner_image="127.0.0.1:9/missing/trivy:1")


def clean_up_volume() -> None:
    run = ["/usr/bin/env", f"PATH={os.defpath}:/usr/local/bin", "docker", "volume", "rm", scan.CACHE_VOLUME]
    subprocess.run(run, capture_output=True, timeout=60, check=False)
