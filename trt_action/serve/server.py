"""The process: listens, loads, watches, and on SIGTERM ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from trt_action.errors import BackendUnavailableError, SettingsError, TrtActionError
from trt_action.inputs import open_regular, quote
from trt_action.serve import connection, engines, flags, spans
from trt_action.serve.app import App
from trt_action.serve.connection import Connection
from trt_action.serve.flags import Options
from trt_action.serve.log import Log
from trt_action.serve.repository import Repository

MAX_TOKEN_BYTES = 10_000
BACKLOG = 2_048
DOOR_SECONDS = 0.05
LAST_SECONDS = 1.0
"""For freeing engines that nobody uses any more."""


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; returns after the requests in flight are answered.

    Raises:
        SettingsError: the address cannot be listened on, or a file of token or TLS is not usable.
        TrtActionError: an engine may not or cannot be served here.
    """
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options))
    if engines.busy():
        sys.stdout.flush()
        os._exit(0)  # a library that is still loading or computing would be torn down under its own feet


async def _serve(options: Options) -> None:
    log = Log(options.access_log)
    if strange := flags.unknown(os.environ):
        log.say(strange)
    repository = Repository(options, log.say)
    recorded = spans.spans(os.environ)
    app = App(repository, options, log, _token(options), recorded)
    listener = _listen(options)
    server = _server(app, options)
    app.connections = lambda: len(server.server_state.connections)
    app.refused_connections = lambda: Connection.refused
    remote = _grpc(app)
    if remote is not None:
        await remote.start()
    stopping = Stopping(app, server, options, log)
    stopping.listen()
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    log.say(f"Listening on {'https' if options.tls_key else 'http'}://{host}:{port}")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    chores = [asyncio.create_task(connection.sweep(server.server_state.connections))]
    failure: TrtActionError | None = None
    try:
        await _first(asyncio.create_task(repository.start()), serving)
        gc.collect()
        gc.freeze()  # what is loaded stays: later collections need not look at it
        if repository.ready:
            log.say("Ready.")
        if options.model_control_mode == "poll":
            chores.append(asyncio.create_task(repository.watch()))
    except TrtActionError as error:
        failure = error
        server.should_exit = True
    await serving
    if remote is not None:
        await remote.stop(max(0.0, stopping.left()))
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(repository.close(), timeout=max(LAST_SECONDS, stopping.left()))
    log.flush()
    if recorded is not None:
        await asyncio.to_thread(recorded.close)
    if failure is not None:
        raise failure
    log.say("Stopped.")


async def _first(loading: asyncio.Task[None], serving: asyncio.Task[None]) -> None:
    """Wait for the models, unless the server is told to stop before."""
    await asyncio.wait({loading, serving}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
    else:
        loading.cancel()


def _grpc(app: App) -> Any:
    if not app.options.grpc_port:
        return None
    try:
        from trt_action.serve import grpc_server
    except ImportError as error:
        raise BackendUnavailableError(
            "gRPC is asked for, and its library is not in this Python environment.",
            why=" ".join(str(error).split())[:300],
            fix="Install it with `pip install 'trt-action[grpc]'` for the same Python, or leave out --grpc-port.",
        ) from None
    return grpc_server.server(app)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers (`Stopping` has them), and with a last look at who is at the door."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Connections that the kernel has accepted for us would be reset by closing the listener: take them first."""
        for listener in sockets or []:
            listener.listen(0)
        await asyncio.sleep(DOOR_SECONDS)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Stopping:
    """SIGTERM, SIGINT and SIGHUP: readiness says no, requests are still taken for `drain_delay`, then nothing new is taken and
    the rest is finished. A second signal ends at once."""

    def __init__(self, app: App, server: uvicorn.Server, options: Options, log: Log) -> None:
        self._app = app
        self._server = server
        self._options = options
        self._log = log
        self._until = 0.0

    def left(self) -> float:
        """Seconds for what is still in flight."""
        return self._until - time.monotonic()

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        if self._app.draining:
            self._until = time.monotonic()
            self._server.force_exit = self._server.should_exit = True
            return
        self._app.draining = True
        self._log.say(f"{signal.Signals(number).name}: finishing {self._app.in_flight} requests.")
        self._app.leaving = self._options.drain_delay > 0
        asyncio.get_running_loop().call_later(self._options.drain_delay, self._close)

    def _close(self) -> None:
        if not self._server.should_exit:
            self._until = time.monotonic() + self._options.drain_seconds
            self._server.should_exit = True


def _server(app: App, options: Options) -> uvicorn.Server:
    Connection.shared = app
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # `log` tells what happens, in one form
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=options.idle_timeout,  # type: ignore[arg-type]
        timeout_graceful_shutdown=options.drain_seconds,  # type: ignore[arg-type]
    )
    config.load()
    config.ssl = _tls(options)
    return _Server(config)


def _tls(options: Options) -> ssl.SSLContext | None:
    if not options.tls_key:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"TLS cannot be set up with {quote(options.tls_certificate)} and {quote(options.tls_key)}: {error}.",
            fix="Give a certificate chain and its unencrypted key as PEM files that this user may read.",
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _token(options: Options) -> bytes | None:
    """From the file or the environment; only its bytes are kept, and never shown."""
    if options.token_file:
        with open_regular(Path(options.token_file), noun="token file", wrong=SettingsError) as file:
            token, where = file.read(MAX_TOKEN_BYTES + 1).strip(), "--token-file"
    else:
        text = os.environ.get(flags.TOKEN)
        if text is None:
            return None
        token, where = text.strip().encode(), flags.TOKEN
    if not token or len(token) > MAX_TOKEN_BYTES:
        raise SettingsError(f"The token of {where} is empty or too long.", fix="Put one line of text there.")
    return token


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        both = options.host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (options.host, options.port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        raise SettingsError(
            f"Port {options.port} of {quote(options.host)} cannot be listened on: {error.strerror or error}.",
            fix="Stop what listens there, or choose another --port (0 = any free one).",
        ) from None
    listener.setblocking(False)
    return listener


def _raise_file_limit() -> None:
    """Each connection is an open file; the usual soft limit of 1024 is less than `--max-connections` and the rest."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
