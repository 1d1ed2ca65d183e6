"""What of this machine takes part in a vector: libraries, processor, driver."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from embed_assets.encoders import nvidia

PACKAGES = ("openvino", "torch", "numpy", "soxr", "av", "soundfile")
"""Packages that decode, resample, or compute features and vectors; `pip install` names them."""


def environment(device: str) -> dict[str, str]:
    """Names and versions, e.g. `soxr`: `1.1.0`; what is missing has no entry.

    `device`: EMBED_DEVICE, as another one may be another engine. Takes a tenth of a second.
    """
    found = {"embed_assets": _version("embed_assets"), "EMBED_DEVICE": device}
    found |= {name: _version(name) for name in PACKAGES}
    found |= {"FFmpeg": _ffmpeg(), "libsoxr": _libsoxr()}
    found |= {"CPU": cpu(), "GPU driver": nvidia.driver_version()}
    return {name: version for name, version in found.items() if version}


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs between two environments, e.g. `soxr 1.0.0 -> 1.1.0`; none if one is unknown."""
    if not before or not now:
        return []
    names = list(dict.fromkeys([*before, *now]))
    return [
        f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name, family and model of the processor: names alone may be as vague as `AMD EPYC`."""
    try:
        lines = cpuinfo.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":") for line in lines]
    told = {key.strip(): value.strip() for key, _, value in pairs}
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    named = told.get("model name") or platform.processor() or platform.machine()
    return ", ".join([named, *numbers])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ffmpeg() -> str:
    """The libraries that decode, as PyAV of a distribution may use others than its own."""
    import av

    names = ("libavcodec", "libavformat", "libswresample")
    versions = {name: av.library_versions.get(name, ()) for name in names}
    return " ".join(f"{name} {'.'.join(map(str, v))}" for name, v in versions.items())


def _libsoxr() -> str:
    import soxr

    return str(getattr(soxr, "__libsoxr_version__", ""))
