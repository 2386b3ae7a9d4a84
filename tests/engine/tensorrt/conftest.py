"""Engines on the doubles of TensorRT and CUDA."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.cuda import FakeCuda
from tests.doubles.tensorrt import FakeTensorRT, Network, Port
from trt_action import engine
from trt_action.engine import cuda
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.tensorrt import library
from trt_action.engine.tensorrt.session import TensorRTSession


def doubling() -> Network:
    """`x` float32 [N, 3] (N from 1 to 8) → `y` = 2 x."""
    return Network(
        inputs=(Port("x", "FLOAT", (-1, 3), ((1, 3), (2, 3), (8, 3))),),
        outputs=(Port("y", "FLOAT", (-1, 3)),),
        function=lambda feeds: {"y": feeds["x"] * 2},
        shapes=lambda shapes, values: {"y": shapes["x"]},
    )


def positive() -> Network:
    """`x` float32 [4] → `large`, the positive ones: their number is known only afterwards."""
    return Network(
        inputs=(Port("x", "FLOAT", (4,)),),
        outputs=(Port("large", "FLOAT", (-1,)), Port("sum", "FLOAT", (1,))),
        function=lambda feeds: {"large": feeds["x"][feeds["x"] > 0], "sum": feeds["x"].sum(keepdims=True)},
        shapes=lambda shapes, values: {"large": (-1,), "sum": (1,)},
    )


def scaling() -> Network:
    """`x` float32 [] → `y` = 2 x."""
    return Network(
        inputs=(Port("x", "FLOAT", ()),),
        outputs=(Port("y", "FLOAT", ()),),
        function=lambda feeds: {"y": feeds["x"] * 2},
        shapes=lambda shapes, values: {"y": ()},
    )


def reshaping() -> Network:
    """`x` float32 [6] and `size` int64 [2] from 1 to 6, which holds the shape of `y`."""

    def shapes(known: Any, values: Any) -> dict[str, tuple[int, ...]]:
        first, second = (int(size) for size in values["size"])
        if first * second != 6:
            raise ValueError(f"reshape would change volume 6 to {first * second}")
        return {"y": (first, second)}

    return Network(
        inputs=(Port("x", "FLOAT", (6,)), Port("size", "INT64", (2,), host=True, values=((1, 1), (2, 3), (6, 6)))),
        outputs=(Port("y", "FLOAT", (-1, -1)),),
        function=lambda feeds: {"y": feeds["x"].reshape(feeds["size"])},
        shapes=shapes,
    )


def counting() -> Network:
    """`limit` int32 [] from 1 to 64 → `y` = 0, 1, …, and `twice` = 2 `limit`, which the host computes; nothing else."""
    return Network(
        inputs=(Port("limit", "INT32", (), host=True, values=((1,), (8,), (64,))),),
        outputs=(Port("y", "INT32", (-1,)), Port("twice", "INT32", (), host=True)),
        function=lambda feeds: {"y": np.arange(int(feeds["limit"]), dtype=np.int32), "twice": feeds["limit"] * 2},
        shapes=lambda shapes, values: {"y": (int(values["limit"]),), "twice": ()},
    )


class RtxCard(FakeCuda):
    def name(self) -> str:
        return "Fake RTX 4090"

    def capability(self) -> tuple[int, int]:
        return 8, 9


@dataclass
class Bench:
    """A fake GPU with a fake TensorRT; `load` loads a plan of its network as a worker would."""

    folder: Path
    gpu: FakeCuda
    trt: FakeTensorRT
    sessions: list[TensorRTSession] = field(default_factory=list)

    def write(self, content: bytes | None = None) -> Path:
        path = self.folder / "engine.plan"
        path.write_bytes(self.trt.plan() if content is None else content)
        return path

    def load(self, content: bytes | None = None, *, sha256: str | None = "", **options: Any) -> TensorRTSession:
        """`sha256` "" = the right one."""
        path = self.write(content)
        right = hashlib.sha256(path.read_bytes()).hexdigest()
        backend = "tensorrt-rtx" if self.trt.rtx else "tensorrt"
        loadable = Loadable(
            backend, path, RuntimeOptions(device="cuda:0", **options), sha256=right if sha256 == "" else sha256
        )
        session = engine.backend(backend).load(loadable)
        assert isinstance(session, TensorRTSession)
        self.sessions.append(session)
        return session

    def finish(self) -> None:
        """Close everything: nothing is left, and nothing was used in the wrong order."""
        while self.sessions:
            self.sessions.pop().close()
        assert self.gpu.leaks() == {}
        assert self.trt.violations == []


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`bench(network, rtx=False, total=…)`."""

    def make(network: Network, *, rtx: bool = False, total: int = 1 << 30, **module: Any) -> Bench:
        gpu = (RtxCard if rtx else FakeCuda)(total=total)
        module.setdefault("capability", gpu.capability())
        trt = FakeTensorRT(gpu, network, rtx=rtx, **module)
        monkeypatch.setattr(cuda, "cuda", lambda device=0: gpu)
        monkeypatch.setattr(library, "load", lambda flavour: trt)
        return Bench(tmp_path, gpu, trt)

    return make


def x(*rows: float) -> dict[str, Any]:
    """Feeds of `doubling`: one row of three equal values per number."""
    return {"x": np.repeat(np.array(rows, np.float32)[:, None], 3, axis=1)}
