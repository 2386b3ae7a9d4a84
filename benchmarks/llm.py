"""Is a slower language model called slower, and the same one never?

`python benchmarks/llm.py --trials 20 --out build/llm.jsonl` measures, `--report build/llm.jsonl --write docs/benchmarks.md`
writes the table. Two kinds of servers: llama.cpp's with a tiny random model, where the slowdown is two more layers on a chain of
20 (+10 % per token) or six (+30 %); and one that waits 5 ms for each token, as a server waits for its GPU, or 10 or 30 %
longer. Each trial starts its servers anew; `one server` is asked as head and as base.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from tests.doubles import llama
from trt_action import measure
from trt_action.evidence import Comparison
from trt_action.llm import load, paired, prompts, sides
from trt_action.llm.client import Access
from trt_action.llm.paired import Pairing
from trt_action.llm.sides import Asking, Place

LAYERS = 20
EFFECTS = {"A/A, one server": 0, "A/A, two servers": 0, "+10 % per token": 2, "+30 % per token": 6}
"""More layers; a twentieth of the time of a token each."""
PLAIN = 0.05
"""What two passes, one after the other, must differ by to be called different: the usual rule."""

WAIT = 0.005
TOKENS = 32
TEXTS = [
    f"Tell me {count} things about {what}." for count in range(2, 6) for what in ("cats", "rivers", "clocks", "bread")
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=20)
    arguments.add_argument("--first", type=int, default=0, help="seed of the first trial")
    arguments.add_argument("--max-seconds", type=float, default=60.0)
    arguments.add_argument("--margin", type=float, default=0.005)
    arguments.add_argument("--tolerance", type=float, default=0.02)
    arguments.add_argument("--out", type=Path, default=Path("build/llm.jsonl"))
    arguments.add_argument("--effects", nargs="*", default=list(EFFECTS))
    arguments.add_argument("--server", choices=("llama", "waiting"), default="llama")
    arguments.add_argument("--report", type=Path, nargs="+", help="files that earlier runs have written")
    arguments.add_argument("--write", type=Path)
    asked = arguments.parse_args()
    if asked.report:
        lines = [line for path in asked.report for line in path.read_text().splitlines()]
        text = report([json.loads(line) for line in lines], f"python benchmarks/llm.py {' '.join(sys.argv[1:])}")
        print(text)
        if asked.write:
            sections.write(asked.write, "llm", text)
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, asked.out.open("a") as out:
        models: dict[int, Path] = {}
        if asked.server == "llama":
            models = {n: llama.make(Path(folder) / f"{n}.gguf", layers=LAYERS + n) for n in set(EFFECTS.values())}
        for trial in range(asked.first, asked.first + asked.trials):
            for effect in asked.effects:
                found = one(models, effect, trial, asked)
                print(json.dumps(found), flush=True)
                out.write(json.dumps(found) + "\n")
                out.flush()


def one(models: dict[int, Path], effect: str, trial: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One comparison, and what both sides do with 1 and 4 requests in flight."""
    with servers(models, effect) as (head, base):
        texts = tuple(prompts.Prompt(({"role": "user", "content": text},), text) for text in TEXTS)
        asking = Asking(texts[0], trial, False, TOKENS, True)
        places = {role: Place(role, Access(url, "chat", "tiny")) for role, url in (("head", head), ("base", base))}
        plan = measure.Plan(
            max_seconds=asked.max_seconds,
            margin=asked.margin,
            tolerance=asked.tolerance,
            seed=trial,
            kept=paired.kept(_pace(places["base"], texts, asking)),
            of="requests",
        )
        found: Comparison = paired.run(Pairing(places, texts, asking, quiet), plan)
        record: dict[str, Any] = {
            "server": asked.server,
            "effect": effect,
            "margin": asked.margin,
            "tolerance": asked.tolerance,
            "max_seconds": asked.max_seconds,
            "load": os.getloadavg()[0],
            "verdict": found.verdict,
            "ratio": found.p50_ratio.estimate if found.p50_ratio else None,
            "ttft": found.witnesses["ttft"].estimate if "ttft" in found.witnesses else None,
            "pairs": found.pairs,
            "seconds": found.seconds,
            "reason": found.reason,
        }
        with contextlib.ExitStack() as stack:
            sites = {role: stack.enter_context(sides.site(place, asking, quiet)) for role, place in places.items()}
            levels = load.levels(sites, texts, asking, (1, 4), 24, quiet)
        for role, tallies in levels.items():
            for concurrency, tally in tallies.items():
                level = load.level(concurrency, tally, trial)
                if level.tpot and level.ttft:
                    record[f"{role}-{concurrency}"] = [
                        level.tpot.p50_ms,
                        level.ttft.p50_ms,
                        level.output_tokens_per_second,
                    ]
        return record


def _pace(base: Place, texts: tuple[prompts.Prompt, ...], asking: Asking) -> float:
    with sides.site(base, asking, quiet) as site, site.connect() as client:
        drawn = prompts.order(texts, asking.seed, unique=True, stream=99)
        return paired.Requests(client, drawn, asking, "base").warm_up()


@contextlib.contextmanager
def servers(models: dict[int, Path], effect: str) -> Iterator[tuple[str, str]]:
    """URLs of head and base; without models of servers that wait."""

    def start(more: int) -> contextlib.AbstractContextManager[str]:
        if models:
            return llama.serve(models[more])
        return llama.started("tests.doubles.openai_server", str(WAIT * (LAYERS + more) / LAYERS))

    with start(0) as base:
        if effect == "A/A, one server":
            yield base, base
            return
        with start(EFFECTS[effect]) as head:
            yield head, base


def quiet(text: str, share: float | None) -> None:
    pass


def report(records: list[dict[str, Any]], command: str) -> str:
    """The section of the document."""
    head = (
        "server", "effect", "limit", "trials", "regressed", "within noise", "improved", "inconclusive",
        f"two passes, > {100 * PLAIN:g} %", "whole answer", "first text", "pairs", "per token, base → head",
        "tok/s, base → head", "median time", "load",
    )  # fmt: skip
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["server"], record["max_seconds"], record["effect"]), []).append(record)
    rows = [
        [server, effect, f"{limit:g} s", str(len(found)), *_cells(found)]
        for (server, limit, effect), found in sorted(groups.items(), key=lambda item: _place(*item[0]))
    ]
    margins = ", ".join(sorted({f"{100 * record['margin']:g} %" for record in records}))
    return f"""## Is a slower language model called slower?

`{command}` on {sections.host()}. `llama`: llama.cpp's server (xllamacpp) with {LAYERS} random layers of width 128, one thread;
`+10 %` are 2 more layers, `+30 %` are 6. `waiting`: a server that waits {1000 * WAIT:g} ms for each token, as for a GPU, or longer. {TOKENS} output
tokens, margin {margins}; servers start anew in each trial, and are compared as [llm.md](llm.md) says within the limit. Beside it the usual rule: two load
passes, one after the other, and head is slower when its tokens per second (1 in flight) are more than {100 * PLAIN:g} % fewer: how often it says so. Medians;
tokens per second with 4 in flight; load is the host's 1 min average at the end of a comparison.

{sections.table(list(head), rows)}"""


def _place(server: str, limit: float, effect: str) -> tuple[str, int, float]:
    return server, list(EFFECTS).index(effect), limit


def _cells(found: list[dict[str, Any]]) -> list[str]:
    verdicts = [record["verdict"] for record in found]
    cells = [str(verdicts.count(word)) for word in ("regressed", "within-noise", "improved", "inconclusive")]
    cells.append(str(sum(r["head-1"][2] * (1 + PLAIN) < r["base-1"][2] for r in found)))
    cells += [f"{100 * (_middle(found, name) - 1):+.1f} %" for name in ("ratio", "ttft")]
    cells.append(f"{_middle(found, 'pairs'):.0f}")
    for place, unit, digits in ((0, " ms", 2), (2, "", 0)):
        concurrency = 1 if place == 0 else 4
        both = [_middle([{"x": r[f"{role}-{concurrency}"][place]} for r in found], "x") for role in ("base", "head")]
        cells.append(" → ".join(f"{value:.{digits}f}" for value in both) + unit)
    return [*cells, f"{_middle(found, 'seconds'):.0f} s", f"{_middle(found, 'load'):.1f}"]


def _middle(found: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(record[name] for record in found if record[name] is not None))


if __name__ == "__main__":
    main()
