from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action import model as models
from trt_action.errors import ModelError, StorageError

Build = Callable[..., onnx.ModelProto]
Save = Callable[..., Path]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def refusal(path: Path, kind: type[Exception] = ModelError, **more: Any) -> str:
    """All words of the error, which must have what and fix."""
    with pytest.raises(kind) as caught:
        models.load(path, label=path.name, **more)
    error = caught.value
    assert isinstance(error, ModelError | StorageError)
    assert type(error) is kind
    assert error.what
    assert error.fix
    return f"{error.what}\n{error.why}\n{error.fix}"


def test_describes_a_model(build: Build, save: Save) -> None:
    path = save(build())
    model = models.load(path, label="head", name=None, shapes=None, batch_size=2)
    assert model.path == path
    assert model.notes == ()
    assert models.load(path, label="head").notes == ("Assumed batch = 1 for input `x` `[N, 4]`.",)
    info = model.info
    assert (info.name, info.path, info.opset, info.parameters) == ("model", "head", 21, 12)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.bytes == path.stat().st_size
    assert info.flops == 2 * 2 * 4 * 3
    assert [(t.name, t.dtype, t.shape) for t in info.inputs] == [("x", "float32", ["N", 4])]
    assert [t.name for t in info.outputs] == ["y"]
    assert info.shapes["x"].opt == [2, 4]


@pytest.mark.parametrize("values", [None, [3, 4]])
def test_who_holds_sizes_is_said_where_their_values_are_not_given(save: Save, values: list[int] | None) -> None:
    """Through a cast, and in a branch; token ids are indices, not sizes."""
    x, y = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [12]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"]),
    )
    branch = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    size, ids = (helper.make_tensor_value_info(name, TensorProto.INT32, [2]) for name in ("size", "ids"))
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    inner = helper.make_graph([helper.make_node("Reshape", ["x", "wide"], ["b"])], "inner", [], [branch])
    nodes = [
        helper.make_node("Cast", ["size"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["x", "ids"], ["some"]),
        helper.make_node("If", ["yes"], ["shaped"], then_branch=inner, else_branch=inner),
        helper.make_node("ReduceSum", ["shaped"], ["sum"]),
        helper.make_node("Add", ["sum", "some"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x, size, ids, yes], [y])
    path = save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    said = models.load(path, label="m", shapes={"size": {"values": values}} if values else None).notes
    assert [note for note in said if "holds sizes" in note] == [
        "Input `size` holds sizes (Reshape), and `shapes` gives no `values` of it: where data do not carry it, it is 0 or 1 "
        "(docs/tensorrt.md)."
    ] * (values is None)


def test_shapes_of_inputs_that_only_another_model_has_are_passed_over(build: Build, save: Save) -> None:
    path = save(build())
    shapes: dict[str, Any] = {"x": [3, 4], "size": {"values": [8, 8]}}
    info = models.load(path, label="base", shapes=shapes, elsewhere=["x", "size"]).info
    assert {name: shape.opt for name, shape in info.shapes.items()} == {"x": [3, 4]}
    assert "`shapes` names the input `size`" in refusal(path, ModelError, shapes=shapes, elsewhere=["x"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (bytes(5000), "full of zero bytes"),
        (POINTER, "a Git LFS pointer"),
        (POINTER, "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
        (b"ftrt" + bytes(99), "a TensorRT plan"),
        (b"vtrt" + bytes(99), "a plan of TensorRT for RTX"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (b"\x1f\x8b\x08" + bytes(99), "a gzip archive"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b'{"a": 1}', "a text file"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"a":1}', "a safetensors file"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(99), "TensorFlow Lite"),
        (b"\xff" * 500, "does not parse|do not parse|damaged"),
        (b"\x08\x0a", "holds no ONNX graph"),
    ],
)
def test_what_is_not_a_model_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    text = refusal(path)
    assert any(word in text for word in words.split("|"))


def test_zip_and_torch_archives(tmp_path: Path) -> None:
    for member, words in (("archive/data.pkl", "PyTorch checkpoint"), ("model.bin", "a zip archive")):
        path = tmp_path / "m.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"x")
        assert words in refusal(path)


def test_truncated_anywhere(build: Build, tmp_path: Path) -> None:
    content = build().SerializeToString()
    path = tmp_path / "model.onnx"
    for end in range(1, len(content) - 1, 29):
        path.write_bytes(content[:end])
        refusal(path)


def test_what_is_not_a_file(tmp_path: Path, build: Build, save: Save) -> None:
    path = save(build())
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "gone.onnx").symlink_to(tmp_path / "nowhere")
    assert "there is `model.onnx`" in refusal(path.with_name("modle.onnx"))
    assert "is a folder" in refusal(tmp_path)
    assert "a pipe, socket or device" in refusal(tmp_path / "pipe.onnx")
    assert "a pipe, socket or device" in refusal(Path("/dev/zero"))
    assert "nothing is there" in refusal(tmp_path / "gone.onnx")
    assert "cannot be opened" in refusal(Path("a\0b"))
    assert "cannot be opened" in refusal(tmp_path / ("a" * 300))


def test_no_permission(build: Build, save: Save) -> None:
    path = save(build())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert "may not be read" in refusal(path, StorageError)
    finally:
        os.seteuid(user)


def test_larger_than_protobuf_allows(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x0a")
        file.truncate(1 << 31)  # sparse
    assert "ends at 2 GiB" in refusal(path)


def _changed(model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def _tensor(dims: list[int], raw: bytes = b"", kind: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", dims=dims, data_type=kind, raw_data=raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": _tensor([4, 3], b"\0" * 47)}, "holds 47 bytes"),
        ({"weight": _tensor([1 << 16, 1 << 16])}, "(17.2 GB) and holds 0 bytes"),
        ({"weight": _tensor([1 << 62, 1 << 62, 1 << 62])}, "holds 0 bytes"),
        ({"weight": _tensor([-4, 3], b"\0" * 48)}, "negative dimension"),
        ({"weight": _tensor([4, 3], b"\0" * 48, 99)}, "unknown element type 99"),
        ({"weight": numpy_helper.from_array(np.full((4, 3), np.nan, np.float32), "w")}, "`w` hold NaN"),
        ({"weight": numpy_helper.from_array(np.full((4, 3), np.inf, np.float32), "w")}, "`w` hold infinite"),
        ({"weight": numpy_helper.from_array(np.full((4, 3), np.nan, np.float16), "w")}, "`w` hold NaN"),
        ({"weight": helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [float("nan")] * 12)}, "`w` hold NaN"),
        ({"opset": 99}, "opset 99"),
        ({"op": "Frobnicate"}, "`Frobnicate` (node `product`) does not exist in opset 21"),
        ({"op": "MatMull"}, "nearest one is `MatMul`"),
        ({"op": "Gelu", "opset": 19}, "Export with opset 20"),
        ({"op": "EfficientNMS_TRT", "domain": "trt.plugins"}, "domain `trt.plugins`, which nobody here knows"),
        ({"op": "Scaler", "domain": "ai.onnx.ml"}, "does not import"),
        ({"dtype": TensorProto.STRING}, "type `string`, which cannot be fed"),
        ({"shape": (0, 4)}, "declares the shape `[0, 4]`"),
        ({"shape": (-1, 4)}, "declares the shape `[-1, 4]`"),
        ({"shape": (1 << 40, 4)}, "per inference"),
        ({"shape": ("N", "M")}, 'shapes: {"x": [1, 128]}'),
        ({"shape": None}, "input `x` declares no shape"),
        ({"output": None}, "output `y` declares no shape"),
        ({"more": [numpy_helper.from_array(np.zeros(1, np.float32), "w")]}, "initializer name `w` is there twice"),
    ],
)
def test_unusable_content_is_named(build: Build, save: Save, change: dict[str, Any], words: str) -> None:
    assert words in refusal(save(build(**change)))


def test_interface(build: Build, save: Save) -> None:
    def without(field: str) -> onnx.ModelProto:
        model = build()
        del getattr(model.graph, field)[:]
        return model

    assert "no inputs" in refusal(save(without("input")))
    assert "no outputs" in refusal(save(without("output")))
    twice = build()
    twice.graph.input.append(twice.graph.input[0])
    assert "input name `x` is there twice" in refusal(save(twice))
    future = build()
    future.ir_version = 99
    assert "IR version 99" in refusal(save(future))
    dangling = build()
    dangling.graph.node[0].input[0] = "nobody"
    assert "onnx.checker" in refusal(save(dangling))
    sequence = build()
    sequence.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    assert "`x` is a `sequence_type`" in refusal(save(sequence))


def test_infinity_that_is_not_multiplied_is_a_note(build: Build, save: Save) -> None:
    mask = numpy_helper.from_array(np.full(3, -np.inf, np.float32), "mask")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "mask"], ["y"])]
    notes = models.load(save(build(nodes=nodes, more=[mask])), label="m").notes
    assert any("`mask` holds infinities" in note for note in notes)


def test_operators_of_the_runtime_are_left_to_it(build: Build, save: Save) -> None:
    model = build(nodes=[helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    notes = models.load(save(model), label="m").notes
    assert any("`FusedMatMul`" in note for note in notes)


def test_double_and_integer_inputs(build: Build, save: Save) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    for kind, name in (
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BFLOAT16, "bfloat16"),
    ):
        info = models.load(save(build(dtype=kind, nodes=nodes)), label="m").info
        assert info.inputs[0].dtype == name


def test_functions(build: Build, save: Save) -> None:
    def with_function(called: str) -> onnx.ModelProto:
        model = build(nodes=[helper.make_node("Mine", ["x", "w"], ["y"], domain="own")])
        body = [helper.make_node(called, ["a", "b"], ["c"], domain="own" if called == "Mine" else "")]
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", "Mine", ["a", "b"], ["c"], body, imports))
        model.opset_import.append(helper.make_opsetid("own", 1))
        return model

    assert models.load(save(with_function("MatMul")), label="m").info.flops == 2 * 4 * 3
    assert "calls itself" in refusal(save(with_function("Mine")))


def test_functions_that_multiply(build: Build, save: Save) -> None:
    model = build(nodes=[helper.make_node("F39", ["x"], ["y"], domain="own")])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    model.opset_import.append(imports[1])
    for depth in range(40):
        op, domain = (f"F{depth - 1}", "own") if depth else ("Neg", "")
        body = [helper.make_node(op, ["a"], ["b"], domain=domain), helper.make_node(op, ["b"], ["c"], domain=domain)]
        model.functions.append(helper.make_function("own", f"F{depth}", ["a"], ["c"], body, imports))
    assert "expand to 2.2e+12 nodes" in refusal(save(model))


def test_a_crash_of_the_child_is_a_model_error(build: Build, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(build())
    folder = path.parent / "broken"
    folder.mkdir()
    (folder / "onnx.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    text = refusal(path)
    assert "crash or hang" in text


def test_hostile_names_stay_on_one_line(build: Build, save: Save) -> None:
    model = build(shape=("N", "M"))
    name = "x\n::error::`boo`\x1b[31m" + "y" * 500
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    text = refusal(save(model))
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text


# External data ------------------------------------------------------------------------------------------------


def external(build: Build, folder: Path, location: str = "weights.bin", **entries: str) -> Path:
    """A model whose weight `w` (48 bytes) lies at `location`."""
    weight = TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(build(weight=weight).SerializeToString())
    return path


def test_external_data_are_part_of_the_hash(build: Build, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    data = np.eye(4, 3, dtype=np.float32).tobytes()
    (tmp_path / "sub/weights.bin").write_bytes(b"pad!" + data)
    path = external(build, tmp_path, "sub/weights.bin", offset="4", length="48")
    info = models.load(path, label="m").info
    expected = path.read_bytes() + b"\0sub/weights.bin\0" + (52).to_bytes(8, "little") + b"pad!" + data
    assert info.sha256 == hashlib.sha256(expected).hexdigest()
    assert info.bytes == path.stat().st_size + 52
    assert info.parameters == 12
    (tmp_path / "sub/weights.bin").write_bytes(b"pod!" + data)
    assert models.load(path, label="m").info.sha256 != info.sha256


def test_external_nan(build: Build, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.full(12, np.nan, np.float32).tobytes())
    assert "`w` hold NaN" in refusal(external(build, tmp_path))


@pytest.mark.parametrize(
    ("location", "entries", "words"),
    [
        ("weight.bin", {}, "`weight.bin` is missing"),
        ("weight.bin", {}, "there is `weights.bin`"),
        ("../weights.bin", {}, "outside the model's folder"),
        ("a/../../weights.bin", {}, "outside the model's folder"),
        ("/etc/passwd", {}, "outside the model's folder"),
        ("..\\weights.bin", {}, "outside the model's folder"),
        ("", {}, "without a usable location"),
        ("a\0b", {}, "without a usable location"),
        ("weights.bin", {"offset": "8"}, "too short"),
        ("weights.bin", {"offset": "-8"}, "offset `-8`"),
        ("weights.bin", {"length": "12"}, "needs 48 bytes"),
        ("weights.bin", {"length": "x"}, "length `x`"),
        ("link.bin", {}, "through a symbolic link"),
        ("out/passwd", {}, "through a symbolic link"),
        ("pointer.bin", {}, "Git LFS pointer"),
        ("pipe.bin", {}, "a pipe, socket or device"),
        ("hard.bin", {}, "hard links"),
    ],
)
def test_unsafe_or_incomplete_external_data(
    build: Build, tmp_path: Path, location: str, entries: dict[str, str], words: str
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    (tmp_path / "pointer.bin").write_bytes(POINTER)
    (tmp_path / "link.bin").symlink_to("weights.bin")
    (tmp_path / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "other").write_bytes(bytes(48))
    (tmp_path / "hard.bin").hardlink_to(tmp_path / "other")
    assert words in refusal(external(build, tmp_path, location, **entries))


def test_two_locations(build: Build, tmp_path: Path) -> None:
    path = external(build, tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    assert "without a usable location" in refusal(path)


def test_external_data_of_a_constant_are_checked(build: Build, tmp_path: Path) -> None:
    value = TensorProto(name="c", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="../secret")
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(build(nodes=nodes).SerializeToString())
    assert "outside the model's folder" in refusal(path)
