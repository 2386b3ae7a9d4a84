"""An authority of the cluster's own; certificates for its server and for its users."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Signs what it is asked to; files go into `folder`."""

    def __init__(self, folder: Path, name: str = "kubernetes") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        self._end = self._begin + datetime.timedelta(days=2)
        own = (
            x509.CertificateBuilder(self._name, self._name, self._key.public_key(), 1, self._begin, self._end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / f"{name}-ca.pem"
        self.ca.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def server(self) -> Pair:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._sign("server", x509.SubjectAlternativeName(names))

    def user(self, name: str) -> Pair:
        """Kubernetes reads the user's name from the certificate's common name."""
        return self._sign(name, None)

    def _sign(self, name: str, names: x509.SubjectAlternativeName | None) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        number = x509.random_serial_number()
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), number, self._begin, self._end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair
