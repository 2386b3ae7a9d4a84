"""What a runtime base is built from: a Dockerfile, a list of libraries and our own code, as one deterministic tar.

The recipe's digest names the base: the same recipe is built once and found again, by whoever publishes next.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

import trt_action
from trt_action.errors import SettingsError, StorageError
from trt_action.inputs import open_regular, quote
from trt_action.publish.reference import Reference
from trt_action.publish.variants import Variant

OURS = ".trt-action"
"""Folder of the build context that holds what we bring."""
DOCKERFILE = f"{OURS}/Dockerfile"
MAX_DOCKERFILE_BYTES = 60_000
"""The engine refuses a line of more than 65,535 bytes."""
MAX_CONTEXT_BYTES = 2_000_000_000

SERVED = (
    "__init__.py",
    "__main__.py",
    "arrays.py",
    "child.py",
    "cli.py",
    "console.py",
    "errors.py",
    "files.py",
    "inputs.py",
    "interruption.py",
    "process.py",
    "commands",
    "engine",
    "serve",
    "settings/__init__.py",
    "settings/option.py",
    "settings/*options.py",
    "settings/units.py",
    "settings/values.py",
)
"""What of our own code the server needs; everything else of it stays out of the image."""

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Recipe:
    """How a runtime base is made. `digest` covers everything that decides it."""

    variant: str
    base: Reference
    tar: bytes = field(repr=False)
    dockerfile: str = field(repr=False)
    digest: str

    @property
    def tag(self) -> str:
        """Under which it lies beside the images that are built on it."""
        return f"runtime-{self.variant}-{self.digest.removeprefix('sha256:')[:12]}"


def recipe(variant: Variant, base: Reference, requirements: Sequence[str], dockerfile: Path | None = None) -> Recipe:
    """The context and its digest.

    Args:
        base: what the Dockerfile begins with; with its digest where that is known, so that a newer base of the same
            name makes a new recipe.
        dockerfile: the user's own, plain or (`.j2`) extending one of ours; its folder becomes the context.

    Raises:
        SettingsError: the Dockerfile is no file, too long or no template.
        StorageError: something cannot be read.
    """
    own = _read(dockerfile) if dockerfile else None
    text = own if own is not None and dockerfile and dockerfile.suffix != ".j2" else _rendered(variant, base, own)
    files: dict[str, bytes | Path] = dict(_users(dockerfile)) if dockerfile else {}
    files[DOCKERFILE] = text.encode()
    if variant.libraries or dockerfile:
        files |= _ours(requirements)
    tar = _tar(files)
    named = f"{variant.name}\n{base}\n".encode()
    digest = f"sha256:{hashlib.sha256(named + tar).hexdigest()}"
    return Recipe(variant.name, base, tar, text, digest)


def _rendered(variant: Variant, base: Reference, own: str | None) -> str:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # every value is one of ours, or a reference that was parsed
    )
    values = {"base": str(base), "variant": variant.name, "gpu": variant.gpu, "module": variant.module}
    try:
        name = f"{variant.name}.Dockerfile.j2"
        template = environment.get_template(name) if own is None else environment.from_string(own)
        return template.render(values)
    except jinja2.TemplateError as error:
        raise SettingsError(
            f"The template `dockerfile` cannot be used: {str(error)[:300]}.",
            why=f"Line {error.lineno}." if isinstance(error, jinja2.TemplateSyntaxError) else "",
            fix='Begin it with `{% extends "' + variant.name + '.Dockerfile.j2" %}` and replace its blocks.',
        ) from None


def _read(dockerfile: Path) -> str:
    with open_regular(dockerfile, noun="Dockerfile", wrong=SettingsError) as file:
        content = file.read(MAX_DOCKERFILE_BYTES + 1)
    if len(content) > MAX_DOCKERFILE_BYTES:
        raise SettingsError(f"The Dockerfile {quote(dockerfile)} has more than {MAX_DOCKERFILE_BYTES} bytes.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"The Dockerfile {quote(dockerfile)} is no UTF-8.") from None


def _ours(requirements: Sequence[str]) -> dict[str, bytes | Path]:
    package = Path(trt_action.__file__).parent
    found: dict[str, bytes | Path] = {
        f"{OURS}/requirements.txt": "".join(f"{line}\n" for line in requirements).encode(),
        f"{OURS}/slim.py": _TEMPLATES / "slim.py",
    }
    for path in (path for name in SERVED for path in sorted(package.glob(name))):
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found[f"{OURS}/package/trt_action/{source.relative_to(package)}"] = source
    return found


def _users(dockerfile: Path) -> Mapping[str, Path]:
    """The folder of the user's Dockerfile, without what `.dockerignore` names."""
    from docker.utils.build import exclude_paths

    root = dockerfile.parent
    ignore = root / ".dockerignore"
    lines = ignore.read_text(errors="replace").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = exclude_paths(str(root), [*patterns, ".git", OURS])
    found = {name: root / name for name in sorted(names) if (root / name).is_file() and not (root / name).is_symlink()}
    if (size := sum(path.stat().st_size for path in found.values())) > MAX_CONTEXT_BYTES:
        raise SettingsError(
            f"The build context {quote(root)} has {size / 1e9:.1f} GB.",
            fix="Put the Dockerfile into a folder of its own, or name what it does not need in `.dockerignore`.",
        )
    return found


def _tar(files: Mapping[str, bytes | Path]) -> bytes:
    """Names sorted, no times and no owners: the same files give the same bytes."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            content = files[name]
            info = tarfile.TarInfo(name)
            try:
                data = content if isinstance(content, bytes) else content.read_bytes()
                mode = 0 if isinstance(content, bytes) else content.stat().st_mode
            except OSError as error:
                raise StorageError(f"{quote(content)} cannot be read: {os.strerror(error.errno or 0)}.") from None
            info.size, info.mode = len(data), 0o755 if mode & 0o100 else 0o644
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()
