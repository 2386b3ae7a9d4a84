"""Rows of the table of settings for `backend: openai-endpoint`: a language model behind an OpenAI-compatible API.

Keys are no settings: they come from TRT_ACTION_ENDPOINT_KEY and TRT_ACTION_BASE_ENDPOINT_KEY and are shown nowhere.
"""

from __future__ import annotations

from trt_action.settings.option import Option

LLM_GROUP = "LLM"
ENDPOINT = "openai-endpoint"
"""The backend that judges a served language model."""

LLM_OPTIONS: tuple[Option, ...] = (
    Option(
        "endpoint", LLM_GROUP, None, "URL", "Head: base URL of an OpenAI-compatible API, e.g. `http://host:8000/v1`."
    ),
    Option(
        "endpoint-image",
        LLM_GROUP,
        None,
        "IMAGE",
        "Head, instead: an image that serves the API; started by Docker for the run, and removed.",
    ),
    Option("base-endpoint", LLM_GROUP, None, "URL", "What head is compared with, as `endpoint`."),
    Option("base-endpoint-image", LLM_GROUP, None, "IMAGE", "What head is compared with, as `endpoint-image`."),
    Option("endpoint-args", LLM_GROUP, None, "TEXT", "Arguments of `endpoint-image`, quoted as in a shell."),
    Option(
        "base-endpoint-args",
        LLM_GROUP,
        None,
        "TEXT",
        "Arguments of `base-endpoint-image`; default: as `endpoint-args`.",
    ),
    Option("endpoint-port", LLM_GROUP, 8000, "N", "Port of the API inside the images."),
    Option("endpoint-gpus", LLM_GROUP, "none", "none|all|LIST", "GPUs that each container gets: indexes or UUIDs."),
    Option("endpoint-volumes", LLM_GROUP, [], "LIST", "Folders mounted read-only, `HOST:CONTAINER`, e.g. of weights."),
    Option(
        "endpoint-env",
        LLM_GROUP,
        [],
        "LIST",
        "Names of environment variables that the containers get, e.g. `HF_TOKEN`.",
    ),
    Option("endpoint-start-timeout", LLM_GROUP, "10m", "DURATION", "How long a container may take until it answers."),
    Option(
        "endpoint-model",
        LLM_GROUP,
        None,
        "NAME",
        "Model name to send; default: the only one that the server lists.",
    ),
    Option(
        "base-endpoint-model",
        LLM_GROUP,
        None,
        "NAME",
        "The same for base; default: the only one that its server lists, else as `endpoint-model`.",
    ),
    Option(
        "endpoint-api",
        LLM_GROUP,
        "chat",
        "NAME",
        "Which API is asked: `/chat/completions` or `/completions`.",
        ("chat", "completions"),
    ),
    Option(
        "prompts",
        LLM_GROUP,
        None,
        "PATH",
        "Prompts to measure with: `.jsonl` with `prompt` or `messages`, or `.txt` with one per line.",
    ),
    Option("concurrencies", LLM_GROUP, [1, 4, 16], "LIST", "Numbers of requests in flight that are measured."),
    Option(
        "requests", LLM_GROUP, 64, "N", "Timed requests of each side at each concurrency; at least 4 per one in flight."
    ),
    Option("max-output-tokens", LLM_GROUP, 64, "N", "`max_tokens` of timed requests, where the prompt names none."),
    Option(
        "ignore-eos",
        LLM_GROUP,
        False,
        "true|false",
        "Ask the server to go on to `max-output-tokens` (`ignore_eos` of vLLM, TensorRT-LLM, llama.cpp).",
    ),
    Option(
        "unique-prompts",
        LLM_GROUP,
        True,
        "true|false",
        "Put a number of equal length before each timed prompt, so that no server answers from its prefix cache.",
    ),
    Option(
        "quality",
        LLM_GROUP,
        None,
        "PATH",
        "Questions with right answers, `.jsonl`: `prompt` or `messages`, `expected`, `kind` "
        "(`exact`, `contains`, `regex`, `choice`).",
    ),
    Option("request-timeout", LLM_GROUP, "120s", "DURATION", "Time limit of one request, from sent to last text."),
)
