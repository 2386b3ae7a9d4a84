"""What travels with an image's digest: evidence, bill of materials, provenance and benchmark, attached and signed.

Layout of signatures as cosign 3 writes and looks for them: one artifact of the bundle's media type for each statement, with
`dev.sigstore.bundle.content` and `dev.sigstore.bundle.predicateType` as annotations. Attaching again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from trt_action.errors import EvidenceError, RegistryError, VerificationError
from trt_action.evidence import Evidence
from trt_action.publish import provenance, sbom, signing
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.provenance import Origin
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.signing import Signer

EVIDENCE = "application/vnd.trt-action.evidence.v1+json"
CONTENT = "dev.sigstore.bundle.content"
PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"
UNSIGNED_PREDICATE_TYPE = "in-toto.io/predicate-type"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True)
class Attachment:
    """One thing that is attached now. `new`: it was not there before."""

    name: str
    descriptor: Descriptor
    new: bool


def attach_all(
    registry: Registry,
    image: Reference,
    subject: Descriptor,
    *,
    evidence: bytes,
    bill: bytes | None,
    origin: Origin,
    signer: Signer | None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Attachment]:
    """Attach everything to the manifest `subject`; the image's own signature comes last.

    Args:
        evidence: the very bytes of `evidence.json` in the image: their digest is signed and is a label of the image.
        bill: the bill of materials (`sbom.document`); None: none is attached.
        signer: None: provenance and benchmark are attached unsigned, and `verify` will say so.

    Raises:
        EvidenceError: the evidence is not valid.
        RegistryError: the registry refused, or did not answer in time.
        SettingsError, VerificationError: the signature could not be made (keyless).
    """
    record = parsed(evidence)
    desk = _Desk(registry, image, subject, record.created, progress)
    byproducts = {"evidence.json": Blob.of(evidence, EVIDENCE).descriptor()}
    found = [desk.attach("evidence.json", EVIDENCE, evidence)]
    if bill is not None:
        byproducts["sbom.cdx.json"] = Blob.of(bill, sbom.MEDIA_TYPE).descriptor()
        found.append(desk.attach("sbom.cdx.json", sbom.MEDIA_TYPE, bill))
    said = [
        ("provenance", provenance.PROVENANCE, provenance.provenance(record, origin, byproducts)),
        ("benchmark", provenance.BENCHMARK, provenance.benchmark(record, byproducts["evidence.json"])),
    ]
    for name, kind, predicate in said:
        statement = provenance.statement(image, subject.digest, kind, predicate)
        found.append(desk.sign(name, kind, statement, signer))
    if signer is not None:
        statement = provenance.image_signature(image, subject.digest)
        found.append(desk.sign("signature", signing.IMAGE_SIGNATURE, statement, signer))
    return found


def parsed(evidence: bytes) -> Evidence:
    """Evidence from its bytes.

    Raises:
        EvidenceError: they are not valid against the schema.
    """
    try:
        return Evidence.model_validate_json(evidence)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:200] or "the whole file"
        raise EvidenceError(f"The image's evidence is not valid: `{place}`: {first['msg'][:300]}.") from None


@dataclass(frozen=True)
class _Desk:
    """Attaches to one manifest."""

    registry: Registry
    image: Reference
    subject: Descriptor
    created: str
    progress: Callable[[str], None]

    def attach(self, name: str, media_type: str, content: bytes, **annotations: str) -> Attachment:
        """One artifact with one layer; the same again has the same digest and is there already."""
        present = {one.digest for one in self.registry.referrers(self.image.repository, self.subject.digest)}
        titled = {TITLE: name, CREATED: self.created, **annotations}
        blob = Blob.of(content, media_type)
        attached = self.registry.attach(self.image.repository, self.subject, media_type, [blob], titled)
        self.progress(f"attached {name}")
        return Attachment(name, attached, attached.digest not in present)

    def sign(self, name: str, kind: str, statement: bytes, signer: Signer | None) -> Attachment:
        """A statement, as a bundle if there is somebody to sign it. A signature has chance in it: one by the same
        signer over the same bytes is looked for first."""
        if signer is None:
            return self.attach(f"{name}.intoto.json", signing.STATEMENT, statement, **{UNSIGNED_PREDICATE_TYPE: kind})
        if (present := self._made_before(kind, statement, signer)) is not None:
            self.progress(f"{name} is signed already")
            return Attachment(f"{name}.sigstore.json", present, False)
        bundle = signer.sign(statement)
        annotations = {CONTENT: "dsse-envelope", PREDICATE_TYPE: kind}
        return self.attach(f"{name}.sigstore.json", signing.BUNDLE, bundle, **annotations)

    def _made_before(self, kind: str, statement: bytes, signer: Signer) -> Descriptor | None:
        for one in self.registry.referrers(self.image.repository, self.subject.digest, signing.BUNDLE):
            if one.annotations.get(PREDICATE_TYPE) != kind:
                continue
            try:
                bundle = content(self.registry, self.image.repository, one, limit=signing.MAX_BUNDLE_BYTES)
                if signing.read(bundle).statement == statement and signer.made(bundle):
                    return one
            except (RegistryError, VerificationError):
                continue  # somebody's broken artifact: it does not keep us from signing
        return None


def content(registry: Registry, repository: str, artifact: Descriptor, *, limit: int) -> bytes:
    """The only layer of an attached artifact, checked against its digest.

    Raises:
        RegistryError: it is gone, has other than one layer, or is larger than `limit` bytes.
    """
    manifest = registry.manifest(repository, artifact.digest)
    if manifest is None:
        raise RegistryError(f"The attached artifact {artifact.digest} is not there any more.")
    layers = manifest.listed("layers")
    if len(layers) != 1 or layers[0].size > limit:
        raise RegistryError(f"The attached artifact {artifact.digest} has not one layer of at most {limit} bytes.")
    return registry.blob_bytes(repository, layers[0].digest, limit)
