"""Other servers for `benchmarks/serve.py`: how each is installed (in an environment of its own) and started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
APPS = ROOT / "benchmarks" / "serve_apps"
ENVIRONMENTS = ROOT / "build" / "serve"
INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Contender:
    """One server. `command` gets the engine, a free port and a folder of its own; `kind` of what is sent: `binary` (the
    protocol's binary tensors) or `json`."""

    name: str
    command: Callable[[Path, int, Path], list[str]]
    kind: str
    infer: str = "/v2/models/cnn/infer"
    ready: str = "/v2/health/ready"
    env: Callable[[int], dict[str, str]] = field(default=lambda port: {})


PACKAGES = {
    "mlserver": ["mlserver==1.7.1", "onnxruntime>=1.32,<1.33"],
    "kserve": ["kserve==0.21.0", "onnxruntime>=1.32,<1.33"],
    "litserve": ["litserve==0.2.19", "onnxruntime>=1.32,<1.33"],
}


def python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def install(name: str) -> str:
    """Make the environment of a rival, if it is not there. Returns why not, or nothing."""
    done = ENVIRONMENTS / name / ".installed"
    if done.exists() and done.read_text() == " ".join(PACKAGES[name]):
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / name)], check=True, timeout=INSTALL_SECONDS)
        subprocess.run(
            [str(python(name)), "-m", "pip", "install", "--quiet", *PACKAGES[name]],
            check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return f"it could not be installed ({words[-1][:200] if words else type(error).__name__})"
    done.write_text(" ".join(PACKAGES[name]))
    return ""


def _mlserver(engine: Path, port: int, folder: Path) -> list[str]:
    """In one process (no worker processes): it has one CPU."""
    model = {"name": "cnn", "implementation": "mlserver_runtime.Onnx", "parameters": {"uri": str(engine)}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    settings = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1", "http_port": port}
    (folder / "settings.json").write_text(json.dumps(settings))
    return [str(python("mlserver").with_name("mlserver")), "start", str(folder)]


def _mlserver_env(port: int) -> dict[str, str]:
    ports = {"MLSERVER_GRPC_PORT": str(port + 1), "MLSERVER_METRICS_PORT": str(port + 2)}
    return {"PYTHONPATH": str(APPS), **ports}


def _app(name: str) -> Callable[[Path, int, Path], list[str]]:
    return lambda engine, port, folder: [str(python(name)), str(APPS / f"{name}_app.py"), str(engine), str(port)]


RIVALS = (
    Contender("mlserver", _mlserver, "json", env=_mlserver_env),
    Contender("kserve", _app("kserve"), "json"),
    Contender("litserve", _app("litserve"), "json", infer="/predict", ready="/health"),
)
