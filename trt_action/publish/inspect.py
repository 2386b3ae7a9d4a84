"""What is this image? Commit, precision, GPU, numbers, layers, attachments: as the image itself tells. `verify` checks it.

Everything shown was written by whoever may write to the registry: evidence is held against its schema, other texts are
cut, and control characters never reach a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trt_action.console import clean
from trt_action.errors import EvidenceError, VerificationError
from trt_action.evidence import Evidence
from trt_action.publish import artifacts, attest, keyless, labels, signing
from trt_action.publish.artifacts import Artifact
from trt_action.publish.oci import Fetched
from trt_action.publish.registry import Registry

SHOWN = 100
"""Characters of one foreign text in the table."""

MAX_LABELS = 200
MAX_TEXT = 2_000
"""Characters of one foreign text in JSON."""


@dataclass(frozen=True)
class Layer:
    digest: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Attached:
    """`what`: evidence, sbom, provenance, benchmark, signature, or the artifact's type. `by`: who signed, as it claims."""

    what: str
    digest: str
    size: int
    by: str = ""
    note: str = ""


@dataclass(frozen=True)
class Inspection:
    """One image or index. `evidence` is None where none is attached, or `evidence_note` says why it cannot be shown."""

    reference: str
    digest: str
    media_type: str
    labels: Mapping[str, str]
    layers: tuple[Layer, ...]
    attached: tuple[Attached, ...]
    created: str = ""
    user: str = ""
    evidence: Evidence | None = field(default=None, repr=False)
    evidence_digest: str = ""
    evidence_note: str = ""
    images: tuple[Inspection, ...] = ()
    """Of an index: what it lists."""

    @property
    def size(self) -> int:
        """Bytes of all layers, as they are pulled."""
        return sum(layer.size for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """For other programs; the evidence as it is attached, without its long series."""
        from trt_action.engine.kept import without_series

        evidence = without_series(self.evidence).model_dump(mode="json") if self.evidence else None
        return {
            "reference": self.reference,
            "digest": self.digest,
            "mediaType": self.media_type,
            "size": self.size,
            "created": self.created,
            "user": self.user,
            "labels": dict(self.labels),
            "layers": [asdict(layer) for layer in self.layers],
            "attached": [asdict(one) for one in self.attached],
            "evidence": evidence,
            "evidenceDigest": self.evidence_digest,
            "evidenceNote": self.evidence_note,
            "images": [one.as_json() for one in self.images],
        }


def inspect(registry: Registry, repository: str, reference: str) -> Inspection:
    """Look at what a tag or digest names; at every image of an index.

    Raises:
        VerificationError: there is nothing.
        RegistryError: the registry refused, or content is not what its digest says.
    """
    return _one(registry, repository, reference, artifacts.resolve(registry, repository, reference), deep=True)


def _one(registry: Registry, repository: str, reference: str, manifest: Fetched, *, deep: bool) -> Inspection:
    attached = artifacts.read(registry, repository, manifest.digest)
    evidence, digest, note = _evidence(attached)
    said = _cut(artifacts.labels(registry, repository, manifest))
    images: list[Inspection] = []
    if manifest.is_index and deep:
        for child in manifest.listed("manifests")[:MAX_LABELS]:
            found = artifacts.resolve(registry, repository, child.digest)
            images.append(_one(registry, repository, child.digest, found, deep=False))
    created, user = "", ""
    layers: list[Layer] = []
    if not manifest.is_index:
        config = artifacts.config(registry, repository, manifest)
        created, user = (
            str(config.get("created", ""))[:MAX_TEXT],
            str(config.get("config", {}).get("User", ""))[:MAX_TEXT],
        )
        layers = [Layer(one.digest, one.size, one.media_type[:MAX_TEXT]) for one in manifest.listed("layers")]
    return Inspection(
        reference=reference,
        digest=manifest.digest,
        media_type=manifest.media_type,
        labels=said,
        layers=tuple(layers),
        attached=tuple(_attached(one) for one in attached),
        created=created,
        user=user,
        evidence=evidence,
        evidence_digest=digest,
        evidence_note=note,
        images=tuple(images),
    )


def _evidence(attached: list[Artifact]) -> tuple[Evidence | None, str, str]:
    """The only valid evidence; of several, none: which of them is meant, a signature says."""
    found: list[tuple[Evidence, str]] = []
    note = ""
    for one in attached:
        if one.kind != "evidence":
            continue
        if one.content is None:
            note = one.note
            continue
        try:
            found.append((attest.parsed(one.content), one.digest))
        except EvidenceError as error:
            note = error.what
    if len(found) > 1:
        return None, "", f"{len(found)} different evidences are attached; `trt-action verify` finds the signed one."
    return (*found[0], note) if found else (None, "", note or "no evidence is attached")


def _attached(one: Artifact) -> Attached:
    what, by = one.kind, ""
    if one.kind in ("signed", "unsigned") and one.content is not None:
        try:
            kind, by = _statement(one)
        except VerificationError as error:
            return Attached(what, one.descriptor.digest, one.descriptor.size, note=error.what)
        return Attached(artifacts.NAMES.get(kind, kind)[:MAX_TEXT], one.descriptor.digest, len(one.content), by)
    if one.kind == "other":
        return Attached(
            (one.descriptor.artifact_type or "unknown")[:MAX_TEXT], one.descriptor.digest, one.descriptor.size
        )
    size = one.descriptor.size if one.content is None else len(one.content)
    return Attached(what, one.descriptor.digest, size, note=one.note)


def _statement(one: Artifact) -> tuple[str, str]:
    """(predicate type, who signed as the bundle claims)."""
    content = one.content or b""
    if one.kind == "unsigned":
        data = signing.Envelope(content, b"", {}).parsed()
        return str(data.get("predicateType", "")), "nobody (unsigned)"
    envelope = signing.read(content)
    kind = str(envelope.parsed().get("predicateType", ""))
    if named := keyless.signed_by(envelope.material):
        return (
            kind,
            f"{named.get('subject', '')[:MAX_TEXT]} (certificate, issuer {named.get('issuer', 'unknown')[:MAX_TEXT]})",
        )
    hint = envelope.material.get("publicKey")
    shown = hint.get("hint") if isinstance(hint, Mapping) else None
    return kind, f"key with hint {str(shown)[:SHOWN]}" if shown else "unknown"


def _cut(said: Mapping[str, str]) -> dict[str, str]:
    return {key[:MAX_TEXT]: value[:MAX_TEXT] for key, value in sorted(said.items())[:MAX_LABELS]}


# The table


def table(one: Inspection) -> str:
    """For a terminal. Plain text: no control character of anybody's gets through."""
    return "\n".join(_lines(one))


def _lines(one: Inspection, indent: str = "") -> Iterator[str]:
    def row(name: str, value: object) -> str:
        return f"{indent}{name:<14} {short(str(value))}" if str(value) else ""

    rows = [row("image", one.reference), row("digest", one.digest), *(row(*pair) for pair in _facts(one))]
    yield from (line for line in rows if line)
    if one.layers:
        yield f"{indent}layers         {len(one.layers)}, {megabytes(one.size)} as pulled"
        yield from (f"{indent}  {layer.digest}  {megabytes(layer.size):>10}" for layer in one.layers)
    yield f"{indent}attached       {len(one.attached) or 'nothing'}"
    for attached in one.attached:
        by = f"  by {short(attached.by)}" if attached.by else ""
        note = f"  ({short(attached.note)})" if attached.note else ""
        yield f"{indent}  {short(attached.what):<12} {attached.digest}  {megabytes(attached.size):>10}{by}{note}"
    for child in one.images:
        yield ""
        yield from _lines(child, indent + "  ")


def _facts(one: Inspection) -> Iterator[tuple[str, str]]:
    """From the evidence where there is one, else what the labels say."""
    said = one.labels
    evidence = one.evidence
    if evidence is None:
        images = len(one.images)
        listed = f"of {images} image{'s' if images != 1 else ''}: what each tells is below"
        yield ("index", listed) if images else ("evidence", one.evidence_note)
        for name, key in _FROM_LABELS.items():
            yield name, f"{said[key]}  (label)" if said.get(key) else ""
        return
    source, head = evidence.source, evidence.head
    yield "evidence", one.evidence_digest
    yield "outcome", evidence.outcome
    yield "commit", (source.commit or "unknown") + ("  (with uncommitted changes)" if source.dirty else "")
    yield "repository", source.repository or ""
    yield "run", source.run_url or ""
    yield "measured", evidence.created
    yield "model", f"{evidence.model.name}  sha256:{evidence.model.sha256}" if evidence.model else ""
    if head is not None:
        proof = head.engine.achieved_precision
        yield "precision", f"{head.engine.precision}  ({proof.weight_share:.1%} of the weights)"
        yield "backend", f"{head.engine.backend} {head.engine.backend_version}"
        yield "engine", f"sha256:{head.engine.sha256}  {megabytes(head.engine.bytes)}"
        if latency := head.latency:
            yield "latency", f"p50 {latency.p50_ms:.4g} ms, p90 {latency.p90_ms:.4g} ms, p99 {latency.p99_ms:.4g} ms"
    here = labels.gpu(evidence)
    yield "GPU", f"{here.name} {here.compute_capability}".strip() if here else "none: measured on a CPU"
    if evidence.comparison is not None:
        ratio = evidence.comparison.p50_ratio
        shown = f", p50 {ratio.estimate:.3f} × base [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else ""
        yield "verdict", f"{evidence.comparison.verdict}{shown}"
    if (task := evidence.accuracy.task) is not None:
        yield "accuracy", f"{task.metric} {task.head.estimate:.4g} on {task.samples} samples"


_FROM_LABELS = {
    "commit": f"{labels.OCI}revision",
    "model": labels.MODEL,
    "precision": labels.PRECISION,
    "backend": labels.BACKEND,
    "GPU": labels.GPU,
}


def short(text: str) -> str:
    """One printable line of at most `SHOWN` characters, the end cut."""
    line = clean(text)
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


def megabytes(size: int) -> str:
    """Bytes for people: kB and MB of 1,000."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
