"""The table of every setting: one row each. The command line, the environment, the action's inputs, the pydantic
model, the JSON Schema and the README's table all come from here. Standard library only: `--help` must stay instant.
"""

from __future__ import annotations

from trt_action.settings.deploy_options import DEPLOY_OPTIONS
from trt_action.settings.gate_options import GATE_OPTIONS
from trt_action.settings.llm_options import LLM_GROUP, LLM_OPTIONS
from trt_action.settings.mlflow_options import MLFLOW_GROUP, MLFLOW_OPTIONS
from trt_action.settings.option import ACTION_GROUP, Option
from trt_action.settings.publish_options import PUBLISH_OPTIONS

GROUPS = ("Model", "Precision and data", "Engine", LLM_GROUP, "Measuring", "Gates", "Output", MLFLOW_GROUP)


OPTIONS: tuple[Option, ...] = (
    Option(
        "model", "Model", None, "PATH", "ONNX model to judge (head); every backend but `openai-endpoint` needs one."
    ),
    Option("name", "Model", None, "NAME", "Display name; default: the file's stem."),
    Option(
        "base",
        "Model",
        "auto",
        "PATH|REF|auto|none",
        "What head is compared with: a model file, a Git revision, `auto` (merge-base with the default branch), "
        "or `none` (absolute gates only).",
    ),
    Option(
        "base-precision",
        "Model",
        None,
        "PRECISION",
        "Precision of the base; default: the base's own config when it comes from Git, else the same as head.",
        ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4"),
    ),
    Option(
        "shapes",
        "Model",
        None,
        "JSON",
        "Shapes of dynamic inputs: `{input: [1, 3, 224, 224]}` or `{input: {min: …, opt: …, max: …}}`; "
        "`opt` is what is measured. Of an input that holds sizes itself, its `{values: …}`, likewise.",
    ),
    Option(
        "batch-size",
        "Model",
        1,
        "N",
        "Batch that is measured when the batch axis is open and `shapes` is unset.",
    ),
    Option(
        "precision",
        "Precision and data",
        "fp32",
        "PRECISION",
        "Precision of the engine; `auto` takes the first that holds the accuracy gates from a fixed list of the backend's "
        "(docs/precision.md); nothing is timed for it.",
        ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4", "auto"),
    ),
    Option(
        "keep-accuracy",
        "Precision and data",
        False,
        "true|false",
        "Where `precision` breaks an accuracy gate, find the fewest layers to keep in higher precision "
        "(docs/precision.md).",
    ),
    Option("search-timeout", "Precision and data", "15m", "DURATION", "Time limit of that search, and of `auto`."),
    Option(
        "search-max-error",
        "Precision and data",
        "5%",
        "PERCENT",
        "Largest relative L2 error of any output that a search accepts where no accuracy gate can be checked.",
    ),
    Option(
        "high-precision",
        "Precision and data",
        "auto",
        "PRECISION",
        "What computes around quantized layers (int8, fp8, int4); `auto`: fp16 on a GPU, fp32 on a CPU.",
        ("auto", "fp32", "fp16", "bf16"),
    ),
    Option(
        "toolchain",
        "Precision and data",
        "auto",
        "NAME",
        "Who rewrites the graph: `onnxruntime` (light), `modelopt` (NVIDIA's, 2 GB, in an environment of its own); "
        "`auto`: ModelOpt where it is installed and makes a difference.",
        ("auto", "onnxruntime", "modelopt"),
    ),
    Option(
        "modelopt-python",
        "Precision and data",
        None,
        "PATH",
        "Interpreter of the environment that has `nvidia-modelopt[onnx]`; default: `/opt/modelopt`, or "
        "`trt-action-modelopt` in the user's data folder.",
    ),
    Option(
        "calibration-data",
        "Precision and data",
        None,
        "PATH",
        "Representative inputs for int8, fp8 and int4: `.npz`, a folder of `.npy`, or `file.py:function`.",
    ),
    Option("calibration-samples", "Precision and data", 128, "N", "At most this many samples calibrate."),
    Option(
        "calibration-method",
        "Precision and data",
        "minmax",
        "METHOD",
        "How ranges are chosen; `percentile` is of the light toolchain, `entropy` of ModelOpt.",
        ("minmax", "percentile", "entropy"),
    ),
    Option(
        "op-types", "Precision and data", ["Conv", "MatMul", "Gemm"], "LIST", "Operators that int8 and fp8 quantize."
    ),
    Option("exclude-nodes", "Precision and data", [], "LIST", "Nodes (names or globs) kept in higher precision."),
    Option(
        "min-precision-share",
        "Precision and data",
        "50%",
        "SHARE",
        "Fail when a smaller share of the FLOPs (or weights) than this really got the asked precision.",
    ),
    Option(
        "validation-data",
        "Precision and data",
        None,
        "PATH",
        "Held-out inputs with `labels`, in the same forms as calibration data.",
    ),
    Option(
        "metric",
        "Precision and data",
        "top1",
        "METRIC",
        "Task metric on validation data: `top1`, `top5`, or your own `file.py:function`.",
    ),
    Option("metric-timeout", "Precision and data", "300s", "DURATION", "Time limit of a user's own function."),
    Option(
        "backend",
        "Engine",
        "onnxruntime",
        "NAME",
        "What compiles and runs the model; `openai-endpoint` judges a served language model (docs/llm.md).",
        ("onnxruntime", "tensorrt", "tensorrt-rtx", "openai-endpoint"),
    ),
    Option(
        "device",
        "Engine",
        "auto",
        "auto|cpu|cuda|cuda:N",
        "Where it runs; `auto` = the first visible GPU if the backend can use it, else the CPU. N counts visible GPUs.",
    ),
    Option(
        "cuda-graph",
        "Engine",
        False,
        "true|false",
        "On a GPU, record an inference once and replay it; less work for the CPU, fixed shapes only.",
    ),
    Option(
        "transfers",
        "Engine",
        True,
        "true|false",
        "On a GPU, copies of inputs and outputs count as a part of an inference.",
    ),
    Option(
        "threads", "Engine", 0, "N", "Threads of one inference; 0 = one per CPU this process may use, on a GPU one."
    ),
    Option(
        "graph-optimization",
        "Engine",
        "all",
        "LEVEL",
        "ONNX Runtime's graph optimisation level.",
        ("disabled", "basic", "extended", "all"),
    ),
    Option("memory-arena", "Engine", True, "true|false", "ONNX Runtime's CPU memory arena."),
    Option(
        "workspace",
        "Engine",
        "auto",
        "auto|SIZE|PERCENT",
        "TensorRT: device memory for the builder; `auto` = 80% of what is free beside the weights.",
    ),
    Option("optimization-level", "Engine", 3, "0-5", "TensorRT: how long its builder looks for faster kernels."),
    Option(
        "tiling",
        "Engine",
        "none",
        "LEVEL",
        "TensorRT: how hard its builder tries to keep data in the L2 cache.",
        ("none", "fast", "moderate", "full"),
    ),
    Option(
        "aux-streams", "Engine", None, "N", "TensorRT: streams beside the main one, at most; unset: its own choice."
    ),
    Option("timing-iterations", "Engine", 8, "N", "TensorRT: how often its builder times each kernel."),
    Option(
        "timing-cache",
        "Engine",
        True,
        "true|false",
        "TensorRT: keep those times for the next build, beside the engines.",
    ),
    Option(
        "version-compatible",
        "Engine",
        "none",
        "FORM",
        "TensorRT: an engine that newer versions load too, with the lean runtime inside or in the image.",
        ("none", "with-lean", "without-lean"),
    ),
    Option(
        "hardware-compatibility",
        "Engine",
        "none",
        "LEVEL",
        "TensorRT: an engine for more than the GPU that builds it.",
        ("none", "ampere-plus", "same-compute-capability"),
    ),
    Option(
        "weight-streaming",
        "Engine",
        "none",
        "none|auto|SIZE|PERCENT",
        "TensorRT: device memory for weights; the rest is streamed from the host in every inference.",
    ),
    Option(
        "compute-capabilities",
        "Engine",
        [],
        "LIST",
        "TensorRT for RTX: GPUs that the engine is for, e.g. `8.9, 12.0`; none = every one that it supports.",
    ),
    Option("build-timeout", "Engine", "30m", "DURATION", "Time limit for preparing and building one engine."),
    Option(
        "cache",
        "Engine",
        "auto",
        "PATH|true|false",
        "Engine cache; `auto` = `$TRT_ACTION_CACHE`, else the user's cache folder.",
    ),
    Option("cache-size", "Engine", "5GB", "SIZE", "Oldest engines are dropped above this."),
    *LLM_OPTIONS,
    Option("measure-seconds", "Measuring", "3s", "DURATION", "Length of the latency pass of each side."),
    Option(
        "max-seconds",
        "Measuring",
        "60s",
        "DURATION",
        "Time limit of the comparison of head and base. On a GPU without the loading of engines, which may take twice as long.",
    ),
    Option("margin", "Measuring", "0.5%", "PERCENT", "Smallest change of p50 that is called a change."),
    Option(
        "tolerance",
        "Measuring",
        "2%",
        "PERCENT",
        "`within-noise` when the change is surely smaller than this.",
    ),
    Option("confidence", "Measuring", "99%", "PERCENT", "Of the comparison's verdict and intervals."),
    Option("concurrency", "Measuring", 1, "N", "Requests in flight in the throughput pass."),
    Option(
        "layers",
        "Measuring",
        True,
        "true|false",
        "Look at each layer with the backend's profiler, in a short pass of its own, and hold head's against base's.",
    ),
    Option("seed", "Measuring", 0, "N", "Of synthetic inputs, order of blocks and resampling."),
    *GATE_OPTIONS,
    Option("output", "Output", "trt-action-report", "DIR", "Folder for evidence, comment, summary and report."),
    Option("template", "Output", None, "PATH", 'Your own comment template; `{% extends "comment.md.j2" %}`.'),
    *MLFLOW_OPTIONS,
)

BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}

ACTION_OPTIONS: tuple[Option, ...] = (
    Option(
        "config",
        ACTION_GROUP,
        None,
        "FILE",
        "Config file; default: `.trt-action.yml`, `.yaml` or `.toml` in the workspace.",
    ),
    Option(
        "activity",
        ACTION_GROUP,
        "auto",
        "ACTIVITY",
        "What this run does; `auto` decides from the event.",
        ("auto", "measure", "publish", "promote", "report", "nothing"),
    ),
    Option(
        "github-token",
        ACTION_GROUP,
        None,
        "TOKEN",
        "Token for comment, check and pull request; `action.yml` passes the job's own.",
    ),
    Option(
        "comment",
        ACTION_GROUP,
        "auto",
        "WHEN",
        "Comment on the pull request: `auto` = where the token may, `true` = and warn where it may not, "
        "`changes-only` = start one only when there is something to act on.",
        ("auto", "true", "false", "changes-only"),
    ),
    Option(
        "comment-id",
        ACTION_GROUP,
        "default",
        "ID",
        "One comment per pull request and id; give each job its own if several comment.",
    ),
    Option(
        "report-only",
        ACTION_GROUP,
        False,
        "true|false",
        "A failed gate is a warning and the job stays green; errors still fail.",
    ),
    Option(
        "allow-untrusted-fork",
        ACTION_GROUP,
        False,
        "true|false",
        "Run a fork's code on `pull_request_target`, with this repository's token and secrets. "
        "Only on a disposable runner that holds no secret.",
    ),
    Option(
        "check-run",
        ACTION_GROUP,
        "false",
        "KIND",
        "Also set a check run or a commit status on the head commit.",
        ("false", "check", "status"),
    ),
    Option("summary", ACTION_GROUP, True, "true|false", "Write the job summary."),
    Option(
        "history",
        ACTION_GROUP,
        False,
        "true|false",
        "After publishing, add the trend of what this branch has published so far to the summary (docs/history.md).",
    ),
    Option(
        "evidence",
        ACTION_GROUP,
        [],
        "LIST",
        "Evidence files of other jobs for `activity: report`: paths or globs in the workspace, one per line.",
    ),
    Option(
        "gpu",
        ACTION_GROUP,
        None,
        "NAME",
        "GPU that must be there: part of its name (`A100`) or its architecture (`sm_90`).",
    ),
    Option(
        "gpus",
        ACTION_GROUP,
        "auto",
        "auto|none|all|LIST",
        "GPUs that the run may use: `auto` = one if the backend needs it, or indexes or UUIDs, comma-separated.",
    ),
    Option(
        "gpu-lock-timeout",
        ACTION_GROUP,
        "30m",
        "DURATION",
        "How long to wait for another run that measures on the same GPU.",
    ),
    Option("registry", ACTION_GROUP, None, "HOST", "Registry to publish to, e.g. `ghcr.io`."),
    Option("image", ACTION_GROUP, None, "NAME", "Name of the published image, without registry and tag."),
    Option(
        "push",
        ACTION_GROUP,
        "auto",
        "WHEN",
        "Push the image: `auto` = on the default branch and on releases, when every gate holds; `true` = on other "
        "branches and pull requests of this repository too. Never from a fork.",
        ("auto", "true", "false"),
    ),
    *PUBLISH_OPTIONS,
    *DEPLOY_OPTIONS,
)
"""Inputs that only the action has: no options of the command line, no keys of a config file."""

ACTION_BY_NAME: dict[str, Option] = {option.name: option for option in ACTION_OPTIONS}
