"""Containers of runs that were killed before they could remove them: known by their label, and removed by the next run.

Where it cannot be seen that a run is gone, its container stays: what was left costs memory, what lives costs a result.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import container

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LABEL = "io.github.trt-action.endpoint"
LOCAL = "http+docker://localhost"
"""How the Docker client writes the address of a Unix socket."""
ENDED = ("exited", "dead")
MOST_PID = 1 << 31


@dataclass(frozen=True)
class Owner:
    """The process that a container was started for.

    Args:
        user: its user's number.
        container: id of the container that it is in, where the engine knows that one. Then the engine says whether it
            lives, and the rest does not count.
        boot, namespace: the kernel's boot id, and the inode of the PID namespace: only there `pid` and `started` (clock
            ticks since boot; numbers of processes are used again) mean anything.
    """

    user: int
    container: str
    boot: str
    namespace: int
    pid: int
    started: int

    def label(self) -> str:
        return json.dumps(asdict(self))


def here(client: DockerClient) -> Owner:
    """This process."""
    return Owner(
        user=os.getuid(),
        container=_own_container(client),
        boot=_boot(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=_started(os.getpid()) or 0,
    )


def remove(client: DockerClient, me: Owner) -> int:
    """Remove what runs of this user left that are gone. Returns how many.

    Raises:
        docker.errors.DockerException: the engine cannot be asked.
    """
    import docker

    removed = 0
    for one in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        owner = _parsed(one.labels.get(LABEL, ""))
        if owner is None or owner.user != me.user:
            continue
        if _is_gone(owner, me, one, client):
            with contextlib.suppress(docker.errors.APIError):  # another run removes it just now
                one.remove(force=True, v=True)
                removed += 1
    return removed


def _is_gone(owner: Owner, me: Owner, left: Container, client: DockerClient) -> bool:
    if owner.container:
        return _has_ended(owner.container, client)
    if not all((owner.boot, me.boot, owner.namespace, me.namespace)):
        return False
    if owner.boot != me.boot:  # this host has booted since, or it is another host that shares a remote engine
        return client.api.base_url == LOCAL and left.status in ENDED
    return owner.namespace == me.namespace and not _lives(owner)


def _has_ended(identifier: str, client: DockerClient) -> bool:
    import docker

    try:
        return client.containers.get(identifier).status in ENDED
    except docker.errors.NotFound:
        return True


def _own_container(client: DockerClient) -> str:
    """Empty outside of a container, and where it is one of another engine than the one that is asked (Docker in Docker)."""
    import docker

    identifier = container.own_id(Path("/proc/self/mountinfo").read_text())
    if identifier is None:
        return ""
    try:
        return str(client.containers.get(identifier).id)
    except docker.errors.NotFound:
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _lives(owner: Owner) -> bool:
    if (started := _started(owner.pid)) is not None:
        return started == owner.started
    try:
        os.kill(owner.pid, 0)  # asks only; with `hidepid`, /proc does not show every process
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _started(pid: int) -> int | None:
    """When a process started (proc_pid_stat(5), field 22); 0 where it has ended and nobody has asked how; None: /proc does
    not show it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _parsed(label: str) -> Owner | None:
    """The owner that a label names; None where it names none: anybody can write a label."""
    try:
        values: Any = json.loads(label)
        owner = Owner(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = (owner.user, owner.namespace, owner.pid, owner.started)
    texts = (owner.container, owner.boot)
    sound = all(type(n) is int for n in numbers) and all(type(t) is str for t in texts) and 0 < owner.pid < MOST_PID
    return owner if sound else None
