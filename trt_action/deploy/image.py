"""Which image is meant, by digest, and what is known of it: from its registry, where that can be asked."""

from __future__ import annotations

from collections.abc import Callable

from trt_action.deploy.facts import Facts
from trt_action.errors import DeployError, RegistryError, SettingsError, VerificationError
from trt_action.inputs import quote
from trt_action.publish import inspect, labels, verify
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry
from trt_action.publish.signing import PublicKey


def resolve(registry: Registry, image: Reference) -> Reference:
    """The image by its digest alone; a tag is looked up.

    Raises:
        SettingsError: neither a digest nor a tag that means one image.
        VerificationError: there is no such tag.
    """
    if image.digest:
        return image.at(image.digest)
    if image.tag in (None, "latest"):
        raise SettingsError(
            f"{quote(image)} names no certain image: `latest` is another one tomorrow.",
            fix="Give the digest that `trt-action publish` printed (`…@sha256:…`), or a tag that stays.",
        )
    digest = registry.digest(image.repository, str(image.tag))
    if digest is None:
        raise VerificationError(f"There is no image {quote(image)}.", fix="Check the name; `trt-action inspect` looks.")
    return image.at(digest)


def confirm(registry: Registry, asked: Reference, resolved: Reference) -> None:
    """Look again, right before the cluster is changed: a tag that moves meanwhile is refused.

    Raises:
        DeployError: it has moved, or is gone.
    """
    if asked.digest or not asked.tag:
        return
    now = registry.digest(asked.repository, asked.tag)
    if now != resolved.digest:
        raise DeployError(
            f"The tag {quote(asked)} has moved from {resolved.digest} to {now or 'nothing'} while we looked at it.",
            why="It is not certain which image is meant; nothing was changed.",
            fix="Deploy by digest.",
        )


def known(registry: Registry, image: Reference, key: PublicKey | None, log: Callable[[str], None]) -> Facts:
    """Commit, evidence, outcome and verdict of an image. With a key, only what its owner has signed may pass.

    Raises:
        VerificationError: there is no such image, or it is not verified.
        DeployError: its evidence says that its run was red.
        RegistryError: the registry does not answer, and a key asks for more than trust.
    """
    digest = str(image.digest)
    if key is not None:
        for one in verify.verify(registry, image.repository, digest, key):
            verify.demand(one, str(image))
    try:
        found = inspect.inspect(registry, image.repository, digest)
    except RegistryError as error:
        if key is not None:
            raise
        log(f"Commit and evidence are not known, since the registry was not readable: {error.what}")
        return Facts(image=str(image), digest=digest)
    said, evidence = found.labels, found.evidence
    outcome = evidence.outcome if evidence else said.get(labels.OUTCOME, "")
    if outcome == "failed":
        raise DeployError(
            f"{quote(image)} was measured, and its run is red: it is not deployed.",
            fix="See its comment or report (`trt-action inspect`); deploy an image whose gates hold.",
        )
    return Facts(
        image=str(image),
        digest=digest,
        commit=(evidence.source.commit if evidence else None) or said.get(f"{labels.OCI}revision", ""),
        evidence=found.evidence_digest or said.get(labels.EVIDENCE, ""),
        outcome=outcome,
        verdict=evidence.comparison.verdict if evidence and evidence.comparison else "",
    )
