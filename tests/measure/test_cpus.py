from __future__ import annotations

import os
from pathlib import Path

import pytest

from trt_action.measure import cpus


@pytest.mark.parametrize(
    ("mask", "siblings", "threads", "chosen"),
    [
        ({0, 1}, {}, 1, {1}),
        ({0, 1}, {}, 0, {0, 1}),
        ({0, 1}, {}, 8, {0, 1}),
        ({0}, {}, 1, {0}),
        ({2, 3, 5}, {}, 2, {3, 5}),
        # four cores with two hardware threads each, numbered as Linux does on most hosts
        (set(range(8)), {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}, 4, {4, 5, 6, 7}),
        # the same numbered core by core: one hardware thread of each core
        (set(range(8)), {cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(8)}, 4, {1, 3, 5, 7}),
        (set(range(8)), {cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(8)}, 5, {1, 3, 5, 6, 7}),
    ],
)
def test_usable_cpus(
    mask: set[int],
    siblings: dict[int, str],
    threads: int,
    chosen: set[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cpu, text in siblings.items():
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{text}\n")
    monkeypatch.setattr(cpus, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask)
    assert cpus.usable_cpus(threads) == chosen


@pytest.mark.parametrize(("threads", "chosen"), [(1, [{3}, {2}, {1}, {0}, {3}]), (2, [{3, 2}, {1, 0}, {3, 2}])])
def test_runs_side_by_side_have_cpus_of_their_own(
    threads: int, chosen: list[set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert [cpus.usable_cpus(threads, neighbour=i) for i in range(len(chosen))] == chosen


def test_this_host() -> None:
    assert cpus.usable_cpus(0) == os.sched_getaffinity(0)
    assert len(cpus.usable_cpus(1)) == 1
