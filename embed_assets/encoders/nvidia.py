"""The GPUs of this machine by the NVIDIA driver: in milliseconds, and without torch."""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_* in the driver's interface."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use, with its index in the driver's order."""

    index: int
    capability: tuple[int, int]
    memory: int


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def nvidia_gpu() -> str:
    """Evidence of an NVIDIA GPU that this process may use; empty if there is none."""
    if hidden():
        return ""
    there = gpus()
    if there is not None:
        return f"its driver counts {len(there)}" if there else ""
    return next(iter(sorted(glob.glob("/dev/nvidia[0-9]*"))), "")


def driver_version() -> str:
    """The version of the driver; empty if there is none."""
    with suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    with suppress(OSError, AttributeError):
        return f"CUDA {_number(ctypes.CDLL('libcuda.so.1').cuDriverGetVersion)}"
    return ""


def near_the_best() -> list[int]:
    """Indices of the GPUs that are worth a model; none if the driver does not answer.

    A display's card beside a strong GPU is not: a GPU needs at least half of the strongest one's
    memory, and may be at most one generation older.
    """
    there = gpus() or []
    most = max((gpu.memory for gpu in there), default=0)
    large = [gpu for gpu in there if gpu.memory >= most / 2]
    newest = max((gpu.capability for gpu in large), default=(0, 0))
    return [gpu.index for gpu in large if gpu.capability[0] >= newest[0] - 1]


def gpus() -> list[Gpu] | None:
    """The GPUs that this process may use; None without a working driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0):
            return None
        return [_gpu(driver, index) for index in range(_number(driver.cuDeviceGetCount))]
    except (OSError, AttributeError):
        return None


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device = _number(driver.cuDeviceGet, index)
    major, minor = (_number(driver.cuDeviceGetAttribute, x, device) for x in (_MAJOR, _MINOR))
    memory = ctypes.c_size_t()
    if driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device):
        raise OSError(f"the NVIDIA driver gives no information about GPU {index}")
    return Gpu(index, (major, minor), memory.value)


def _number(ask: Callable[..., int], *of: int) -> int:
    answer = ctypes.c_int()
    if ask(ctypes.byref(answer), *of):
        raise OSError("the NVIDIA driver gives no answer")
    return answer.value
