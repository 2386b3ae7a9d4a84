"""Is an image what was measured, and who says so? Every link from the key to the engine's bytes is checked.

public key → signed benchmark → digest of the evidence → digest of the engine → bytes in the image's layer
                            ↘ digest of the image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_action.errors import EvidenceError, TrtActionError, VerificationError
from trt_action.evidence import Evidence
from trt_action.inputs import quote
from trt_action.publish import artifacts, attest, contents, labels, provenance, signing
from trt_action.publish.artifacts import Artifact
from trt_action.publish.oci import Fetched
from trt_action.publish.registry import Registry
from trt_action.publish.signing import PublicKey

MAX_CHILDREN = 100


@dataclass(frozen=True)
class Check:
    """One link of the chain, and what was found. `ok` None: not checked, since one before it failed."""

    name: str
    ok: bool | None
    found: str


@dataclass(frozen=True)
class Verified:
    """The checks of one image. `evidence` is there only if the key vouches for it."""

    digest: str
    checks: tuple[Check, ...]
    evidence: Evidence | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def verify(registry: Registry, repository: str, reference: str, key: PublicKey) -> list[Verified]:
    """Check the image behind a tag or digest; of an index, every image in it.

    Raises:
        VerificationError: there is no such image, or the index lists none or too many.
        RegistryError: the registry refused, or content is not what its digest says.
    """
    found = artifacts.resolve(registry, repository, reference)
    if not found.is_index:
        return [image(registry, repository, found, key)]
    children = [one for one in found.listed("manifests") if one.artifact_type is None]
    if not 0 < len(children) <= MAX_CHILDREN:
        raise VerificationError(f"The index {found.digest} lists {len(children)} images.")
    fetched = (artifacts.resolve(registry, repository, one.digest) for one in children)
    return [image(registry, repository, one, key) for one in fetched]


def image(registry: Registry, repository: str, manifest: Fetched, key: PublicKey) -> Verified:
    """Check one image. What fails is told, not raised."""
    chain = _Chain(registry, repository, manifest, key)
    evidence = chain.run()
    return Verified(manifest.digest, tuple(chain.checks), evidence if all(one.ok for one in chain.checks) else None)


def demand(verified: Verified, name: str) -> Evidence:
    """The evidence of an image that must be verified.

    Raises:
        VerificationError: a check failed.
    """
    failed = next((check for check in verified.checks if not check.ok), None)
    if failed is not None or verified.evidence is None:
        what = f"{failed.name}: {failed.found}" if failed else "it has no evidence"
        raise VerificationError(f"{quote(name)} ({verified.digest}) is not verified. {what[:1].upper()}{what[1:]}.")
    return verified.evidence


@dataclass
class _Chain:
    registry: Registry
    repository: str
    manifest: Fetched
    key: PublicKey
    checks: list[Check] = field(default_factory=list)
    signed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Statements by this key about this digest, by predicate type."""
    evidence_digest: str = ""

    def run(self) -> Evidence | None:
        """Every check in turn; after one that failed, the rest is told to be unchecked."""
        evidence: Evidence | None = None
        attached = artifacts.read(
            self.registry, self.repository, self.manifest.digest, ("evidence", "sbom", "signed", "unsigned")
        )
        self.checks.append(Check("digest", True, self.manifest.digest))

        def signature() -> str:
            return self._signature(attached)

        def measured() -> str:
            nonlocal evidence
            evidence, found = self._evidence(attached)
            return found

        steps: list[tuple[str, Callable[[], str]]] = [
            ("signature", signature),
            ("evidence", measured),
            ("engine", lambda: self._engine(evidence)),
            ("provenance", lambda: self._provenance(attached)),
        ]
        for name, step in steps:
            self._check(name, step)
        return evidence

    def _check(self, name: str, step: Callable[[], str]) -> None:
        if not all(check.ok for check in self.checks):
            self.checks.append(Check(name, None, "not checked"))
            return
        try:
            self.checks.append(Check(name, True, step()))
        except (VerificationError, EvidenceError) as error:
            self.checks.append(Check(name, False, _words(error)))

    def _signature(self, attached: list[Artifact]) -> str:
        """A bundle by this key over this digest. Bundles by others are no failure: several may sign."""
        others = 0
        for one in attached:
            if one.kind != "signed" or one.content is None:
                continue
            try:
                statement = signing.verify(one.content, self.key)
            except VerificationError:
                others += 1
                continue
            if self.manifest.digest not in artifacts.subjects(statement):
                others += 1
                continue
            self.signed.setdefault(str(statement.get("predicateType")), []).append(statement)
        if not self.signed:
            unsigned = any(one.kind == "unsigned" for one in attached)
            raise VerificationError(
                f"{others} signatures are attached, and none is by this key over this digest"
                if others
                else "the image is not signed"
                + (" (its provenance is attached without a signature)" if unsigned else "")
            )
        names = sorted(artifacts.NAMES.get(kind, kind) for kind in self.signed)
        return f"{', '.join(quote(name) for name in names)} by key {self.key.fingerprint}"

    def _evidence(self, attached: list[Artifact]) -> tuple[Evidence, str]:
        """The attached evidence whose digest a signed benchmark names."""
        vouched = {digest for one in self._predicates(provenance.BENCHMARK) if (digest := _named(one.get("evidence")))}
        if not vouched:
            raise VerificationError("no benchmark is signed by this key, so nothing vouches for the evidence")
        held = {one.digest: one.content for one in attached if one.kind == "evidence" and one.content is not None}
        digest = next((one for one in sorted(vouched) if one in held), None)
        if digest is None:
            raise VerificationError(f"the signed evidence {min(vouched)} is not attached")
        evidence = attest.parsed(held[digest])
        said = artifacts.labels(self.registry, self.repository, self.manifest).get(labels.EVIDENCE)
        if said is not None and said != digest:
            raise VerificationError(f"the image's label names other evidence ({quote(said)}) than is signed ({digest})")
        self.evidence_digest = digest
        return evidence, digest

    def _engine(self, evidence: Evidence | None) -> str:
        """The engine in the layer must be the one that the evidence measured."""
        if evidence is None or evidence.head is None:
            raise VerificationError("the evidence speaks of no engine")
        found = contents.engine(self.registry, self.repository, self.manifest)
        measured = evidence.head.engine.sha256
        if found.sha256 != measured:
            raise VerificationError(
                f"the engine in {quote(found.folder)} is {found.sha256}, and {measured} is what was measured"
            )
        if found.evidence_digest not in (None, self.evidence_digest):
            raise VerificationError(f"the evidence beside the engine is {found.evidence_digest}, not what is signed")
        return f"{measured} ({found.bytes} bytes in {quote(found.folder)})"

    def _provenance(self, attached: list[Artifact]) -> str:
        """Signed, and what it calls its byproducts is attached unchanged."""
        signed = self._predicates(provenance.PROVENANCE)
        if not signed:
            raise VerificationError("no provenance is signed by this key")
        held = {one.digest for one in attached if one.kind in ("evidence", "sbom") and one.content is not None}
        for predicate in signed:
            named = _byproducts(predicate)
            if all(digest in held for digest in named.values()):
                return f"signed, with {', '.join(quote(name) for name in sorted(named)) or 'no byproducts'}"
        missing = sorted(name for name, digest in named.items() if digest not in held)
        raise VerificationError(f"{quote(missing[0])} is not attached as it was when the provenance was signed")

    def _predicates(self, kind: str) -> list[Mapping[str, Any]]:
        found = (one.get("predicate") for one in self.signed.get(kind, []))
        return [one for one in found if isinstance(one, Mapping)]


def _named(pointer: object) -> str | None:
    """The SHA-256 in a `{"digest": {"sha256": …}}`."""
    digests = pointer.get("digest") if isinstance(pointer, Mapping) else None
    value = digests.get("sha256") if isinstance(digests, Mapping) else None
    return f"sha256:{value}" if isinstance(value, str) else None


def _byproducts(predicate: Mapping[str, Any]) -> dict[str, str]:
    details = predicate.get("runDetails")
    listed = details.get("byproducts") if isinstance(details, Mapping) else None
    found = {}
    for one in listed if isinstance(listed, list) else []:
        if (digest := _named(one)) is not None:
            found[str(one.get("name"))] = digest
    return found


def _words(error: TrtActionError) -> str:
    return error.what.removesuffix(".")
