"""NVIDIA's driver and GPUs: identity, free memory, clocks, and whether this user may use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action import container
from trt_action.doctor.line import Check, Status, gib, line, refused
from trt_action.engine import cuda, devices, telemetry
from trt_action.engine.devices import Device
from trt_action.engine.inventory import Found, Inventory, inventory
from trt_action.errors import BackendUnavailableError, TrtActionError

DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
PCI = Path("/sys/bus/pci/devices")
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
LITTLE_MEMORY = 0.5
"""Share of a GPU's memory below which somebody else seems to use it."""

TOOLKIT_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """What could be found out about this host's GPUs. `visible`: there are device files of one.

    `known` is what NVML says, `opened` what CUDA says of the GPU that was asked for; else the reason why not.
    """

    visible: bool
    known: Inventory | TrtActionError | None = None
    opened: Device | TrtActionError | None = None

    @property
    def cuda_of_driver(self) -> str | None:
        """The newest CUDA that the driver runs, e.g. `13.0`."""
        if isinstance(self.opened, Device):
            return self.opened.driver_cuda
        return self.known.cuda if isinstance(self.known, Inventory) else None


def look(device: str = "auto") -> Seen:
    """Opens CUDA in a child process where there is a GPU; takes a second or two there."""
    if not devices.visible():
        return Seen(False)
    return Seen(True, _tried(inventory), _tried(lambda: devices.facts(cuda.parse_device(_named(device)) or 0)))


def _named(device: str) -> str:
    return device if device.startswith("cuda") else "cuda"


def _tried(ask: Any) -> Any:
    try:
        return ask()
    except TrtActionError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a boundary: whatever the libraries of an unknown host raise
        return BackendUnavailableError(f"A library of NVIDIA's fails: {type(error).__name__}: {error}.")


def lines(seen: Seen, needed: bool) -> Iterator[Check]:
    """`needed`: what was asked for cannot run without a GPU."""
    if not seen.visible:
        yield _none(needed)
        return
    lacking: Status = "red" if needed else "amber"
    yield from _files(lacking)
    if isinstance(seen.known, Inventory):
        yield _driver(seen.known)
        for number, gpu in enumerate(seen.known.gpus):
            yield from _gpu(f"gpu {number}", gpu)
        if not seen.known.gpus:
            yield line("gpu", lacking, "the driver knows no GPU", "Check `nvidia-smi` and `dmesg | grep -i nvrm`.")
    elif seen.known is not None:
        yield refused("nvidia driver", seen.known, lacking, "Check `nvidia-smi`.")
    yield _cuda(seen.opened, lacking)
    yield _toolkit()


def _none(needed: bool) -> Check:
    if _card_is_there():
        fix = "Install NVIDIA's driver: https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
        return line("gpu", "red" if needed else "amber", "a card of NVIDIA's is there, and no driver for it", fix)
    where = "in this container" if _in_container() else "here"
    if not needed:
        return line("gpu", "green", f"no GPU {where}: ONNX Runtime measures on the CPU")
    fix = "Run on a host with an NVIDIA GPU (a container: with `--gpus all`), or with `backend: onnxruntime`."
    return line("gpu", "red", f"no GPU {where}", fix)


def _in_container() -> bool:
    try:
        return container.own_id(Path("/proc/self/mountinfo").read_text()) is not None
    except OSError:
        return False


def _card_is_there() -> bool:
    """By the bus, which every process may read."""
    for folder in PCI.glob("*"):
        try:
            vendor, kind = (folder / "vendor").read_text().strip(), (folder / "class").read_text().strip()
        except OSError:
            continue
        if vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS):
            return True
    return False


def _files(lacking: Status) -> Iterator[Check]:
    """CUDA opens these two whatever the GPU's number; WSL 2 has neither."""
    if Path("/dev/dxg").exists():
        return
    for name in DEVICE_FILES:
        if not Path(name).exists():
            fix = "Load the module: `sudo nvidia-modprobe -u -c=0`; in a container, start it with `--gpus all`."
            yield line("gpu device files", lacking, f"{name} is not there", fix)
        elif not os.access(name, os.R_OK | os.W_OK):
            fix = f"Give this user access: `ls -l {name}` names the group (`sudo usermod -aG video $USER`)."
            yield line("gpu device files", lacking, f"{name} may not be opened by this user", fix)
        else:
            continue
        return
    yield line("gpu device files", "green", "may be opened")


def _driver(known: Inventory) -> Check:
    return line("nvidia driver", "green", f"{known.driver or 'of an unknown version'}, runs CUDA {known.cuda or '?'}")


def _gpu(name: str, gpu: Found) -> Iterator[Check]:
    identity, now = gpu.identity, gpu.now
    kind = f"{identity.get('name') or 'a GPU'} ({identity.get('capability') or '?'})"
    if identity.get("mig_instance"):
        kind += ", an instance of it (MIG)"
    mode = identity.get("compute_mode")
    if mode == "prohibited":
        fix = "`sudo nvidia-smi -c DEFAULT` lets processes compute on it again."
        yield line(name, "red", f"{kind}: its compute mode is prohibited", fix, str(identity.get("uuid") or ""))
    else:
        yield line(name, "green", kind, private=str(identity.get("uuid") or ""))
    yield _memory(name, gpu)
    yield _clocks(name, identity, now)
    if identity.get("ecc_uncorrected"):
        found = f"{identity['ecc_uncorrected']} uncorrected memory errors since the driver was loaded"
        yield line(f"{name} memory errors", "amber", found, "Check `nvidia-smi -q -d ECC`; the card may be failing.")


def _memory(name: str, gpu: Found) -> Check:
    total, free = gpu.identity.get("memory_bytes"), gpu.free_bytes
    if total is None or free is None:
        return line(f"{name} memory", "green", "not told by this GPU (it shares the host's)")
    found = f"{gib(free)} of {gib(total)} free"
    others = len(gpu.now.processes or ())
    if others:
        found += f", {others} other process{'es' if others > 1 else ''}"
    busy = gpu.now.gpu_utilization
    if busy is not None and busy > telemetry.BUSY:
        found += f", {busy:.0%} busy"
    elif free >= LITTLE_MEMORY * total and not others:
        return line(f"{name} memory", "green", found)
    return line(
        f"{name} memory", "amber", found, "End what else uses this GPU (`nvidia-smi` lists it) before measuring."
    )


def _clocks(name: str, identity: dict[str, Any], now: Any) -> Check:
    """Idle clocks are low: what counts is what holds them down, and that they may rise to their maximum."""
    most, held = identity.get("max_sm_clock_mhz"), identity.get("application_sm_clock_mhz")
    found = f"{now.sm_clock_mhz if now.sm_clock_mhz is not None else '?'} of {most or '?'} MHz"
    if now.temperature_c is not None:
        found += f", {now.temperature_c} °C"
    slowed = [reason for reason in now.clock_reasons or () if reason in telemetry.SLOWED]
    if slowed:
        fix = "Improve its cooling or power supply: a GPU that slows itself down decides nothing."
        return line(f"{name} clocks", "amber", f"{found}, held down ({', '.join(slowed)})", fix)
    if held and most and held < most:
        fix = "Lock them where you want to measure (`sudo nvidia-smi --lock-gpu-clocks`), or reset: `sudo nvidia-smi -rac`."
        return line(f"{name} clocks", "amber", f"{found}, set to {held} MHz at most", fix)
    if identity.get("persistence") is False:
        fix = "`sudo nvidia-smi -pm 1`: without it the driver unloads between processes, and each one starts slowly."
        return line(f"{name} clocks", "amber", f"{found}, persistence mode is off", fix)
    return line(f"{name} clocks", "green", found)


def _cuda(opened: Device | TrtActionError | None, lacking: Status) -> Check:
    if isinstance(opened, Device):
        return line("cuda", "green", f"{opened.binding} opens {opened.name} ({opened.capability})", private=opened.uuid)
    if opened is None:
        return line("cuda", lacking, "was not tried", "Run again.")
    return refused("cuda", opened, lacking, "`pip install 'trt-action[cuda]'`.")


def _toolkit() -> Check:
    """CUDA's compiler: nothing here needs it; who builds plug-ins does."""
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return line("cuda toolkit", "green", "not installed, and not needed")
    try:
        done = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, errors="replace", timeout=TOOLKIT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return line("cuda toolkit", "green", "does not answer, and is not needed", private=nvcc)
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    return line("cuda toolkit", "green", release[1] if release else "of an unknown version", private=nvcc)
