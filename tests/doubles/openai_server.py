"""An OpenAI-compatible server that can be told to fail. Strict: every request must be one that OpenAI's own types (the
`openai` package, made from its API description) accept, apart from `ignore_eos`; every piece that is streamed without a fault
is made by the same types. It holds no model: answers are letters counted out of the prompt, the same every time. Speed and
rightness are measured on a real server (`llama.py`).
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta, ChoiceLogprobs
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from pydantic import TypeAdapter, ValidationError

KEY = "sk-test-5e7a9c41d0"
MODEL = "tiny"
BEYOND = {"ignore_eos"}
"""Fields of other servers that this one knows too."""

PARAMS: dict[str, tuple[TypeAdapter[Any], set[str]]] = {
    "/v1/chat/completions": (TypeAdapter(ChatParams), set(ChatParams.__annotations__) | BEYOND),
    "/v1/completions": (TypeAdapter(CompletionParams), set(CompletionParams.__annotations__) | BEYOND),
}


def _known(params: type) -> set[str]:
    return {name for base in params.__mro__ for name in getattr(base, "__annotations__", {})}


FIELDS = {"/v1/chat/completions": _known(ChatParams) | BEYOND, "/v1/completions": _known(CompletionParams) | BEYOND}


@dataclass
class OpenAI:
    """What it is and what goes wrong with it.

    `faults`: what the next requests for an answer meet, one each, then `always`; see `_Handler._fault` for the words.
    """

    key: str | None = None
    models: tuple[str, ...] = (MODEL,)
    faults: list[str] = field(default_factory=list)
    always: str = ""
    usage: bool = True
    unknown_fields: tuple[str, ...] = ()
    eos_after: int | None = None
    answers: dict[str, str] = field(default_factory=dict)
    """What is answered to a prompt that ends so; the likeliest tokens are its letters, in their order."""

    seconds_per_token: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def next_fault(self) -> str:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always


@contextlib.contextmanager
def serve(state: OpenAI) -> Iterator[OpenAI]:
    """The server on a free port until the block is left."""

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: OpenAI
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._json(404, {"detail": "Not Found"})
            return
        listed = [Model(id=name, created=0, object="model", owned_by="test") for name in self.server_state.models]
        self._json(200, {"object": "list", "data": [one.model_dump() for one in listed]})

    def do_POST(self) -> None:
        state = self.server_state
        length = int(self.headers.get("Content-Length", "0"))
        content = json.loads(self.rfile.read(length))
        if not self._allowed():
            return
        with state.lock:
            state.requests.append(content)
        if self.path not in FIELDS:
            self._json(404, {"detail": "Not Found"})
            return
        if (complaint := self._complaint(content)) is not None:
            state.refused.append(complaint)
            self._json(400, {"error": {"message": complaint, "type": "invalid_request_error"}})
            return
        if content["model"] not in state.models:
            message = f"The model `{content['model']}` does not exist."
            self._json(404, {"error": {"message": message, "type": "invalid_request_error", "code": "model_not_found"}})
            return
        self._answer(content, state.next_fault())

    def _allowed(self) -> bool:
        state = self.server_state
        given = self.headers.get("Authorization", "")
        if state.key is None or given == f"Bearer {state.key}":
            return True
        self.rfile.read(0)
        self._json(401, {"error": {"message": f"Incorrect API key provided: {given}", "type": "invalid_request_error"}})
        return False

    def _complaint(self, content: dict[str, Any]) -> str | None:
        adapter, _ = PARAMS[self.path]
        unknown = set(content) - FIELDS[self.path] | set(content) & set(self.server_state.unknown_fields)
        if unknown:
            return f"Extra inputs are not permitted: {sorted(unknown)[0]}"
        try:
            found = adapter.validate_python(content, strict=True)
            list(found.get("messages", []))  # validated as they are read
        except ValidationError as error:
            return str(error)[:500]
        return None if content.get("stream") is True else "only streams are served"

    def _answer(self, content: dict[str, Any], fault: str) -> None:
        if self._fault(fault):
            return
        pieces = self._pieces(content)
        self.send_response(200)
        kind = "application/json" if fault == "no-stream" else "text/event-stream; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for index, piece in enumerate(pieces):
            if index == 2 and self._fault_inside(fault):
                return
            time.sleep(self.server_state.seconds_per_token)
            text = json.dumps(piece)
            if fault == "nan-logprob":
                text = text.replace("-0.5", "NaN")
            self._chunk(f"data: {text}\n\n".encode())
        if fault == "empty-choices":
            self._chunk(b'data: {"choices": []}\n\n')
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _fault(self, fault: str) -> bool:
        """Faults instead of an answer: a status (`503`), `429` with what Retry-After says (`429:1`), `hang`, `reset`."""
        status, _, after = fault.partition(":")
        if status.isdigit():
            headers = {"Retry-After": after} if after else {}
            if status == "302":
                headers = {"Location": "http://elsewhere.example/v1"}
            message = f"this is {status}, and the key was {self.headers.get('Authorization', '')}"
            self._json(int(status), {"error": {"message": message}}, headers)
            return True
        if fault == "hang":
            self.server_state.released.wait(30)
            return True
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return True
        return False

    def _fault_inside(self, fault: str) -> bool:
        """Faults after two pieces: `cut`, `silent`, `error`, and streams that are no streams."""
        bodies = {
            "no-json": b"data: {not json\n\n",
            "no-object": b"data: [1, 2]\n\n",
            "no-choices": b'data: {"hello": 1}\n\n',
            "no-text": b'data: {"choices": [{"index": 0, "delta": {"content": 5}, "text": 5}]}\n\n',
            "no-utf8": b'data: {"choices": "\xff"}\n\n',
            "error": b'data: {"error": {"message": "the engine died", "type": "server_error"}}\n\n',
            "endless": b"data: " + b"x" * 5_000_000 + b"\n\n",
        }
        if fault in bodies:
            self._chunk(bodies[fault])
            self._chunk(b"")
            return True
        if fault == "cut":
            self._chunk(b"")
            return True
        if fault == "broken":
            self.wfile.write(b"ff\r\ndata: {")
            self.wfile.flush()
            self.close_connection = True
            return True
        if fault == "silent":
            self.server_state.released.wait(30)
            return True
        return False

    def _pieces(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        state = self.server_state
        chat = "messages" in content
        prompt = content["messages"][-1]["content"] if chat else content["prompt"]
        wanted = content["max_tokens"]
        told = next((answer for end, answer in state.answers.items() if prompt.endswith(end)), None)
        letters = list(told) if told is not None else [chr(97 + (len(prompt) + i) % 26) for i in range(wanted)]
        stops = state.eos_after is not None and not content.get("ignore_eos")
        count = min(wanted, len(letters), state.eos_after if stops and state.eos_after else wanted)
        finish = "length" if count == wanted else "stop"
        make = self._chat_piece if chat else self._completion_piece
        pieces = [make(content, letter, None, letters) for letter in letters[:count]]
        pieces.append(make(content, "", finish, letters))
        if chat:
            pieces.insert(0, make(content, "", None, letters))
        if state.usage and content.get("stream_options", {}).get("include_usage"):
            usage = CompletionUsage(
                prompt_tokens=len(prompt), completion_tokens=count, total_tokens=len(prompt) + count
            )
            pieces.append({**make(content, "", None, letters), "choices": [], "usage": usage.model_dump()})
        return pieces

    def _chat_piece(self, content: dict[str, Any], text: str, finish: Any, letters: list[str]) -> dict[str, Any]:
        logprobs = None
        if content.get("logprobs") and text:
            top = [TopLogprob(token=one, logprob=-0.5 - place) for place, one in enumerate(dict.fromkeys(letters))]
            entry = ChatCompletionTokenLogprob(token=text, logprob=-0.5, top_logprobs=top[: content["top_logprobs"]])
            logprobs = ChoiceLogprobs(content=[entry])
        choice = Choice(delta=ChoiceDelta(content=text), index=0, finish_reason=finish, logprobs=logprobs)
        piece = ChatCompletionChunk(
            id="c", choices=[choice], created=0, model=content["model"], object="chat.completion.chunk"
        )
        return piece.model_dump(exclude_none=True)

    def _completion_piece(self, content: dict[str, Any], text: str, finish: Any, letters: list[str]) -> dict[str, Any]:
        choice = CompletionChoice(text=text, index=0, finish_reason=finish or "stop")
        piece = Completion(id="c", choices=[choice], created=0, model=content["model"], object="text_completion")
        found = piece.model_dump(exclude_none=True)
        found["choices"][0]["finish_reason"] = finish  # null while it streams, which the type does not foresee
        if content.get("logprobs") and text:
            top = {one: -0.5 - place for place, one in enumerate(dict.fromkeys(letters))}
            found["choices"][0]["logprobs"] = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [top]}
        return found

    def _json(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()


def _main() -> None:
    """`python -m tests.doubles.openai_server SECONDS_PER_TOKEN`: prints its URL, ends with its stdin."""
    with serve(OpenAI(seconds_per_token=float(sys.argv[1]))) as state:
        sys.stdout.write(f"{state.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _main()
