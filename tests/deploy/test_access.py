"""Connections: kubeconfigs as kubectl reads them, pods, addresses with tokens; and nothing secret in any message."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.deploy.conftest import TOKEN, Put
from tests.doubles.kubernetes.certificates import Authority
from tests.doubles.kubernetes.server import Identity, Kubernetes
from trt_action import http
from trt_action.deploy import access, wanted
from trt_action.deploy.access import Access, Asked
from trt_action.deploy.cluster import Cluster
from trt_action.errors import DeployError, SettingsError

PATH = "/apis/apps/v1/namespaces/models/deployments/detector"
Config = Callable[..., Path]


@pytest.fixture(autouse=True)
def there(put: Put) -> None:
    put()


@pytest.fixture
def config(k8s: Kubernetes, tmp_path: Path) -> Config:
    """A kubeconfig: changes of the cluster, the user and the context."""

    def made(
        user: dict[str, Any], cluster: dict[str, Any] | None = None, name: str = "config", current: str = "here"
    ) -> Path:
        there = {"server": k8s.url, "certificate-authority-data": base64.b64encode(k8s.ca.read_bytes()).decode()}
        path = tmp_path / name
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": current,
            "clusters": [{"name": "c", "cluster": there | (cluster or {})}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    return made


def asks(found: Access) -> str:
    """Who the cluster takes us for."""
    with Cluster(found, http.Patience(seconds=5, attempts=1)) as cluster:
        return str(cluster.get(PATH)["metadata"]["name"])


def plugin(path: Path, answer: object, *, before: str = "") -> Path:
    path.write_text(f"#!/bin/sh\n{before}\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


CREDENTIAL = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": TOKEN}}
EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}


def test_tokens_and_certificates(k8s: Kubernetes, config: Config, tmp_path: Path) -> None:
    k8s.users["jane"] = Identity("jane")
    pair = k8s.authority.user("jane")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    data = {
        "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }
    files = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    for user in ({"token": TOKEN}, {"tokenFile": "token"}, data, files):
        found = access.find(Asked(kubeconfig=config(user)), {})
        assert asks(found) == "detector"
        assert found.namespace == "models"
        assert TOKEN not in repr(found)
        assert TOKEN not in repr(found.login())
    secret = SecretStr(config({"token": TOKEN}).read_text())
    assert asks(access.find(Asked(content=secret), {})) == "detector"
    assert not list(Path("/tmp").glob("trt-action-*/key.pem"))


def test_files_are_merged_and_the_usual_ones_are_found(config: Config, tmp_path: Path) -> None:
    first, second = config({"token": "wrong"}, name="a", current=""), config({"token": TOKEN}, name="b")
    (tmp_path / "empty").write_text("current-context: here\n")
    assert (
        asks(access.find(Asked(), {"KUBECONFIG": f"{tmp_path}/empty:{second}:{first}:{tmp_path}/none"})) == "detector"
    )
    (tmp_path / ".kube").mkdir()
    second.rename(tmp_path / ".kube" / "config")
    assert asks(access.find(Asked(), {"HOME": str(tmp_path)})) == "detector"


def test_a_login_program(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell, no secret of the job; told about the cluster if it asks; asked again when its token has ended."""
    seen = tmp_path / "seen"
    script = f'printf "%s\\n" "$1" "$KUBERNETES_EXEC_INFO" "$INPUT_DEPLOY_TOKEN" "$GIVEN" > {seen}'
    plugin(tmp_path / "login", CREDENTIAL, before=script)
    user = {
        "exec": EXEC
        | {
            "command": "./login",
            "args": ["$(touch /tmp/x); a b"],
            "env": [{"name": "GIVEN", "value": "yes"}],
            "provideClusterInfo": True,
        }
    }
    env = {"PATH": "/usr/bin:/bin", "INPUT_DEPLOY_TOKEN": "canary"}
    found = access.find(Asked(kubeconfig=config(user)), env)
    assert asks(found) == "detector"
    argument, info, secret, given = seen.read_text().splitlines()
    assert argument == "$(touch /tmp/x); a b"
    assert (secret, given) == ("", "yes")
    assert json.loads(info)["spec"]["cluster"]["server"].startswith("https://127.0.0.1")
    assert json.loads(info)["spec"]["interactive"] is False
    count = tmp_path / "count"
    old = CREDENTIAL | {"status": {"token": "ended"}}
    plugin(tmp_path / "new", CREDENTIAL)
    plugin(tmp_path / "login", old, before=f"echo x >> {count}; [ $(wc -l < {count}) -gt 1 ] && exec {tmp_path}/new")
    assert asks(access.find(Asked(kubeconfig=config(user)), env)) == "detector"
    assert count.read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("answer", "before", "changes", "words"),
    [
        (CREDENTIAL, "echo 'no session \x1b[1m' >&2; exit 3", {}, "failed (exit code 3): no session"),
        ({"token": "canary-secret"}, "", {}, "did not answer with an ExecCredential"),
        (CREDENTIAL | {"status": {}}, "", {}, "neither a token nor a certificate"),
        (CREDENTIAL, "", {"command": "not-there", "installHint": "get it"}, "is not installed (get it)"),
        (CREDENTIAL, "", {"interactiveMode": "Always"}, "wants to talk to a person"),
        (CREDENTIAL, "", {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "speaks"),
    ],
)
def test_a_login_program_that_fails(
    answer: object, before: str, changes: dict[str, Any], words: str, config: Config, tmp_path: Path
) -> None:
    plugin(tmp_path / "login", answer, before=before)
    found = access.find(
        Asked(kubeconfig=config({"exec": EXEC | {"command": "./login"} | changes})), {"PATH": "/usr/bin:/bin"}
    )
    with pytest.raises(SettingsError) as caught:
        asks(found)
    assert words in caught.value.what
    assert "canary-secret" not in caught.value.what
    assert "\x1b" not in caught.value.what


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"token": TOKEN}, {"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ({"username": "a", "password": "b"}, {}, "`username`"),
        ({"auth-provider": {"name": "gcp"}}, {}, "`auth-provider`"),
        ({"client-certificate-data": "AAAA"}, {}, "without its key"),
        ({"client-certificate-data": "!", "client-key-data": "!"}, {}, "not base64"),
        ({"token": TOKEN}, {"server": "http://cluster.example"}, "no https address"),
        ({"token": TOKEN}, {"certificate-authority-data": "AAAA"}, "no certificate in PEM"),
    ],
)
def test_kubeconfigs_that_cannot_be_used(
    user: dict[str, Any], cluster: dict[str, Any], words: str, config: Config
) -> None:
    with pytest.raises(SettingsError) as caught:
        asks(access.find(Asked(kubeconfig=config(user, cluster)), {}))
    assert words in caught.value.what
    assert TOKEN not in f"{caught.value.what}{caught.value.why}"


def test_contexts(config: Config, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        access.find(Asked(kubeconfig=config({"token": TOKEN}), context="hera"), {})
    assert caught.value.fix == "Did you mean `here`?"
    (tmp_path / "text").write_text(f"token: {TOKEN}: [\n")
    with pytest.raises(SettingsError) as caught:
        access.find(Asked(kubeconfig=tmp_path / "text"), {})
    assert TOKEN not in f"{caught.value.what}{caught.value.why}{caught.value.fix}"
    with pytest.raises(SettingsError, match="No cluster is named"):
        access.find(Asked(), {})


def test_insecure_only_if_asked(k8s: Kubernetes, config: Config, tmp_path: Path) -> None:
    cluster = {"insecure-skip-tls-verify": True, "certificate-authority-data": ""}
    found = access.find(Asked(kubeconfig=config({"token": TOKEN}, cluster), insecure=True), {})
    assert asks(found) == "detector"


def test_only_the_clusters_own_authority_is_trusted(
    k8s: Kubernetes, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "stranger").ca
    data = base64.b64encode(other.read_bytes()).decode()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(k8s.ca))
    found = access.find(Asked(kubeconfig=config({"token": TOKEN}, {"certificate-authority-data": data})), {})
    with pytest.raises(DeployError, match="certificate is not accepted"):
        asks(found)
    assert all(one.path != PATH for one in k8s.seen)


def test_the_name_in_the_certificate(config: Config) -> None:
    found = access.find(Asked(kubeconfig=config({"token": TOKEN}, {"tls-server-name": "localhost"})), {})
    assert asks(found) == "detector"
    found = access.find(Asked(kubeconfig=config({"token": TOKEN}, {"tls-server-name": "elsewhere"})), {})
    with pytest.raises(DeployError, match="certificate is not accepted"):
        asks(found)


def test_from_inside(k8s: Kubernetes, tmp_path: Path) -> None:
    host, port = k8s.url.removeprefix("https://").split(":")
    (tmp_path / "token").write_text("old")
    (tmp_path / "ca.crt").write_bytes(k8s.ca.read_bytes())
    (tmp_path / "namespace").write_text("models\n")
    env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    found = access.find(Asked(), env, mounted=tmp_path)
    assert found.namespace == "models"
    with Cluster(found, http.Patience(seconds=5, attempts=1)) as cluster:
        (tmp_path / "token").write_text(TOKEN)  # as Kubernetes does each hour
        assert cluster.get(PATH)["metadata"]["name"] == "detector"


def test_an_address_and_a_token(k8s: Kubernetes) -> None:
    asked = Asked(server=k8s.url, token=SecretStr(TOKEN), ca=k8s.ca.read_bytes())
    assert asks(access.find(asked, {})) == "detector"
    with pytest.raises(SettingsError, match="`token` is not"):
        access.find(Asked(server=k8s.url), {})
    with pytest.raises(SettingsError, match="both given"):
        access.find(Asked(server=k8s.url, token=SecretStr(TOKEN), context="x"), {})
    with pytest.raises(DeployError, match="does not know who asks"):
        asks(access.find(Asked(server=k8s.url, token=SecretStr("x"), ca=k8s.ca.read_bytes()), {}))


@pytest.mark.parametrize(
    "server", ["http://cluster.example", "ftp://x", "https://", "https://[::1", "https://x:99999", "https://a..b", "x"]
)
def test_what_is_no_address_of_a_cluster(server: str) -> None:
    with pytest.raises(SettingsError, match="is no https address of a cluster"):
        access.find(Asked(server=server, token=SecretStr("x")), {})


@pytest.mark.parametrize("proxy", ["proxy", "http://a..b", "http://[::1"])
def test_what_is_no_address_of_a_proxy(proxy: str, config: Config) -> None:
    with pytest.raises(SettingsError, match="is no address of a proxy"):
        access.find(Asked(kubeconfig=config({"token": TOKEN}, {"proxy-url": proxy})), {})


def test_a_server_that_is_no_cluster(tmp_path: Path) -> None:
    found = access.find(Asked(server="http://127.0.0.1:9", token=SecretStr("x")), {})
    with pytest.raises(DeployError) as caught:
        asks(found)
    assert "does not answer: no connection" in caught.value.what
    assert "kubectl cluster-info" in caught.value.fix


@pytest.mark.parametrize("name", ["deploy-token", "deploy-prometheus-token", "deploy-github-token"])
@pytest.mark.parametrize("token", ["ab\nsecret", "ab secret", "secretö"])
def test_a_token_that_no_header_takes_is_refused_unseen(name: str, token: str) -> None:
    with pytest.raises(SettingsError, match=f"`{name}` holds a character") as caught:
        wanted.read(lambda asked: token if asked == name else "")
    assert "secret" not in str(caught.value)
