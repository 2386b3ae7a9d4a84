"""The bill of materials on its way to an image: packages are those of its runtime base, which are listed once.

The engine's layer holds no packages, so that the list of the base is the list of every image on it. It is attached to the
base and found there again: the next engine costs neither a download nor a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trt_action.errors import RegistryError, ScanError
from trt_action.evidence import Evidence
from trt_action.publish import attest, oci, sbom, tools
from trt_action.publish.direct import Base
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.reference import Reference
from trt_action.publish.runtime import Open

Log = Callable[[str], None]


def packages(base: Base, open_registry: Open, *, log: Log) -> Mapping[str, Any] | None:
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
    env = tools.login(base.reference, open_registry)
    found = sbom.packages(f"registry:{base.reference.at(digest)}", syft=syft, env=env)
    _attach(base, found)
    return found


def document(evidence: Evidence, image: Reference, digest: str, found: Mapping[str, Any] | None) -> bytes:
    """The image's own bill: the base's packages, the model, the engine, the data."""
    return sbom.document(evidence, image, digest, found)


def _attach(base: Base, found: Mapping[str, Any]) -> None:
    subject = Descriptor(base.manifest.media_type, base.manifest.digest, len(base.manifest.body))
    try:
        base.registry.attach(
            base.reference.repository, subject, sbom.MEDIA_TYPE, [Blob.of(oci.canonical(found), sbom.MEDIA_TYPE)]
        )
    except RegistryError:
        return  # a base of somebody else's: it is listed again next time
