"""The client against a strict server: times, counts, and one clear fault for each way to fail. No key is ever shown."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from tests.doubles.openai_server import KEY, MODEL, OpenAI
from trt_action.llm.api import Api
from trt_action.llm.client import Access, Answer, Client, settled
from trt_action.llm.faults import Fault
from trt_action.llm.prompts import Prompt

PROMPT = Prompt(({"role": "user", "content": "hello"},), "hello")


@pytest.fixture(params=["chat", "completions"])
def api(request: pytest.FixtureRequest) -> Api:
    found: Api = request.param
    return found


@pytest.fixture
def client(openai: OpenAI, api: Api) -> Iterator[Client]:
    with Client(Access(openai.url, api, MODEL, timeout=3.0)) as found:
        yield found


def ask(client: Client, tokens: int = 5) -> Answer:
    return client.ask(PROMPT, max_tokens=tokens, seed=3, ignore_eos=True)


def test_an_answer_has_text_times_and_counts(openai: OpenAI, client: Client) -> None:
    openai.seconds_per_token = 0.01
    answer = ask(client)
    assert (answer.text, answer.output_tokens, answer.prompt_tokens, answer.finish) == ("fghij", 5, 5, "length")
    assert len(answer.gaps_ns) == 4
    assert answer.ttft_ns + sum(answer.gaps_ns) == answer.e2e_ns
    assert answer.ttft_ns >= 10_000_000
    assert answer.e2e_ns >= 50_000_000
    sent = openai.requests[0]
    assert (sent["temperature"], sent["seed"], sent["ignore_eos"], sent["max_tokens"]) == (0, 3, True, 5)
    assert not openai.refused


def test_without_counts_pieces_are_counted(openai: OpenAI, client: Client) -> None:
    openai.usage = False
    answer = ask(client)
    assert (answer.output_tokens, answer.prompt_tokens) == (5, None)


def test_a_connection_is_kept_and_a_new_one_made_when_asked(client: Client) -> None:
    first = ask(client)
    again = ask(client)
    client.reconnect()
    assert first.text == again.text == ask(client).text


FAULTS = {
    "401": ("refused-key", "answered 401: `this is 401, and the key was"),
    "403": ("refused-key", "answered 403"),
    "404": ("not-found", "answered 404"),
    "400": ("bad-request", "answered 400"),
    "422": ("bad-request", "answered 422"),
    "429": ("rate-limited", "answered 429"),
    "500": ("server-error", "answered 500"),
    "503": ("server-error", "answered 503"),
    "302": ("redirected", "answered 302"),
    "hang": ("timed-out", "gave no answer: no answer in time within 3 s"),
    "silent": ("timed-out", "fell silent in the middle of an answer for 3 s"),
    "reset": ("cut", "gave no answer"),
    "cut": ("cut", "ended an answer before it was whole"),
    "broken": ("cut", "connection broke in the middle"),
    "no-stream": ("malformed", "does not stream: it answers with application/json"),
    "no-json": ("malformed", "it is no JSON"),
    "no-object": ("malformed", "it is no JSON object"),
    "no-choices": ("malformed", "no list `choices`"),
    "no-text": ("malformed", "is no text"),
    "no-utf8": ("malformed", "is not UTF-8"),
    "endless": ("malformed", "larger than 4 MB"),
    "error": ("server-error", "in the middle of an answer: `the engine died`"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_in_words(openai: OpenAI, client: Client, name: str) -> None:
    kind, words = FAULTS[name]
    client.use(replace(client.access, key=SecretStr(KEY)))
    client.reconnect()
    openai.key = KEY
    openai.always = name
    with pytest.raises(Fault) as fault:
        ask(client)
    assert (fault.value.kind, words in fault.value.said) == (kind, True), fault.value.said
    error = fault.value.error("head")
    assert error.what.startswith("head: ")
    assert error.fix
    assert error.exit_code == 19
    assert KEY not in repr((error.what, error.why, error.fix, fault.value, client.access))
    chained = error.__cause__ or error.__context__
    assert KEY not in repr(chained)


def test_what_may_be_tried_again_says_so(openai: OpenAI, client: Client) -> None:
    openai.faults = ["429:7", "503", "401"]
    waits = []
    for _ in range(3):
        with pytest.raises(Fault) as fault:
            ask(client)
        waits.append(fault.value.retry and fault.value.retry.after)
    assert waits == [7.0, None, None]
    assert fault.value.retry is None
    assert ask(client).text == "fghij"


def test_an_answer_without_choices_or_text_is_a_fault(openai: OpenAI, client: Client) -> None:
    openai.answers = {"hello": ""}
    openai.usage = False
    with pytest.raises(Fault, match="holds no text") as fault:
        ask(client)
    assert fault.value.kind == "empty"


def test_nan_is_no_log_probability(openai: OpenAI, client: Client) -> None:
    found = client.ask(PROMPT, max_tokens=1, seed=0, logprobs=True)
    assert found.logprobs["f"] == -0.5
    openai.always = "nan-logprob"
    with pytest.raises(Fault, match="holds NaN"):
        client.ask(PROMPT, max_tokens=1, seed=0, logprobs=True)


def test_a_wrong_key_and_a_wrong_model_are_told(openai: OpenAI, client: Client) -> None:
    openai.key = KEY
    with pytest.raises(Fault, match="401") as fault:
        client.models()
    assert fault.value.kind == "refused-key"
    client.use(replace(client.access, key=SecretStr(KEY), model="other"))
    client.reconnect()
    assert client.models() == [MODEL]
    with pytest.raises(Fault, match=r"`The model  other  does not exist\.`"):
        ask(client)


def test_fields_that_a_server_does_not_know_are_left_out(openai: OpenAI, client: Client) -> None:
    openai.unknown_fields = ("stream_options", "ignore_eos")
    access, notes = settled(client, PROMPT, seed=0, ignore_eos=True)
    assert access.dropped == {"stream_options", "ignore_eos"}
    assert len(notes) == 2
    assert ask(client).prompt_tokens is None


def test_a_connection_that_a_server_closed_meanwhile_is_made_again(openai: OpenAI, client: Client) -> None:
    ask(client)
    openai.faults = ["reset"]
    assert ask(client).text == "fghij"
    openai.faults = ["reset", "reset"]
    with pytest.raises(Fault, match="connection broke"):
        ask(client)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with Client(Access(url)) as client, pytest.raises(Fault, match="no connection") as fault:
            client.models()
    assert fault.value.kind == "no-connection"


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://.x/v1", f"http://{'a' * 300}/v1", "https://127.0.0.1:9/v1"])
def test_what_cannot_be_asked_at_all_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    with Client(Access(url, model="m")) as client:
        with pytest.raises(Fault, match="cannot be asked") as fault:
            client.models()
        with pytest.raises(Fault, match="cannot be asked"):
            ask(client)
    assert (fault.value.kind, fault.value.retry) == ("no-connection", None)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"SSH-2.0-OpenSSH_9.9\r\n"])
def test_something_else_answers(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        access = Access(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", model="m")
        with Client(access) as client, pytest.raises(Fault) as fault:
            ask(client)
        thread.join()
    assert fault.value.kind in {"malformed", "cut"}


def test_a_slow_answer_is_whole_and_one_beyond_the_limit_is_not(openai: OpenAI, client: Client) -> None:
    openai.seconds_per_token = 0.15
    assert ask(client, 3).output_tokens == 3
    with pytest.raises(Fault, match="not whole after 3 s"):
        ask(client, 26)


def test_a_real_server_is_understood(llama_url: str, api: Api) -> None:
    with Client(Access(llama_url, api)) as client:
        listed = client.models()
        assert len(listed) == 1
        client.use(replace(client.access, model=listed[0]))
        access, notes = settled(client, PROMPT, seed=0, ignore_eos=True)
        assert (access.dropped, notes) == (frozenset(), [])
        first, again = (client.ask(PROMPT, max_tokens=12, seed=0) for _ in range(2))
        assert first.text == again.text
        assert (first.output_tokens, len(first.text), first.finish) == (12, 12, "length")
        assert len(first.gaps_ns) == 11
        assert first.prompt_tokens
        chosen = client.ask(PROMPT, max_tokens=1, seed=0, logprobs=True)
        assert max(chosen.logprobs, key=lambda token: chosen.logprobs[token]) == chosen.text == first.text[0]
