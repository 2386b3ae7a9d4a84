"""After the rollout: health and numbers gate what stays; no data is no pass."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import requests
from pydantic import SecretStr

from tests.deploy.conftest import NEW, OLD, Put, facts, order
from tests.doubles import prometheus as doubles
from tests.doubles.kubernetes.controllers import Image
from tests.doubles.kubernetes.server import Kubernetes
from trt_action.deploy import deploying, prometheus
from trt_action.deploy.checks import Checks, Health, Rules
from trt_action.deploy.cluster import Cluster
from trt_action.deploy.prometheus import Prometheus
from trt_action.errors import DeployError, SettingsError

Deploy = Callable[[Checks], deploying.Deployed]
RULES = Rules(seconds=2.0, max_p99=0.05, max_error_rate=0.01, interval=0.2)


@pytest.fixture
def numbers() -> Iterator[doubles.Prometheus]:
    with doubles.serve() as double:
        yield double


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.fixture
def deploy(k8s: Kubernetes, put: Put, cluster: Cluster, log: list[str]) -> Deploy:
    put()
    return lambda checks: deploying.deploy(cluster, facts(), order(log, checks=checks))


def put_back(k8s: Kubernetes) -> bool:
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))
    return "trt-action.github.io/image" not in k8s.get("deployments", "detector")["metadata"]["annotations"]


@pytest.mark.parametrize(("text", "asked"), [("pods", r"detector-\w+-\w+:8000"), ("pods:9000", r"detector-\w+-\w+:9000"), ("service/detector:8000", "detector:8000")])  # fmt: skip
def test_ready(text: str, asked: str, k8s: Kubernetes, deploy: Deploy) -> None:
    names: list[str] = []
    k8s.health = lambda name: 200 if not names.append(name) and len(names) > 2 else 503  # type: ignore[func-returns-value]
    assert deploy(Checks(Health.parse(text), health_seconds=10)).done == "deployed"
    assert len(names) > 2
    assert all(re.fullmatch(asked, name) for name in names)


@pytest.mark.parametrize("text", ["pods", "service/detector:8000"])
def test_never_ready(text: str, k8s: Kubernetes, deploy: Deploy) -> None:
    k8s.health = lambda _name: 503
    with pytest.raises(DeployError, match=r"did not say .*HTTP 503") as caught:
        deploy(Checks(Health.parse(text), health_seconds=0.3))
    assert "It is rolled out again" in caught.value.why
    assert put_back(k8s)


def test_an_address(numbers: doubles.Prometheus, deploy: Deploy, session: requests.Session) -> None:
    good = Health.parse(f"{numbers.url}/v2/health/ready")
    assert deploy(Checks(good, session=session)).done == "deployed"
    with pytest.raises(DeployError, match="HTTP 503"):
        deploy(Checks(Health.parse(f"{numbers.url}/elsewhere"), session=session, health_seconds=0.1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pod",
        "service/x",
        "service/X:80",
        "ftp://x",
        "pods:123456",
        "https://",
        "https://[::1",
        "https://x:99999",
        "https://a..b",
    ],
)
def test_nobody_to_ask(text: str) -> None:
    with pytest.raises(SettingsError):
        Health.parse(text)


def p99(seconds: str, errors: str = "0") -> Callable[[str], list[str]]:
    return lambda query: [seconds] if query.startswith("histogram_quantile") else [errors]


def test_numbers_that_hold(
    numbers: doubles.Prometheus, deploy: Deploy, session: requests.Session, log: list[str]
) -> None:
    numbers.answer, numbers.token = p99("0.031"), doubles.TOKEN
    server = Prometheus(session, numbers.url, SecretStr(doubles.TOKEN))
    assert deploy(Checks(rules=RULES, prometheus=server)).done == "deployed"
    assert any("It holds after" in line and "p99 31 ms (at most 50 ms)" in line for line in log)
    query = numbers.queries[0]
    assert 'namespace="models",pod=~"detector\\\\-' in query
    assert "[60s]" in query
    assert len(numbers.queries) >= 6


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (p99("0.09"), "p99 90 ms, and at most 50 ms is allowed"),
        (p99("0.01", "0.2"), "error rate 20.000%, and at most 1.000% is allowed"),
        (lambda _: [], "There is no p99"),
        (lambda _: ["NaN"], "There is no p99"),
        (lambda _: "parse error \x1b[1m", "There is no p99"),
        (lambda _: ["1", "2"], "There is no p99"),
    ],
    ids=["slow", "wrong", "no-series", "no-requests", "bad-query", "several"],
)
def test_numbers_that_do_not_hold(
    answer: Callable[[str], list[str] | str],
    words: str,
    numbers: doubles.Prometheus,
    deploy: Deploy,
    session: requests.Session,
    k8s: Kubernetes,
) -> None:
    numbers.answer = answer
    with pytest.raises(DeployError) as caught:
        deploy(Checks(rules=RULES, prometheus=Prometheus(session, numbers.url)))
    assert words in caught.value.what
    assert "It is rolled out again" in caught.value.why
    assert "\x1b" not in caught.value.why
    assert put_back(k8s)


def test_a_slow_start_is_forgiven(numbers: doubles.Prometheus, deploy: Deploy, session: requests.Session) -> None:
    slow = iter(["0.2", "0.2"])
    numbers.answer = lambda query: [next(slow, "0.01")] if query.startswith("histogram") else ["0"]
    assert deploy(Checks(rules=RULES, prometheus=Prometheus(session, numbers.url))).done == "deployed"


def test_a_server_that_is_not_there(deploy: Deploy, session: requests.Session, k8s: Kubernetes) -> None:
    with pytest.raises(DeployError, match="There is no p99") as caught:
        deploy(Checks(rules=RULES, prometheus=Prometheus(session, "http://127.0.0.1:9")))
    assert "Prometheus does not answer: no connection" in caught.value.why
    assert put_back(k8s)


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 100\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
        b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    ],
    ids=["short", "cut", "no-gzip"],
)
def test_an_answer_that_breaks_off(answer: bytes, session: requests.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + answer)

        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(DeployError, match="Prometheus does not answer"):
            Prometheus(session, f"http://127.0.0.1:{listening.getsockname()[1]}").value("up")
        thread.join()


def test_a_redirect_to_nowhere_is_no_answer(session: requests.Session) -> None:
    assert Checks(session=session)._status("https://a..b") == 0


def test_pods_that_die_meanwhile(
    numbers: doubles.Prometheus, deploy: Deploy, session: requests.Session, k8s: Kubernetes
) -> None:
    def answer(query: str) -> list[str]:
        k8s.images[NEW] = Image("crash", log="CUDA error\n")
        return p99("0.01")(query)

    numbers.answer = answer
    with pytest.raises(DeployError, match="did not stay up") as caught:
        deploy(Checks(rules=RULES, prometheus=Prometheus(session, numbers.url)))
    assert "CUDA error" in caught.value.why
    assert put_back(k8s)


def test_the_same_digest_again_is_checked_again(
    numbers: doubles.Prometheus, deploy: Deploy, session: requests.Session, k8s: Kubernetes
) -> None:
    """After kill -9 in the middle of the checks nobody knows how they ended."""
    numbers.answer = p99("0.01")
    checks = Checks(rules=RULES, prometheus=Prometheus(session, numbers.url))
    deploy(checks)
    assert deploy(checks).done == "unchanged"
    numbers.answer = p99("0.9")
    with pytest.raises(DeployError, match="does not hold"):
        deploy(checks)
    k8s.wait(lambda: k8s.settled("deployments", "detector", OLD))


def test_a_token_needs_tls(session: requests.Session) -> None:
    with pytest.raises(SettingsError, match="without TLS"):
        Prometheus(session, "http://prometheus.example", SecretStr(doubles.TOKEN))


def test_the_queries_name_metrics_that_our_server_has() -> None:
    serve = pytest.importorskip("trt_action.serve.metrics")
    known = {name for name, *_ in serve.TRITON} | {f"{name}_bucket" for name, *_ in serve.HISTOGRAMS}
    known |= {"nv_inference_request_failure"}
    for query in (prometheus.P99, prometheus.ERROR_RATE):
        assert set(re.findall(r"(?:nv|trt_action)_\w+", query)) <= known
