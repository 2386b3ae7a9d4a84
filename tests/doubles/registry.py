"""The real CNCF registry (Debian's `docker-registry`) as a child process on loopback, with or without TLS and login."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROGRAM = "docker-registry"
USER, PASSWORD = "trt", "canary-0f3a9c5b7d1e"
_BCRYPT = "$2b$05$abcdefghijklmnopqrstuuOadMdLNrwSqdPQVeiQAwMYwVe5w.Hly"
"""Of PASSWORD; the registry takes no other hash."""

START_SECONDS = 20.0


@dataclass(frozen=True)
class Running:
    """A registry that answers at `host` (`127.0.0.1:port`); `ca` certifies it where it speaks TLS."""

    host: str
    log: Path
    data: Path
    ca: Path | None = None


def missing() -> str | None:
    """Why the real registry cannot run here, or None."""
    return None if shutil.which(PROGRAM) else f"`{PROGRAM}` is not on PATH (apt-get install docker-registry)"


@contextlib.contextmanager
def serve(folder: Path, *, tls: bool = False, login: bool = False, port: int = 0) -> Iterator[Running]:
    """Start one with an empty store in `folder`; it is killed at the end. `port` 0: any free one."""
    port = port or _free_port()
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
    }
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "of the double"}
    ca = None
    if tls:
        ca, certificate, key = certify(folder)
        http["tls"] = {"certificate": str(certificate), "key": str(key)}
    if login:
        (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        config["auth"] = {"htpasswd": {"realm": "double", "path": str(folder / "htpasswd")}}
    config["http"] = http
    (folder / "config.yml").write_text(json.dumps(config))  # YAML is a superset of JSON
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen([PROGRAM, "serve", str(folder / "config.yml")], stdout=output, stderr=output)
        try:
            _wait(process, port, log)
            yield Running(f"127.0.0.1:{port}", log, folder / "data", ca)
        finally:
            process.kill()
            process.wait()


def certify(folder: Path) -> tuple[Path, Path, Path]:
    """An authority of its own, and a certificate and key for 127.0.0.1 and localhost: three PEM files."""
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    end = begin + datetime.timedelta(days=2)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "double's authority")])
    authority = (
        x509.CertificateBuilder(authority_name, authority_name, authority_key.public_key(), 1, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "double")])
    server = (
        x509.CertificateBuilder(authority_name, server_name, server_key.public_key(), 2, begin, end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    ca, certificate, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca, certificate, key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the registry does not answer:\n{log.read_text(errors='replace')[-2000:]}")
