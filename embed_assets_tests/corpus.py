"""A thousand bad files: every container that the project reads, damaged in every way, by seed.

What belongs here: how they are made, and what each may become. What does become of them is for
the tests to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from embed_assets_tests.encoded import encode, synchsafe
from embed_assets_tests.oddities import oddities
from embed_assets_tests.synth import music

GOOD, BAD, EITHER = "embedded", "rejected", "either"

RATE = 22_050
SECONDS = 2.5

CONTAINERS = {
    # suffix: (FFmpeg muxer, encoder, sample format, rate)
    "mp3": ("mp3", "libmp3lame", "s16p", RATE),
    "mp2": ("mp2", "mp2", "s16", RATE),
    "flac": ("flac", "flac", "s16", RATE),
    "ogg": ("ogg", "vorbis", "fltp", RATE),
    "oga": ("ogg", "flac", "s16", RATE),
    "opus": ("ogg", "libopus", "s16", 48_000),
    "m4a": ("ipod", "aac", "fltp", RATE),
    "m4b": ("ipod", "alac", "s16p", RATE),
    "aac": ("adts", "aac", "fltp", RATE),
    "wav": ("wav", "pcm_s16le", "s16", RATE),
    "wave": ("wav", "adpcm_ms", "s16", RATE),
    "bwf": ("wav", "pcm_f32le", "flt", RATE),
    "aiff": ("aiff", "pcm_s16be", "s16", RATE),
    "w64": ("w64", "pcm_s16le", "s16", RATE),
    "wma": ("asf", "wmav2", "fltp", RATE),
    "wv": ("wv", "wavpack", "s16p", RATE),
    "tta": ("tta", "tta", "s16", RATE),
    "mka": ("matroska", "flac", "s16", RATE),
    "ac3": ("ac3", "ac3", "fltp", 48_000),
    "eac3": ("eac3", "eac3", "fltp", 48_000),
    "au": ("au", "pcm_s16be", "s16", RATE),
    "caf": ("caf", "alac", "s16p", RATE),
    "amr": ("amr", "libopencore_amrnb", "s16", 8_000),
}
"""What can be made here; ape, mpc, tak, shn and dts only as headers with noise behind them."""


@dataclass(frozen=True)
class Made:
    """A file: its name, its bytes, what was done to it, and what may become of it."""

    name: str
    content: bytes
    done: str
    may: str


def corpus(seed: int = 0) -> Iterator[Made]:
    """Every container x every damage, and the oddities: over a thousand files, all different."""
    for number, suffix in enumerate(CONTAINERS):
        rng = np.random.default_rng([seed, number])
        yield Made(f"whole.{suffix}", whole(suffix, seed), "nothing", GOOD)
        for damage, content, may in _damaged(suffix, seed, rng):
            yield Made(f"{damage} {len(content)}.{suffix}", content, damage.split(" ")[0], may)
    others = list(CONTAINERS)
    rng = np.random.default_rng([seed, 999])
    for suffix in ("mp3", "flac", "m4a", "ape", "mpc", "tak", "shn", "dts", "dsf", "dff", "spx"):
        other = others[int(rng.integers(len(others)))]
        may = GOOD if other != "amr" else EITHER
        yield Made(f"really {other}.{suffix}", whole(other, seed + 77), "wrong-extension", may)
    for name, content, done, may in oddities(whole, rng):
        yield Made(name, content, done, may)


@lru_cache(maxsize=256)
def whole(suffix: str, seed: int, seconds: float = SECONDS) -> bytes:
    """A good file of a container."""
    muxer, codec, fmt, rate = CONTAINERS[suffix]
    return encode(music(seconds, seed * 100 + 7, rate, 1), rate, muxer, codec, fmt)


def _damaged(suffix: str, seed: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes, str]]:
    # Each damage is done to audio of its own: equal audio would be embedded once.
    copies = (whole(suffix, seed + 1 + i) for i in range(10_000))
    for part in (0.002, 0.02, 0.1, 0.5, 0.9, 0.999):
        raw = next(copies)
        yield f"truncated {part:g}", raw[: max(1, int(len(raw) * part))], EITHER
    for flips in (1, 4, 16, 64, 256, 1024, 8192):
        yield f"bit-flips {flips}", _flipped(next(copies), flips, rng), EITHER
    for flips in (1, 8):
        raw = next(copies)
        yield f"header-flips {flips}", _flipped(raw[:64], flips, rng) + raw[64:], EITHER
    for size in (4, 16, 64, 512):
        raw = next(copies)
        yield f"header-noise {size}", rng.bytes(size) + raw[size:], EITHER
        raw = next(copies)
        yield f"header-missing {size}", raw[size:], EITHER
    for begin, end in ((0, 0.02), (0, 0.5), (0.3, 0.6), (0.5, 1), (0.1, 1), (0, 1)):
        raw = bytearray(next(copies))
        a, b = int(len(raw) * begin), int(len(raw) * end)
        raw[a:b] = bytes(b - a)
        yield f"zero-fill {begin:g} to {end:g}", bytes(raw), BAD if end - begin == 1 else EITHER
    for begin, end in ((0.3, 0.6), (0.5, 1), (0.05, 1)):
        raw = bytearray(next(copies))
        a, b = int(len(raw) * begin), int(len(raw) * end)
        raw[a:b] = rng.bytes(b - a)
        yield f"noise {begin:g} to {end:g}", bytes(raw), EITHER
    raw = next(copies)
    yield "cut-out middle", raw[: len(raw) // 3] + raw[len(raw) // 2 :], EITHER
    yield "doubled end to end", next(copies) * 2, EITHER
    yield "rubbish-behind", next(copies) + rng.bytes(20_000), EITHER
    yield "rubbish-before", rng.bytes(3_000) + next(copies), EITHER
    yield "text-before", b"HTTP/1.1 200 OK\r\n\r\n" + next(copies), EITHER
    other = whole("mp3" if suffix != "mp3" else "flac", seed + 50)
    raw = next(copies)
    yield "spliced with another", raw[: len(raw) // 2] + other[len(other) // 2 :], EITHER
    yield "tag-before", b"ID3\x04\0\0" + synchsafe(5000) + bytes(5000) + next(copies), EITHER
    yield "tag-lies", b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + next(copies), EITHER


def _flipped(raw: bytes, flips: int, rng: np.random.Generator) -> bytes:
    bits = np.frombuffer(raw, np.uint8).copy()
    where = rng.integers(0, len(bits), flips)
    np.bitwise_xor.at(bits, where, (1 << rng.integers(0, 8, flips)).astype(np.uint8))
    return bits.tobytes()
