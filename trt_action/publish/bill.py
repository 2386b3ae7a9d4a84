"""The bill of materials on its way to an image: packages are those of its runtime base, which are listed once.

The engine's layer holds no packages, so that the list of the base is the list of every image on it. It is attached to the
base and found there again: the next engine costs neither a download nor a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trt_action.errors import RegistryError, ScanError
from trt_action.evidence import Evidence
from trt_action.publish import attest, sbom
from trt_action.publish.credentials import Credentials
from trt_action.publish.direct import Base
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.runtime import Open

Log = Callable[[str], None]


def packages(base: Base, registry: Registry, open_registry: Open, *, log: Log) -> Mapping[str, Any] | None:
    """What lies in the base, as CycloneDX; None where there is no syft.

    Raises:
        ScanError: syft failed.
        RegistryError: the registry cannot be asked.
    """
    repository, digest = base.reference.repository, base.manifest.digest
    for one in base.registry.referrers(repository, digest, sbom.MEDIA_TYPE):
        try:
            return sbom.parse(attest.content(base.registry, repository, one, limit=sbom.MAX_BYTES))
        except (RegistryError, ScanError):
            continue  # somebody's broken artifact
    syft = sbom.find_syft()
    if syft is None:
        log(sbom.NO_SYFT)
        return None
    log("Listing the packages of the runtime base (once).")
    found = sbom.packages(f"registry:{base.reference.at(digest)}", syft=syft, env=_login(base, open_registry))
    if base.registry.host == registry.host:
        _attach(base, found)
    return found


def document(evidence: Evidence, image: Reference, digest: str, found: Mapping[str, Any] | None) -> bytes:
    """The image's own bill: the base's packages, the model, the engine, the data."""
    return sbom.document(evidence, image, digest, found)


def _attach(base: Base, found: Mapping[str, Any]) -> None:
    from trt_action.publish import oci

    subject = Descriptor(base.manifest.media_type, base.manifest.digest, len(base.manifest.body))
    try:
        base.registry.attach(
            base.reference.repository, subject, sbom.MEDIA_TYPE, [Blob.of(oci.canonical(found), sbom.MEDIA_TYPE)]
        )
    except RegistryError:
        return  # a base of somebody else's: it is listed again next time


def _login(base: Base, open_registry: Open) -> dict[str, str]:
    """For syft, in its environment: no process list shows it."""
    credentials: Credentials | None = open_registry(base.reference.host)[1]
    found = {"SYFT_REGISTRY_AUTH_AUTHORITY": base.reference.host} if credentials else {}
    if credentials and credentials.identity:
        found["SYFT_REGISTRY_AUTH_TOKEN"] = credentials.secret.get_secret_value()
    elif credentials:
        found["SYFT_REGISTRY_AUTH_USERNAME"] = credentials.username
        found["SYFT_REGISTRY_AUTH_PASSWORD"] = credentials.secret.get_secret_value()
    return found
