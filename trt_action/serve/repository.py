"""The models that are served: loaded, swapped for another version without losing a request, unloaded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trt_action.errors import SettingsError, StorageError, TrtActionError
from trt_action.inputs import quote
from trt_action.serve import folder, refusal
from trt_action.serve.engines import beside
from trt_action.serve.flags import Options
from trt_action.serve.folder import Place
from trt_action.serve.loading import Say, load
from trt_action.serve.model import Model
from trt_action.serve.stats import Stats

Loader = Callable[[Place, Options, Say, Stats], Model]
Signature = tuple[str, tuple[tuple[str, int, int], ...]]
"""A version folder as it stands: version, and name, bytes and modification time of each file."""


@dataclass
class Slot:
    """What is known of one model. `tried`: the folder that was loaded last, or that failed."""

    serving: Model | None = None
    state: str = "LOADING"
    reason: str = ""
    tried: Signature | None = None
    seen: Signature | None = None


class Repository:
    """Models by name; one version of each is served. All methods belong to the event loop."""

    def __init__(self, options: Options, say: Say, loader: Loader = load) -> None:
        self._options = options
        self._say = say
        self._load = loader
        self._slots: dict[str, Slot] = {}
        self._stats: dict[tuple[str, str], Stats] = {}  # a version that is loaded again counts on
        self._lock = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.loads: Counter[tuple[str, str]] = Counter()
        """Loads by model and result (`success`, `failure`)."""
        self.ready = False
        self.on_change: Callable[[], None] = lambda: None

    def models(self) -> list[Model]:
        return [slot.serving for slot in self._slots.values() if slot.serving is not None]

    def get(self, name: str, version: str | None = None) -> Model:
        """The model that serves `name`.

        Raises:
            RefusedError: there is none of that name and version.
        """
        slot = self._slots.get(name)
        if slot is None or slot.serving is None:
            raise refusal.not_found(f"No model {refusal.shown(name)} is loaded.")
        if version is not None and version != slot.serving.version:
            raise refusal.not_found(
                f"Version {refusal.shown(version)} of model {refusal.shown(name)} is not loaded; "
                f"{slot.serving.version} is."
            )
        return slot.serving

    async def start(self) -> None:
        """Load the newest version of every model; then the server is ready.

        Raises:
            TrtActionError: one of them cannot be served.
        """
        async with self._lock:
            for name, place in (await asyncio.to_thread(self._newest)).items():
                await self._replace(name, place)
        self.ready = True

    async def load(self, name: str) -> None:
        """Load the newest version of `name` and swap; the old one keeps serving until then, and if it fails.

        Raises:
            RefusedError: there is no such folder, or it cannot be served (why is in the message).
        """
        async with self._lock:
            try:
                place = (await asyncio.to_thread(self._newest)).get(name)
                if place is None:
                    raise refusal.not_found(f"The repository has no model {refusal.shown(name)}.")
                await self._replace(name, place)
            except TrtActionError as error:
                raise refusal.RefusedError(400, _told(error, self._options.path), "model") from None

    async def unload(self, name: str) -> None:
        """Take `name` out of service; its requests in flight are finished.

        Raises:
            RefusedError: it is not loaded.
        """
        async with self._lock:
            model = self.get(name)
            slot = self._slots[name]
            slot.serving, slot.state, slot.reason, slot.tried = None, "UNAVAILABLE", "unloaded", None
            self.on_change()
            self._say(f"Unloaded {name} version {model.version}.")
            self._retire(model)

    async def watch(self) -> None:
        """Look for new and changed version folders for ever. A folder is loaded when it was the same at two looks, so
        never while it is being written."""
        while True:
            await asyncio.sleep(self._options.poll_interval)
            async with self._lock:
                try:
                    await self._look()
                except (SettingsError, OSError) as error:  # no reason to stop serving, nor to stop looking
                    self._say(f"The repository cannot be read now: {error}")

    async def close(self) -> None:
        """Free every engine after its requests in flight."""
        for slot in self._slots.values():
            if slot.serving is not None:
                self._retire(slot.serving)
                slot.serving = None
        self.on_change()
        await asyncio.gather(*self._retiring)

    def index(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        """As Triton's repository index. A model whose newest version failed while an older one serves is READY, and
        its reason says what failed."""
        return [
            {
                "name": name,
                "version": slot.serving.version if slot.serving else "",
                "state": slot.state,
                "reason": slot.reason,
            }
            for name, slot in sorted(self._slots.items())
            if slot.state == "READY" or not ready_only
        ]

    def _newest(self) -> dict[str, Place]:
        return folder.newest(folder.find(self._options.path))

    async def _look(self) -> None:
        places = await asyncio.to_thread(self._newest)
        signatures = {name: await asyncio.to_thread(_signature, place) for name, place in places.items()}
        for name, place in places.items():
            slot = self._slots.setdefault(name, Slot())
            settled = slot.seen == signatures[name]
            slot.seen = signatures[name]
            if settled and slot.tried != signatures[name] and slot.reason != "unloaded":
                try:
                    await self._replace(name, place)
                except TrtActionError as error:
                    self._say(f"{place.model} version {place.version} is not served: {error.what} {error.why}".strip())
        for name, slot in list(self._slots.items()):
            if name not in places:
                if slot.serving is not None:
                    self._say(f"The folder of {name} is gone; unloading it.")
                    self._retire(slot.serving)
                del self._slots[name]
                self.on_change()

    async def _replace(self, name: str, place: Place) -> None:
        slot = self._slots.setdefault(name, Slot())
        stats = self._stats.setdefault((name, place.version), Stats())
        try:
            model = await self._loaded(slot, place, stats)
        except TrtActionError as error:
            self.loads[name, "failure"] += 1
            slot.state = "READY" if slot.serving else "UNAVAILABLE"
            slot.reason = f"version {place.version}: {_told(error, self._options.path)}"
            raise
        old, slot.serving, slot.state, slot.reason = slot.serving, model, "READY", ""
        self.loads[name, "success"] += 1
        self.on_change()
        self._say(f"Serving {name} version {model.version}.")
        if old is not None:
            self._retire(old)

    async def _loaded(self, slot: Slot, place: Place, stats: Stats) -> Model:
        """Raises:
        TrtActionError: whatever went wrong.
        """
        try:
            before = slot.tried = await asyncio.to_thread(_signature, place)
            model = await beside(partial(self._load, place, self._options, self._say, stats))
            if await asyncio.to_thread(_signature, place) == before:
                return model
            self._retire(model)
        except OSError as error:
            raise StorageError(f"{quote(place.path)} cannot be read: {error.strerror or error}.") from None
        raise StorageError(
            f"The folder of {quote(place.model)} changed while it was loaded.",
            why="Nobody knows whether what was checked is what was loaded.",
            fix="Write a version under another name and move it into place, or load it again.",
        )

    def _retire(self, model: Model) -> None:
        task = asyncio.create_task(model.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _signature(place: Place) -> Signature:
    files = []
    for entry in sorted(place.path.iterdir()):
        status = entry.stat()
        files.append((entry.name, status.st_size, status.st_mtime_ns))
    return place.version, tuple(files)


def _told(error: TrtActionError, path: Path) -> str:
    """For a client: what and why, without the server's own folders."""
    text = f"{error.what} {error.why}".strip().replace(quote(path), "the repository")
    return text.replace(f"{path.resolve()}/", "").replace(f"{path}/", "")
