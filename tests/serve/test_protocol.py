"""Every data type and every way in and out, with the real clients, over HTTP and gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as remote
import tritonclient.http as http
from google.protobuf.json_format import MessageToDict
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.serve.conftest import F32, Server, ask, end, identity, model, post, scale, start, version

KINDS = {
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    for name, kind in KINDS.items():
        version(repository / f"of_{name}" / "1", identity(kind))
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = ("N", 2)
    two = model(nodes, [("a", F32, shape), ("b", F32, shape)], [("sum", F32, shape), ("difference", F32, shape)])
    version(repository / "two" / "3", two)
    version(repository / "two" / "2", scale(1))
    version(repository / "large" / "1", scale(1, ("N", 2, "width")), largest=20_000)
    spread = model(
        [helper.make_node("Expand", ["x", "size"], ["y"])],
        [("x", F32, ("N", 1)), ("size", TensorProto.INT64, ("N",))],
        [("y", F32, ("N", "M"))],
    )
    sizes = {"size": {"min": [1, 1], "opt": [1, 4], "max": [2, 8]}}
    version(repository / "spread" / "1", spread, values=sizes)
    running = start(repository, grpc=True)
    yield running
    end(running)


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_inputs_that_hold_sizes_are_kept_in_their_range(server: Server, over: str) -> None:
    kind: Any = http if over == "http" else remote
    address = server.address if over == "http" else f"127.0.0.1:{server.grpc_port}"
    with kind.InferenceServerClient(address) as client:

        def infer(size: list[int], model: str = "spread") -> Any:
            given: dict[str, Any] = {"x": np.array([[7]], np.float32), "size": np.array(size, np.int64)}
            inputs = [kind.InferInput(name, list(a.shape), np_to_triton_dtype(a.dtype)) for name, a in given.items()]
            for tensor, array in zip(inputs, given.values(), strict=True):
                tensor.set_data_from_numpy(array)
            return client.infer(model, inputs).as_numpy("y")

        assert infer([1, 8]).tolist() == [[7.0] * 8]
        assert infer([2, 1]).shape == (2, 1)
        for size, words in (([1, 9], "holds the sizes [1, 9]; this engine takes [1, 1] to [2, 8]"), ([-1, 1], "holds the sizes"), ([4], "is 1; this engine takes 2"), ([1] * 3, "is 3")):  # fmt: skip
            with pytest.raises(InferenceServerException, match=re.escape(words)):
                infer(size)
        config = client.get_model_config("spread")
        found = config if over == "http" else MessageToDict(config.config, preserving_proto_field_name=True)
        assert int(found.get("max_batch_size", 0)) == 0


def values(dtype: str) -> np.ndarray[Any, Any]:
    """Extremes of the type."""
    if dtype == "bool":
        return np.array([[True, False, True], [False, False, True]])
    kind = np.dtype(dtype)
    limits: Any = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    return np.array([[limits.min, limits.max, 1], [0, 7, limits.max]], dtype=kind)


WAYS = [
    (dtype, binary_in, binary_out)
    for dtype in KINDS
    for binary_in in (True, False)
    for binary_out in (True, False)
    if dtype != "float16" or (binary_in and binary_out)  # the client has no float16 in JSON
]


@pytest.mark.parametrize(("dtype", "binary_in", "binary_out"), WAYS)
def test_every_type_over_http(server: Server, dtype: str, binary_in: bool, binary_out: bool) -> None:
    x = values(dtype)
    with http.InferenceServerClient(server.address) as client:
        tensor = http.InferInput("x", x.shape, np_to_triton_dtype(x.dtype))
        tensor.set_data_from_numpy(x, binary_data=binary_in)
        asked = http.InferRequestedOutput("y", binary_data=binary_out)
        y = client.infer(f"of_{dtype}", [tensor], outputs=[asked], request_id="id-7")
        assert y.get_response()["id"] == "id-7"
        got = y.as_numpy("y")
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type_over_grpc(server: Server, dtype: str) -> None:
    x = values(dtype)
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        tensor = remote.InferInput("x", x.shape, np_to_triton_dtype(x.dtype))
        tensor.set_data_from_numpy(x)
        got = client.infer(f"of_{dtype}", [tensor], request_id="g").as_numpy("y")
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x)


def test_float16_in_json_is_numbers(server: Server) -> None:
    tensor = {"name": "x", "datatype": "FP16", "shape": [1, 3], "data": [1.5, -2, 65504]}
    assert post(server, "/v2/models/of_float16/infer", {"inputs": [tensor]})[1]["outputs"][0]["data"] == [
        1.5,
        -2,
        65504,
    ]


def test_typed_contents_over_grpc(server: Server) -> None:
    """What KServe's own clients send: lists in place of raw bytes."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with _channel(server) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="of_float32")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        tensor.contents.fp32_contents.extend([1, 2, 3.5])
        response = stub.ModelInfer(request)
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [1, 2, 3.5]


def _channel(server: Server) -> Any:
    import grpc

    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")


def test_two_inputs_two_outputs_and_what_is_asked(server: Server) -> None:
    a, b = np.array([[3, 4]], np.float32), np.array([[1, 9]], np.float32)
    with http.InferenceServerClient(server.address) as client:
        tensors = [http.InferInput(name, [1, 2], "FP32") for name in ("b", "a")]
        for tensor, array in zip(tensors, (b, a), strict=True):
            tensor.set_data_from_numpy(array)
        both = client.infer("two", tensors)
        np.testing.assert_array_equal(both.as_numpy("sum"), a + b)
        np.testing.assert_array_equal(both.as_numpy("difference"), a - b)
        one = client.infer("two", tensors, outputs=[http.InferRequestedOutput("difference")], model_version="3")
        assert one.as_numpy("sum") is None
        np.testing.assert_array_equal(one.as_numpy("difference"), a - b)


def test_health_metadata_config_statistics_index(server: Server) -> None:
    with http.InferenceServerClient(server.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("two")
        assert client.is_model_ready("two", "3")
        assert not client.is_model_ready("two", "2")  # the newest version is served
        assert client.get_server_metadata()["name"] == "trt-action"
        found = client.get_model_metadata("two")
        assert found["versions"] == ["3"]
        assert found["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 2]}
        config = client.get_model_config("two")
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [2])
        before = client.get_inference_statistics("of_int8")["model_stats"][0]
        tensor = http.InferInput("x", [2, 3], "INT8")
        tensor.set_data_from_numpy(np.zeros((2, 3), np.int8))
        client.infer("of_int8", [tensor])
        after = client.get_inference_statistics("of_int8")["model_stats"][0]
        assert after["inference_count"] - before["inference_count"] == 2
        assert after["execution_count"] - before["execution_count"] == 1
        assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
        index = client.get_model_repository_index()
        assert {"name": "two", "version": "3", "state": "READY", "reason": ""} in index
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("two")
        assert not client.is_model_ready("none")
        assert client.get_model_metadata("two").platform == "onnxruntime_onnx"
        assert "two" in {entry.name for entry in client.get_model_repository_index().models}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(server: Server, algorithm: str) -> None:
    x = np.arange(40_000, dtype=np.float32).reshape(1, 2, 20_000)
    with http.InferenceServerClient(server.address) as client:
        tensor = http.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        got = client.infer(
            "large", [tensor], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        np.testing.assert_array_equal(got.as_numpy("y"), x)


def test_raw_body(server: Server) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    status, answered, data = ask(server, "/v2/models/of_float32/infer", x.tobytes(), headers)
    size = int(answered["inference-header-content-length"])
    assert status == 200
    assert json.loads(data[:size])["outputs"][0]["shape"] == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(data[size:], np.float32).reshape(2, 3), x)
    status, _, data = ask(server, "/v2/models/of_float32/infer", x.tobytes()[:-1], headers)
    assert status == 400, data


def test_a_large_tensor(server: Server) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2, 20_000)).astype(np.float32)  # 3.2 MB: many reads of the socket
    with http.InferenceServerClient(server.address) as client:
        tensor = http.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        np.testing.assert_array_equal(client.infer("large", [tensor]).as_numpy("y"), x)


def test_nan_is_null_in_json_and_itself_in_binary(server: Server) -> None:
    x = np.array([[np.nan, np.inf, 1]], np.float32)
    with http.InferenceServerClient(server.address) as client:
        tensor = http.InferInput("x", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        np.testing.assert_array_equal(client.infer("of_float32", [tensor]).as_numpy("y"), x)
        asked = [http.InferRequestedOutput("y", binary_data=False)]
        assert client.infer("of_float32", [tensor], outputs=asked).get_response()["outputs"][0]["data"] == [
            None,
            None,
            1.0,
        ]


def tensor_of(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3], **changes}


BAD: list[tuple[str, Any, int, str]] = [
    ("/v2/models/none/infer", {"inputs": [tensor_of()]}, 404, "No model 'none'"),
    ("/v2/models/of_float32/versions/9/infer", {"inputs": [tensor_of()]}, 404, "Version '9'"),
    ("/v2/models/of_float32/infer", {"inputs": []}, 400, "No data for input 'x'"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(name="z")]}, 400, "no input 'z'"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(), tensor_of()]}, 400, "twice"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(datatype="FP64")]}, 400, "takes FP32"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(shape=[1, 4])]}, 400, "Axis 1"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(shape=[9, 3])]}, 400, "takes 1 to 8"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(shape=[0, 3], data=[])]}, 400, "takes 1 to 8"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(shape=[3])]}, 400, "has 2 axes"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(data=[1, 2])]}, 400, "takes 3 elements"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(data=[1, 2, "3"])]}, 400, "no FP32"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(data=[1, 2, 1e39])]}, 400, "out of the range"),
    ("/v2/models/of_int8/infer", {"inputs": [tensor_of(datatype="INT8", data=[1, 2, 128])]}, 400, "out of the range"),
    ("/v2/models/of_int8/infer", {"inputs": [tensor_of(datatype="INT8", data=[1, 2, 1.5])]}, 400, "no INT8"),
    ("/v2/models/of_bool/infer", {"inputs": [tensor_of(datatype="BOOL", data=[1, 0, 1])]}, 400, "no BOOL"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(data=[[[1]], [[2]], [[3]]])]}, 400, "nested"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of()], "outputs": [{"name": "q"}]}, 400, "Output 'q'"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of()], "parameters": {"timeout": "x"}}, 400, "timeout"),
    ("/v2/models/of_float32/infer", {"inputs": [tensor_of(parameters={"shared_memory_region": "r"})]}, 400, "Shared"),
    (
        "/v2/models/of_float32/infer",
        {"inputs": [tensor_of(parameters={"binary_data_size": 12})]},
        400,
        "binary data",
    ),
    ("/v2/models/of_float32/infer", [1], 400, "not a JSON object"),
    ("/v2/repository/models/two/load", {}, 403, "--model-control-mode"),
    ("/v2/nothing", {}, 404, "nothing at this address"),
]


@pytest.mark.parametrize(("path", "document", "status", "words"), BAD, ids=range(len(BAD)))
def test_bad_requests_are_told_why(server: Server, path: str, document: Any, status: int, words: str) -> None:
    found, answered = post(server, path, document)
    assert (found, words in answered["error"]) == (status, True), answered


def test_clients_get_the_message(server: Server) -> None:
    tensor = http.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with http.InferenceServerClient(server.address) as client, pytest.raises(InferenceServerException, match="Axis 1"):
        client.infer("of_float32", [tensor])
    grpc_tensor = remote.InferInput("x", [1, 4], "FP32")
    grpc_tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        with pytest.raises(InferenceServerException, match="Axis 1") as caught:
            client.infer("of_float32", [grpc_tensor])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException, match="No model") as caught:
            client.infer("none", [grpc_tensor])
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_metrics(server: Server) -> None:
    post(server, "/v2/models/of_uint8/infer", {"inputs": [tensor_of(datatype="UINT8")]})
    post(server, "/v2/models/of_uint8/infer", {"inputs": []})
    _, _, text = ask(server, "/metrics", None, {})
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    of = (("model", "of_uint8"), ("version", "1"))
    assert samples["nv_inference_request_success", *of] >= 1
    assert samples[("nv_inference_request_failure", of[0], ("reason", "request"), of[1])] >= 1
    assert samples["nv_inference_count", *of] >= 1
    assert samples["trt_action_request_duration_seconds_count", *of] == samples["nv_inference_request_success", *of]
    assert samples["trt_action_batch_size_count", *of] == samples["nv_inference_exec_count", *of]
    assert samples[("trt_action_errors_total", ("cause", "request"))] >= 1
    found = [
        labels[1:] for labels in samples if labels[0] == "trt_action_engine_info" and ("model", "of_uint8") in labels
    ]
    assert ("precision", "fp32") in found[0]


def test_trace_context_goes_on(server: Server) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    body = json.dumps({"inputs": [tensor_of()]}).encode()
    for path in ("/v2/models/of_float32/infer", "/v2/models/of_float32/infer?x=1"):
        _, answered, _ = ask(server, path, body, {"traceparent": f"00-{trace}-{parent}-01"})
        kind, same, span, flags = answered["traceparent"].split("-")
        assert (kind, same, flags) == ("00", trace, "01")
        assert span != parent
    _, answered, _ = ask(server, "/v2/models/of_float32/infer", body, {"traceparent": "junk"})
    assert "traceparent" not in answered
    line = server.wait_for(trace)
    logged = json.loads(line)
    assert (logged["trace_id"], logged["model"], logged["status"]) == (trace, "of_float32", 200)


def test_configuration_and_statistics_are_the_same_over_grpc(server: Server) -> None:
    def shown(message: Any) -> Any:
        return MessageToDict(message, preserving_proto_field_name=True)

    with (
        http.InferenceServerClient(server.address) as there,
        remote.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as here,
    ):
        config = shown(here.get_model_config("two", "3"))["config"]
        for port in (*config["input"], *config["output"]):
            port["dims"] = [int(size) for size in port["dims"]]
        assert config.pop("instance_group") == [{"name": "two", "count": 1}]  # KIND_AUTO is 0
        wanted = there.get_model_config("two")
        assert config == {name: value for name, value in wanted.items() if name != "instance_group"}
        one = here.get_inference_statistics("of_int8").model_stats[0]
        assert one.inference_count == there.get_inference_statistics("of_int8")["model_stats"][0]["inference_count"]
        assert (
            one.inference_stats.success.count
            == sum(entry.compute_infer.count for entry in one.batch_stats if entry.batch_size == 1)
            or one.execution_count > 0
        )
        assert {entry.name for entry in here.get_inference_statistics().model_stats} >= {"two", "of_bool"}
        with pytest.raises(InferenceServerException) as caught:
            here.get_model_config("two", "2")
        assert caught.value.status() == "StatusCode.NOT_FOUND"
