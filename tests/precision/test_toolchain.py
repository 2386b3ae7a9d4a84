"""Which toolchain is taken, and what is said where it is missing. Interpreters are real programs, none has ModelOpt."""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest

from trt_action.errors import BackendUnavailableError, PrecisionError, SettingsError
from trt_action.precision import Recipe, choose, modelopt

ANSWER = '{"versions": {"nvidia-modelopt": "0.47.0", "onnx": "1.21.0"}, "missing": [], "python": "3.12.1"}'


def interpreter(folder: Path, answer: str = ANSWER) -> Path:
    """A program that takes the place of `python -s script FD FD` and gives one answer to any request."""
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(f"""
            import os, sys
            os.fdopen(int(sys.argv[-2])).readline()
            os.write(int(sys.argv[-1]), {answer + chr(10)!r}.encode())
        """)
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without ModelOpt."""
    if os.access("/opt/modelopt/bin/python", os.X_OK):
        pytest.skip("this host has ModelOpt in /opt/modelopt")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


METHODS = ["minmax", "percentile", "entropy"]
LIGHT, VENDOR, REFUSED, MISSING = "light", "ModelOpt", "SettingsError", "BackendUnavailableError"
CASES = [
    # precision, method, toolchain: without ModelOpt, with it
    ("fp32", "minmax", "modelopt", LIGHT, LIGHT),
    ("tf32", "minmax", "auto", LIGHT, LIGHT),
    ("fp16", "minmax", "auto", LIGHT, LIGHT),
    ("fp16", "entropy", "modelopt", MISSING, VENDOR),
    ("bf16", "minmax", "onnxruntime", LIGHT, LIGHT),
    ("int8", "minmax", "auto", LIGHT, VENDOR),
    ("int8", "percentile", "auto", LIGHT, LIGHT),
    ("int8", "entropy", "auto", MISSING, VENDOR),
    ("int8", "minmax", "onnxruntime", LIGHT, LIGHT),
    ("int8", "entropy", "onnxruntime", REFUSED, REFUSED),
    ("int8", "percentile", "modelopt", REFUSED, REFUSED),
    ("fp8", "minmax", "auto", LIGHT, VENDOR),
    ("fp8", "minmax", "modelopt", MISSING, VENDOR),
    ("int4", "minmax", "auto", MISSING, VENDOR),
    ("int4", "percentile", "auto", MISSING, VENDOR),
    ("int4", "minmax", "onnxruntime", REFUSED, REFUSED),
]


def chosen(recipe: Recipe, toolchain: str) -> str:
    try:
        found = choose(recipe, toolchain, None)
    except (SettingsError, BackendUnavailableError) as error:
        return type(error).__name__ if error.fix else "an error without a next step"
    assert dataclasses.replace(found, modelopt=None) == recipe
    return LIGHT if found.modelopt is None else VENDOR


@pytest.mark.parametrize(("name", "method", "toolchain", "without", "with_it"), CASES)
def test_who_does_it(home: Path, name: str, method: str, toolchain: str, without: str, with_it: str) -> None:
    recipe = Recipe(name, calibration_method=method)  # type: ignore[arg-type]
    assert chosen(recipe, toolchain) == without
    interpreter(home / modelopt.VENV)
    assert chosen(recipe, toolchain) == with_it


def test_what_is_missing_says_what_to_type(home: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="`precision: int4` needs ModelOpt") as caught:
        choose(Recipe("int4"), "auto", None)
    assert f"{home}/trt-action-modelopt/bin/pip install 'nvidia-modelopt[onnx]'" in caught.value.fix
    assert "/opt/modelopt/bin/python" in caught.value.why


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"versions": {"onnx": "1"}, "missing": ["modelopt"], "python": "3.12.1"}', "lacks modelopt"),
        ('{"versions": {}, "missing": [], "python": "3.12.1"}', "lacks nvidia-modelopt"),
        (None, "does not work as a Python interpreter"),
    ],
)
def test_a_named_interpreter_that_cannot(home: Path, answer: str | None, words: str) -> None:
    python = interpreter(home / "named", answer) if answer else Path("/bin/true")
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        choose(Recipe("int8"), "auto", python)
    assert str(python) in caught.value.what
    with pytest.raises(BackendUnavailableError, match="does not work"):
        choose(Recipe("int8"), "modelopt", home / "not-there")


def test_this_interpreter_lacks_modelopt_and_its_script_says_so(home: Path) -> None:
    """The real script in a real environment; nothing of this package is imported there."""
    with pytest.raises(BackendUnavailableError, match="lacks modelopt") as caught:
        modelopt.find(Path(sys.executable))
    assert caught.value.fix == f"Run `{sys.executable} -m pip install 'nvidia-modelopt[onnx]'`."


def test_a_broken_environment_that_nobody_named_is_passed_over(home: Path) -> None:
    interpreter(home / modelopt.VENV, '{"versions": {}, "missing": ["modelopt"], "python": "3"}')
    assert choose(Recipe("int8"), "auto", None).modelopt is None


def test_the_toolchain_is_part_of_the_recipe(home: Path) -> None:
    light = choose(Recipe("int8"), "auto", None)
    vendor = choose(Recipe("int8"), "auto", interpreter(home / "a"))
    newer = choose(Recipe("int8"), "auto", interpreter(home / "b", ANSWER.replace("0.47", "0.48")))
    elsewhere = choose(Recipe("int8"), "auto", interpreter(home / "c"))
    assert len({light.digest, vendor.digest, newer.digest}) == 3
    assert elsewhere.digest == vendor.digest  # where it lies makes no difference
    assert vendor.as_json()["toolchain"]["modelopt"]["nvidia-modelopt"] == "0.47.0"
    assert str(home) not in str(vendor.as_json())


def vendor(folder: Path, quantize: str) -> Path:
    """This interpreter with a `modelopt` in it whose `quantize` is these lines, and a compiler that setuptools gives up on."""
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent("""
            import runpy, sys, types

            def imp(name):
                raise SystemExit("error: command 'g++' failed: No such file or directory")

            def quantize(source, **options):
                import cppimport
                from pathlib import Path
            QUANTIZE

            for name in ("cppimport", "modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
                sys.modules[name] = types.ModuleType(name)
            sys.modules["cppimport"].imp = imp
            sys.modules["modelopt.onnx"].quantization = sys.modules["modelopt.onnx.quantization"]
            sys.modules["modelopt.onnx.quantization"].quantize = quantize
            sys.argv = sys.argv[2:]
            runpy.run_path(sys.argv[0], run_name="__main__")
        """).replace("QUANTIZE", textwrap.indent(textwrap.dedent(quantize), "    "))
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def convert(python: Path, folder: Path) -> Path:
    scratch = folder / "scratch"
    scratch.mkdir()
    modelopt.convert(
        modelopt.ModelOpt(python, ()),
        "int4",
        source=scratch / "source.onnx",
        target=scratch / "made.onnx",
        scratch=scratch,
        names=(),
        excluded=(),
        op_types=(),
        method="awq_clip",
        feeds={"feeds": "", "names": [], "rows": []},
        large=False,
        timeout=60,
        progress=None,
    )
    return scratch / "made.onnx"


def test_without_a_compiler_modelopt_goes_on_in_python(tmp_path: Path) -> None:
    python = vendor(
        tmp_path / "venv",
        """
        try:
            cppimport.imp("pack")
        except Exception as error:
            Path(options["output_path"]).write_text(str(error))
        """,
    )
    assert "g++" in convert(python, tmp_path).read_text()


def test_modelopt_runs_where_no_project_of_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it compiles with setuptools takes the `pyproject.toml` of the current folder for its own."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    python = vendor(tmp_path / "venv", 'Path("here").touch()')
    convert(python, tmp_path)
    assert (tmp_path / "scratch/here").exists()
    assert not list(project.iterdir())


def test_a_library_that_ends_the_process_is_an_error_with_its_words(tmp_path: Path) -> None:
    python = vendor(tmp_path / "venv", 'sys.exit("error: Multiple top-level packages discovered")')
    with pytest.raises(PrecisionError, match="ModelOpt failed") as caught:
        convert(python, tmp_path)
    assert "SystemExit: error: Multiple top-level packages" in caught.value.why
