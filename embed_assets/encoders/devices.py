"""Which device a value of EMBED_DEVICE means on this machine, and who may use it.

A requested device is never replaced by another one. Knows no encoder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.encoders.nvidia import gpus, hidden, near_the_best, nvidia_gpu
from embed_assets.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    import numpy as np
    from filelock import FileLock

_LEASES: list[FileLock] = []
"""Locks that are held until the process ends, or until its device turned out to be unusable."""

_OTHERS = ("/dev/kfd", "/dev/dxg")
"""AMD's GPUs, which torch calls CUDA in a build for ROCm; the second under Windows."""

_CHOICES = "Set it to auto, cpu, cuda, cuda:N, mps or openvino:GPU"


def resolve_device(wanted: str) -> str:
    """The device for a value of EMBED_DEVICE: cpu, cuda, cuda:N, mps, or openvino:NAME.

    Raises:
        ConfigurationError: it is missing; or `auto` finds an NVIDIA GPU that torch cannot use, as
            nobody wants to notice after days that the CPU did the work.
    """
    kind, _, index = wanted.partition(":")
    if wanted == "cpu" or (wanted == "auto" and not (nvidia_gpu() or _others())):
        return "cpu"
    if kind == "openvino" and index:
        return _openvino_device(wanted, index)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    match kind:
        case "auto" if not index:
            if not gpus and (broken := nvidia_gpu()):
                raise ConfigurationError(
                    f"EMBED_DEVICE is 'auto', and this machine has an NVIDIA GPU ({broken}) that"
                    f" torch cannot use ({_why_no_cuda()}). Repair the driver, or give the"
                    " container access to the GPU; or set EMBED_DEVICE=cpu to do without it."
                )
            return "cuda" if gpus else "cpu"
        case "cuda" if not index or (index.isascii() and index.isdigit()):
            if int(index or 0) < gpus:
                return wanted
            found = f"torch finds {gpus or 'no'} CUDA device{'' if gpus == 1 else 's'} here"
            if not gpus:
                found += f" ({_why_no_cuda()})"
        case "mps" if not index:
            if torch.backends.mps.is_available():
                return wanted
            found = "torch finds no Apple GPU here"
        case _:
            found = "there is no such device"
    raise ConfigurationError(f"EMBED_DEVICE is {wanted!r}, but {found}. {_CHOICES}.")


def require(wanted: str) -> None:
    """Fail if `resolve_device` would, as far as is known without loading torch.

    Raises:
        ConfigurationError: this machine has no GPU of the requested kind.
    """
    kind, _, index = wanted.partition(":")
    if kind == "openvino" and index != "CPU":
        _openvino_device(wanted, index)
        return
    if kind == "cuda" and not nvidia_gpu() and not _others():
        found = "this process can see no NVIDIA GPU"
        found += " (CUDA_VISIBLE_DEVICES hides them)" if hidden() else ""
    elif kind == "cuda" and index.isdigit() and (there := gpus()) and int(index) >= len(there):
        found = f"its driver counts {len(there)}, of which the first is cuda:0"
    elif kind == "mps" and sys.platform != "darwin":
        found = "only Macs have that"
    else:
        return
    raise ConfigurationError(f"EMBED_DEVICE is {wanted!r}, but {found}. Set EMBED_DEVICE=auto.")


def is_single(wanted: str) -> bool:
    """Whether all work goes to one device, so that one process is enough; loads no torch."""
    kind, _, name = wanted.partition(":")
    if kind == "openvino":
        return name != "CPU"
    return kind in ("cuda", "mps") or (kind == "auto" and bool(nvidia_gpu()))


def lease_cuda(names: Mapping[int, str], folder: Path, wait_seconds: float = 60.0) -> str:
    """Of several CUDA devices one that no other process has leased, as cuda:N, until this one ends.

    `names`: what each is called by all processes, by its number. The kernel holds the lease, a lock
    in `folder`, and takes it back however the process ends. Raises TransientError when all are
    leased for longer than `wait_seconds`.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + wait_seconds
    while True:
        for index, name in names.items():
            lock = FileLock(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _LEASES.append(lock)
            return f"cuda:{index}"
        if time.monotonic() >= give_up:
            raise TransientError(
                f"all {len(names)} CUDA devices are in use by other processes of this EMBED_HOME;"
                " it will be retried. The pool `gpu` should have as many slots as there are"
                " devices."
            )
        time.sleep(1.0)


def end_leases() -> None:
    """Release what this process has leased."""
    while _LEASES:
        _LEASES.pop().release()


def slots(wanted: str) -> int:
    """How many processes may use a device of their own at the same time; loads no torch."""
    return max(1, len(near_the_best())) if wanted in ("auto", "cuda") else 1


def alloc_pinned(shape: tuple[int, ...], device: str) -> np.ndarray:
    """Memory for windows on their way to an `Encoder.device`, float32, not initialised.

    For CUDA it is pinned, from which the GPU fetches by itself, as long as there is some.
    """
    import numpy as np

    if device.startswith("cuda"):
        import torch

        with suppress(RuntimeError):
            return torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
    return np.empty(shape, np.float32)


def _others() -> bool:
    return any(map(os.path.exists, _OTHERS))


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return "its driver finds none"


def _openvino_device(wanted: str, name: str) -> str:
    from embed_assets.encoders.openvino_runtime import Refused, import_openvino

    try:
        there = import_openvino().Core().available_devices
    except (Refused, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_DEVICE is {wanted!r}, but {error}. `make install` installs it; or set"
            " EMBED_DEVICE=auto."
        ) from error
    if any(name in (device, device.partition(".")[0]) for device in there):
        return wanted
    raise ConfigurationError(
        f"EMBED_DEVICE is {wanted!r}, but OpenVINO finds only {', '.join(there) or 'nothing'} here."
        " For Intel graphics install its compute runtime (intel-opencl-icd), put this user into"
        " the group `render`, and in a container pass /dev/dri; or set EMBED_DEVICE=auto."
    )
