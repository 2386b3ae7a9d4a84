"""A real OpenAI-compatible server: llama.cpp (the `xllamacpp` package) with a tiny Llama of random weights, on one CPU.

Run as a program it serves: `python -m tests.doubles.llama MODEL.gguf` prints its URL, and ends with its stdin.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
LETTERS = range(32, 127)
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def make(path: Path, *, layers: int, width: int = 128, seed: int = 0) -> Path:
    """A model whose answers are printable ASCII and never end by themselves: only those tokens ever score above 0.

    Layers are what a token costs: every one of them is multiplied through for every token.
    """
    import gguf

    feed_forward, heads = 2 * width, 4
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny random")
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
    first_letter = len(tokens)
    tokens += ["▁".encode() if code == 32 else bytes([code]) for code in LETTERS]
    kinds += [_NORMAL] * len(LETTERS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> npt.NDArray[np.float32]:
        return (random.standard_normal(shape) * 0.15).astype(np.float32)

    output = weights(len(tokens), width)
    output[:first_letter] = 0
    writer.add_tensor("token_embd.weight", weights(len(tokens), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(width, width))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(feed_forward, width))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(width, feed_forward))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextlib.contextmanager
def serve(model: Path) -> Iterator[str]:
    """The URL of a server in a process of its own, until the block is left."""
    with started("tests.doubles.llama", str(model)) as url:
        yield f"{url}/v1"


@contextlib.contextmanager
def started(module: str, argument: str) -> Iterator[str]:
    """A module that prints its URL and ends with its stdin."""
    command = [sys.executable, "-m", module, argument]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), f"{module} did not start"
            yield url
        finally:
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _main() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 8192
    params.n_parallel = 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _main()
