"""The cache under real processes, real signals, and files that others have touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trt_action.engine import cache as caches
from trt_action.engine.cache import Cache, Entry, Facts
from trt_action.evidence import AchievedPrecision

GB = 10**9
FACTS = Facts(
    engine=["engine.onnx"],
    prepared="prepared.onnx",
    achieved_precision=AchievedPrecision(asked="fp32", weight_share=1, flop_share=None, nodes={}),
    build_seconds=1.5,
)


def material(name: str) -> dict[str, object]:
    return {"model": name, "options": {"level": "all"}}


def key(name: str) -> str:
    return caches.key_of(material(name))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Callable[..., Entry | None]]:
    """`store(cache, name, size=1000)`: an engine of `size` bytes and a prepared model of 10."""
    used = []

    def put(cache: Cache, name: str, size: int = 1000) -> Entry | None:
        files = {"engine.onnx": tmp_path / "built-engine", "prepared.onnx": tmp_path / "built-prepared"}
        files["engine.onnx"].write_bytes(name.encode() * (size // len(name)))
        files["prepared.onnx"].write_bytes(b"0123456789")
        used.append(cache)
        with cache.claim(key(name), timeout=5) as claim:
            return claim.entry or cache.put(claim, files, material(name), FACTS)

    yield put
    for cache in used:
        cache.release()


def hit(folder: Path, name: str) -> tuple[Entry | None, list[str]]:
    """What a fresh process would find, holding nothing afterwards."""
    cache = Cache(folder, GB)
    with cache.claim(key(name), timeout=0) as claim:
        found = claim.entry
    cache.release()
    return found, cache.warnings


def visible(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("??/*/entry.json") if not path.parent.name.startswith(".")}


def test_what_was_put_is_found_with_its_facts(tmp_path: Path, store: Callable[..., Entry | None]) -> None:
    folder = tmp_path / "cache"
    assert hit(folder, "a") == (None, [])
    stored = store(Cache(folder, GB), "a")
    found, warnings = hit(folder, "a")
    assert found == stored
    assert found is not None
    assert (found.facts, warnings) == (FACTS, [])
    assert found.folder == folder / key("a")[:2] / key("a")
    record = json.loads((found.folder / "entry.json").read_text())
    assert record["files"]["prepared.onnx"]["bytes"] == 10
    assert record["material"] == material("a")
    assert {path.name for path in found.folder.iterdir()} == {"engine.onnx", "prepared.onnx", "entry.json"}


def test_keys_do_not_depend_on_order_and_do_on_values() -> None:
    assert caches.key_of({"a": 1, "b": [1, 2]}) == caches.key_of({"b": [1, 2], "a": 1})
    assert len({caches.key_of(m) for m in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"b": 1}, {"a": None}, {})}) == 6


def _replace(text: str, by: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        content = (home / "entry.json").read_text()
        assert text in content
        (home / "entry.json").write_text(content.replace(text, by))

    return change


def _flip(name: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        content = bytearray((home / name).read_bytes())
        content[len(content) // 2] ^= 1
        (home / name).write_bytes(content)

    return change


def _link_out(home: Path) -> None:
    outside = home.parent.parent.parent / "outside"
    shutil.copy(home / "engine.onnx", outside)
    (home / "engine.onnx").unlink()
    (home / "engine.onnx").symlink_to(outside)


def _pipe(home: Path) -> None:
    (home / "entry.json").unlink()
    os.mkfifo(home / "entry.json")


def _link_folder(home: Path) -> None:
    home.rename(home.with_name("elsewhere"))
    home.symlink_to("elsewhere")


def _file_instead(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        _flip("engine.onnx"),
        _flip("prepared.onnx"),
        lambda home: (home / "engine.onnx").write_bytes(b""),
        lambda home: (home / "prepared.onnx").unlink(),
        lambda home: (home / "entry.json").unlink(),
        lambda home: (home / "entry.json").write_bytes(b""),
        lambda home: (home / "entry.json").write_bytes(b"\xff\xfe{"),
        lambda home: (home / "entry.json").write_text("[" * 100_000),
        lambda home: (home / "entry.json").write_text(" " * (caches.ENTRY_LIMIT + 1)),
        _replace('"schema": 1', '"schema": 2'),
        _replace('"a"', '"b"'),
        _replace("engine.onnx", "../engine.onnx"),
        _replace("engine.onnx", "/etc/passwd"),
        _replace('"build_seconds": 1.5', '"build_seconds": NaN'),
        _replace('"weight_share": 1', '"weight_share": 7'),
        _link_out,
        _link_folder,
        _pipe,
        _file_instead,
    ],
)
def test_a_damaged_or_foreign_entry_is_a_miss_and_is_replaced(
    damage: Callable[[Path], None], tmp_path: Path, store: Callable[..., Entry | None]
) -> None:
    folder = tmp_path / "cache"
    assert store(Cache(folder, GB), "a") is not None
    damage(folder / key("a")[:2] / key("a"))
    cache = Cache(folder, GB)
    with cache.claim(key("a"), timeout=5) as claim:
        assert (claim.entry, claim.owner) == (None, True)
    assert store(cache, "a") is not None
    found, warnings = hit(folder, "a")
    assert found is not None
    assert warnings == []


def test_a_damaged_entry_is_noted(tmp_path: Path, store: Callable[..., Entry | None]) -> None:
    folder = tmp_path / "cache"
    store(Cache(folder, GB), "a")
    _flip("engine.onnx")(folder / key("a")[:2] / key("a"))
    found, warnings = hit(folder, "a")
    assert found is None
    assert "engine.onnx is not what was stored" in warnings[0]


def test_eviction_takes_the_one_used_longest_ago_and_never_one_in_use(
    tmp_path: Path, store: Callable[..., Entry | None]
) -> None:
    folder = tmp_path / "cache"
    for age, name in ((400, "in-use"), (300, "old"), (200, "older-but-hit"), (100, "young")):
        cache = Cache(folder, GB)
        entry = store(cache, name)
        assert entry is not None
        os.utime(entry.folder / "entry.json", (0, entry.folder.stat().st_mtime - age))
        size = sum(file.stat().st_size for file in entry.folder.iterdir())
        cache.release()
    assert hit(folder, "older-but-hit")[0] is not None
    user = Cache(folder, GB)
    with user.claim(key("in-use"), timeout=0) as claim:
        assert claim.entry is not None
        os.utime(claim.entry.folder / "entry.json", (0, 0))
    writer = Cache(folder, 3 * size + size // 2)
    assert store(writer, "new") is not None
    assert visible(folder) == {key(name) for name in ("in-use", "older-but-hit", "new")}
    user.release()
    writer.release()
    writer.evict()
    assert key("in-use") in visible(folder)  # it fits now
    Cache(folder, 0).evict()
    assert visible(folder) == set()
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_an_engine_larger_than_the_limit_is_not_cached(tmp_path: Path, store: Callable[..., Entry | None]) -> None:
    cache = Cache(tmp_path / "cache", 500)
    assert store(cache, "a") is None
    assert "was not cached" in cache.warnings[0]
    assert visible(tmp_path / "cache") == set()


def test_no_cache(store: Callable[..., Entry | None]) -> None:
    cache = Cache(None, GB)
    assert store(cache, "a") is None
    cache.evict()
    assert cache.warnings == []


@pytest.mark.parametrize("blocked", ["file", "below-a-file", "link-to-nowhere", "name-too-long", "proc"])
def test_a_folder_that_cannot_be_used_never_fails_the_run(
    blocked: str, tmp_path: Path, store: Callable[..., Entry | None]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link-to-nowhere").symlink_to(tmp_path / "nowhere" / "at" / "all" / "\udcff")
    folder = {
        "file": tmp_path / "file",
        "below-a-file": tmp_path / "file" / "cache",
        "link-to-nowhere": tmp_path / "link-to-nowhere",
        "name-too-long": tmp_path / ("n" * 300),
        "proc": Path("/proc/trt-action"),
    }[blocked]
    cache = Cache(folder, GB)
    assert store(cache, "a") is None
    assert len(cache.warnings) == 1
    cache.evict()


@pytest.mark.root
def test_a_read_only_cache_is_read_and_not_written(
    tmp_path: Path, small_disk: Path, store: Callable[..., Entry | None]
) -> None:
    writer = Cache(small_disk, GB)
    assert store(writer, "a") is not None
    writer.release()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    cache = Cache(small_disk, GB)
    with cache.claim(key("a"), timeout=0) as claim:
        assert claim.entry is not None
    assert cache.warnings == []
    assert store(cache, "b") is None
    assert "Read-only file system" in cache.warnings[0]
    cache.release()


@pytest.mark.root
def test_an_entry_of_another_user_is_not_used(store: Callable[..., Entry | None]) -> None:
    if os.geteuid() != 0:
        pytest.skip("changing the owner of a file needs root")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        writer = Cache(folder, GB)
        entry = store(writer, "a")
        writer.release()
        assert entry is not None
        for path in (folder, entry.folder.parent, entry.folder):
            path.chmod(0o755)
        (entry.folder / "entry.json").chmod(0o644)
        assert _as_user(65534, owner=12345, home=entry.folder) == ["belongs to another user"]
        assert _as_user(65534, owner=65534, home=entry.folder) == []
        assert _as_user(65534, owner=0, home=entry.folder) == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("cache_owner", "cache_mode", "owner", "mode", "taken"),
    [
        (0, 0o755, 12345, 0o700, False),
        (12345, 0o755, 12345, 0o700, True),
        (12345, 0o777, 12345, 0o700, False),
        (0, 0o777, 0, 0o700, True),
        (0, 0o755, 0, 0o777, False),
    ],
)
def test_root_takes_what_belongs_to_the_owner_of_the_cache(
    store: Callable[..., Entry | None],
    tmp_path: Path,
    cache_owner: int,
    cache_mode: int,
    owner: int,
    mode: int,
    taken: bool,
) -> None:
    """A runner's user restores the cache, the action's container uses it; nobody else may bring engines in."""
    if os.geteuid() != 0:
        pytest.skip("changing the owner of a file needs root")
    folder = tmp_path / "cache"
    writer = Cache(folder, GB)
    entry = store(writer, "a")
    writer.release()
    assert entry is not None
    os.chown(folder, cache_owner, -1)
    folder.chmod(cache_mode)
    entry.folder.chmod(mode)
    assert _as_user(0, owner=owner, home=entry.folder) == ([] if taken else ["belongs to another user"])


def _as_user(user: int, *, owner: int, home: Path) -> list[str]:
    """Why the entry at `home`, belonging to `owner`, is not used by `user`."""
    os.chown(home, owner, -1)
    os.seteuid(user)
    try:
        found, warnings = hit(home.parent.parent, "a")
    finally:
        os.seteuid(0)
    assert (found is None) == any(warnings)
    return [text.rpartition(": it ")[2].rstrip(".") for text in warnings if ": it " in text]


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(small_disk: Path, store: Callable[..., Entry | None]) -> None:
    cache = Cache(small_disk, GB)
    assert store(cache, "big", size=2_000_000) is None
    assert "No space left on device" in cache.warnings[0]
    assert visible(small_disk) == set()
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) == 0
    assert store(cache, "small") is not None
    cache.release()


BUILDER = """
import sys, time
from pathlib import Path
from trt_action.engine.cache import Cache
sys.path.insert(0, sys.argv[5])
from test_cache import FACTS, key, material
folder, work, name, log = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
cache = Cache(folder, 10**9)
work.mkdir()
with cache.claim(key(name), timeout=60) as claim:
    entry = claim.entry
    if entry is None:
        with log.open("a") as file:
            file.write("built\\n")
        files = {n: work / n for n in ("engine.onnx", "prepared.onnx")}
        for path in files.values():
            path.write_bytes(b"x" * 3_000_000)
        entry = cache.put(claim, files, material(name), FACTS)
assert entry is not None, cache.warnings
print(len((entry.folder / "engine.onnx").read_bytes()), cache.warnings)
"""


def _builder(folder: Path, work: Path, name: str, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), str(work), name, str(log), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_parallel_processes_build_once_and_all_get_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = [_builder(tmp_path / "cache", tmp_path / f"work-{i}", "same", log) for i in range(4)]
    said = {process.communicate(timeout=60)[0] for process in running}
    assert said == {"3000000 []\n"}
    assert log.read_text() == "built\n"


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from trt_action.engine.cache import Cache
from test_cache import FACTS, key, material
cache = Cache(Path(sys.argv[1]), 10**9)
pipe = Path(sys.argv[2])  # copying blocks on it, in the middle of `put`
whole = Path(sys.argv[2] + ".whole")
whole.write_bytes(b"x" * 1000)
with cache.claim(key("a"), timeout=60) as claim:
    cache.put(claim, {"engine.onnx": whole, "prepared.onnx": pipe}, material("a"), FACTS)
"""


def test_a_writer_that_is_killed_leaves_no_visible_entry(tmp_path: Path, store: Callable[..., Entry | None]) -> None:
    folder, pipe = tmp_path / "cache", tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", KILLED, str(folder), str(pipe), str(Path(__file__).parent)]
    with subprocess.Popen(command) as writer, pipe.open("wb") as stream:  # opens when the writer reads
        stream.write(b"half of it")
        stream.flush()
        assert list(folder.glob("??/.tmp-*/engine.onnx"))
        waiting: list[bool] = []
        impatient = Cache(folder, GB)
        with impatient.claim(key("a"), timeout=0.2, waiting=lambda: waiting.append(True)) as claim:
            assert (claim.entry, claim.owner, waiting) == (None, False, [True])
        assert "has been building the same engine" in impatient.warnings[0]
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert visible(folder) == set()
    assert hit(folder, "a") == (None, [])
    assert store(Cache(folder, GB), "a") is not None
    assert list(folder.glob("??/.tmp-*")) == []


def test_what_a_killed_writer_left_goes_with_the_next_eviction(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    leftover = folder / key("x")[:2] / f".tmp-{key('x')}-0123"
    leftover.mkdir(parents=True)
    (leftover / "engine.onnx").write_bytes(b"half")
    cache, other = Cache(folder, GB), Cache(folder, GB)
    with other.claim(key("y"), timeout=0):
        written = folder / key("y")[:2] / f".tmp-{key('y')}-0123"
        written.mkdir()
        cache.evict()
        assert not leftover.exists()
        assert written.exists()
