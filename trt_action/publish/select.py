"""One name for the images of several GPUs: an OCI index, and the choice of the image that fits a GPU.

The index lists plain `linux/amd64` entries (a variant such as `sm_90` would break a plain pull), and tells in annotations
what each was measured on. The first entry is what a client gets that knows nothing of this: the one for the CPU, else the
one for the lowest compute capability. Every image keeps a tag of its own, without which registries collect it as garbage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trt_action.errors import RegistryError, SettingsError, VerificationError
from trt_action.inputs import quote, quote_all
from trt_action.publish import artifacts, labels, oci
from trt_action.publish.oci import Descriptor, Fetched
from trt_action.publish.registry import Registry

TOLD = (
    labels.COMPUTE_CAPABILITY,
    labels.GPU,
    labels.BACKEND,
    labels.BACKEND_VERSION,
    labels.PRECISION,
    labels.MODEL,
    f"{labels.OCI}revision",
    f"{labels.OCI}url",
)
"""What an entry's annotations tell."""

SHARED = (labels.MODEL, f"{labels.OCI}revision", f"{labels.OCI}url")
"""What the index itself tells, if it is true of every entry: of which commit and run it is."""

ROUNDS = 20
"""How often a leg of a matrix writes the index anew, when others do so at the same time."""

UNKNOWN = (1_000, 0)
"""Fits no GPU and no host without one; last in an index, so that no plain pull gets it."""

TENSORRT = "tensorrt"
_CAPABILITY = re.compile(r"(\d{1,3})\.(\d)")


@dataclass(frozen=True)
class Entry:
    """One image of an index. `capability` is (0, 0) for one that was measured on a CPU, and UNKNOWN of what does not say:
    somebody else's entry, or a GPU without its number."""

    descriptor: Descriptor
    capability: tuple[int, int]
    gpu: str
    backend: str
    version: str
    precision: str
    model: str

    @classmethod
    def of(cls, descriptor: Descriptor) -> Entry:
        """Read it out of its annotations."""
        said = descriptor.annotations
        found = _CAPABILITY.fullmatch(said.get(labels.COMPUTE_CAPABILITY, ""))
        return cls(
            descriptor,
            (int(found[1]), int(found[2])) if found else UNKNOWN if _silent(said) else (0, 0),
            said.get(labels.GPU, ""),
            said.get(labels.BACKEND, ""),
            said.get(labels.BACKEND_VERSION, ""),
            said.get(labels.PRECISION, ""),
            said.get(labels.MODEL, ""),
        )

    @property
    def digest(self) -> str:
        return self.descriptor.digest

    def words(self) -> str:
        """For a person."""
        known = {(0, 0): "CPU", UNKNOWN: "unknown GPU"}
        where = known.get(self.capability, "compute capability {}.{}".format(*self.capability))
        return f"{where}, {self.backend} {self.version}, {self.precision}"


@dataclass(frozen=True)
class Need:
    """What is asked for. `capability` None: no GPU. An empty text asks for nothing."""

    capability: tuple[int, int] | None
    tensorrt: str = ""
    precision: str = ""
    model: str = ""
    cpu_will_do: bool = False


def capability(text: str) -> tuple[int, int]:
    """`9.0` or `sm_90` as numbers.

    Raises:
        SettingsError: it is neither.
    """
    if match := re.fullmatch(r"sm_?(\d{1,3})(\d)[af]?", text):
        return int(match[1]), int(match[2])
    found = _CAPABILITY.fullmatch(text)
    if found is None:
        raise SettingsError(f"{quote(text)} is no compute capability.", fix="Write it as `9.0` (or `sm_90`).")
    return int(found[1]), int(found[2])


def choose(entries: Sequence[Entry], need: Need) -> Entry:
    """The image that fits. An engine is never given to a GPU of another compute capability: a plan would not load there.

    1. Precision and model as asked, if asked.
    2. The same compute capability; of TensorRT's plans, if `tensorrt` is asked, those of exactly that version.
    3. None of those: the image for the CPU, only if `cpu_will_do`; it is also the one where there is no GPU.
    4. Several of those: the newest version of the backend; if precision or model still differ, it must be asked for.

    Raises:
        VerificationError: none fits.
        SettingsError: several fit equally.
    """
    asked = [one for one in entries if need.precision in ("", one.precision) and need.model in ("", one.model)]
    fitting = [one for one in asked if _fits(one, need)]
    if not fitting and need.cpu_will_do:
        fitting = [one for one in asked if one.capability == (0, 0)]
    if not fitting:
        raise VerificationError(
            f"No image fits {_asked(need)}.",
            why=f"There are: {quote_all(one.words() for one in entries)}." if entries else "The index is empty.",
            fix="Publish one for this GPU, or allow the one for the CPU (`--fallback cpu`).",
        )
    newest = max(_numbers(one.version) for one in fitting)
    best = [one for one in fitting if _numbers(one.version) == newest]
    if len({(one.precision, one.model, one.backend) for one in best}) > 1:
        raise SettingsError(
            f"Several images fit {_asked(need)}: {quote_all(f'{one.model}, {one.words()}' for one in best)}.",
            fix="Say which with `--precision` or `--model`.",
        )
    return best[0]


def entries(index: Fetched) -> list[Entry]:
    """The images of an index, in its order.

    Raises:
        VerificationError: it is no index.
    """
    if not index.is_index:
        raise VerificationError(
            f"{index.digest} is a single image, not an index.", fix="Name the index, or use the image as it is."
        )
    return [Entry.of(one) for one in index.listed("manifests") if one.artifact_type is None]


def publish_index(
    registry: Registry, repository: str, tag: str, *, wait: Callable[[int], None] = lambda _: None
) -> str:
    """Write the index `tag` over all images that are tagged `…-<tag>`. Returns its digest.

    Several legs of a matrix may do this at once, each after it has pushed and tagged its own image: each writes what it
    sees and looks again, until the index is what the tags say. The last one to write has seen everybody's tag.

    Args:
        wait: called with the number of the round before another one.

    Raises:
        VerificationError: there is no such image, they are of different commits, or `tag` is an image of another commit.
        RegistryError: the registry refused, or others rewrite the index again and again.
    """
    for attempt in range(ROUNDS):
        listed = _children(registry, repository, tag)
        present = registry.manifest(repository, tag)
        _check_place(registry, repository, tag, present, listed)
        body = oci.index(listed, annotations=_common(listed))
        if present is not None and present.body == body:
            return present.digest
        if attempt:
            wait(attempt)
        registry.put_manifest(repository, tag, body, oci.INDEX)
    raise RegistryError(
        f"The index {quote(tag)} of {quote(repository)} is rewritten by others again and again.",
        fix="Run it again when the other jobs have ended.",
    )


def _children(registry: Registry, repository: str, tag: str) -> list[Descriptor]:
    """What the index has to list, in its order."""
    found: dict[str, Descriptor] = {}
    for name in registry.tags(repository):
        if not name.endswith(f"-{tag}"):
            continue
        manifest = registry.manifest(repository, name)
        if manifest is None or manifest.is_index or manifest.digest in found:
            continue
        said = artifacts.labels(registry, repository, manifest)
        if labels.PRECISION not in said:
            continue  # not one of ours
        found[manifest.digest] = _entry(registry, repository, manifest, said)
    if not found:
        raise VerificationError(
            f"There is no image tagged `…-{tag}` in {quote(repository)}.",
            fix="Publish the images of the GPUs first; their tags are `<model>-<gpu>-<precision>-<commit>`.",
        )
    commits = {one.annotations.get(f"{labels.OCI}revision", "unknown") for one in found.values()}
    if len(commits) > 1:
        raise VerificationError(
            f"The images tagged `…-{tag}` are of different commits: {quote_all(sorted(commits))}.",
            why="One name for them would hide which one is pulled.",
            fix="Use the commit as the tag of the index.",
        )
    return sorted(found.values(), key=_order)


def _entry(registry: Registry, repository: str, manifest: Fetched, said: Mapping[str, str]) -> Descriptor:
    config = artifacts.config(registry, repository, manifest)
    platform = {"os": str(config.get("os") or "linux"), "architecture": str(config.get("architecture") or "amd64")}
    told = {key: said[key] for key in TOLD if said.get(key)}
    return Descriptor(manifest.media_type, manifest.digest, len(manifest.body), told, platform=platform)


def _order(descriptor: Descriptor) -> tuple[object, ...]:
    one = Entry.of(descriptor)
    return one.capability, one.model, one.precision, one.backend, _numbers(one.version), one.digest


def _common(listed: Sequence[Descriptor]) -> dict[str, str]:
    """What is true of every entry."""
    first, *others = (one.annotations for one in listed)
    shared = {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}
    return {key: value for key, value in shared.items() if key in SHARED}


def _check_place(
    registry: Registry, repository: str, tag: str, present: Fetched | None, listed: Sequence[Descriptor]
) -> None:
    """An image under the index's name is replaced only if it is one of those that the index lists."""
    if present is None or present.is_index or present.digest in {one.digest for one in listed}:
        return
    revision = artifacts.labels(registry, repository, present).get(f"{labels.OCI}revision")
    if revision is None or revision != listed[0].annotations.get(f"{labels.OCI}revision"):
        raise VerificationError(
            f"The tag {quote(tag)} is an image of another commit ({quote(revision or 'unknown')}).",
            fix="Choose another tag for the index.",
        )


def _fits(one: Entry, need: Need) -> bool:
    if need.capability is None:
        return one.capability == (0, 0)
    if one.capability != need.capability:
        return False
    return not need.tensorrt or one.backend != TENSORRT or _numbers(one.version)[:3] == _numbers(need.tensorrt)[:3]


def _silent(said: Mapping[str, str]) -> bool:
    """Whether an entry does not say what it was measured on. A stranger's entry is no image for the CPU."""
    return labels.PRECISION not in said or bool(said.get(labels.COMPUTE_CAPABILITY) or said.get(labels.GPU))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:4])


def _asked(need: Need) -> str:
    where = "a host without GPU" if need.capability is None else "compute capability {}.{}".format(*need.capability)
    more = [f"TensorRT {need.tensorrt}" if need.tensorrt else "", need.precision, need.model]
    return ", ".join(part for part in (where, *more) if part)
