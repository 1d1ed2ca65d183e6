"""Synthesises the audio that the tests need: every container, tags, deterministic by seed.

Tracks of different seeds sound different (chord, rhythm, timbre), those of one seed the same.
"""

from __future__ import annotations

import functools
import os
import wave
from pathlib import Path

import numpy as np

CODECS = {
    ".wav": ("wav", "pcm_s16le", "s16"),
    ".flac": ("flac", "flac", "s16"),
    ".mp3": ("mp3", "libmp3lame", "s16p"),
    ".ogg": ("ogg", "vorbis", "fltp"),
    ".opus": ("ogg", "libopus", "s16"),
    ".m4a": ("ipod", "aac", "fltp"),
    ".aac": ("adts", "aac", "fltp"),
    ".aiff": ("aiff", "pcm_s16be", "s16"),
    ".mka": ("matroska", "pcm_s16le", "s16"),
}
"""Suffix to (FFmpeg muxer, encoder, sample format)."""


@functools.lru_cache(maxsize=64)
def music(seconds: float = 4.0, seed: int = 0, rate: int = 44100, channels: int = 2) -> np.ndarray:
    """A little tune, float32 [channels, round(seconds * rate)] within ±.6; read-only."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate), dtype=np.float32) / np.float32(rate)
    root = 110.0 * 2 ** (rng.integers(0, 24) / 12)
    chord = root * 2 ** (np.cumsum(rng.integers(2, 6, size=3)) / 12)
    beat = np.float32(rng.uniform(1.2, 5.0))
    decay = np.float32(rng.uniform(2.0, 12.0))
    envelope = np.exp(-decay * ((t * beat) % 1.0) / beat)
    mono = np.zeros_like(t)
    harmonics = rng.uniform(0.0, 1.0, size=5) / np.arange(1, 6)
    for freq in (root, *chord):
        for k, weight in enumerate(harmonics, start=1):
            if freq * k < rate / 2:
                mono += np.float32(weight) * np.sin(np.float32(2 * np.pi * freq * k) * t)
    mono = envelope * mono + np.float32(rng.uniform(0.0, 0.4)) * envelope * rng.standard_normal(
        len(t), dtype=np.float32
    )
    mono *= np.float32(0.5) / max(float(np.abs(mono).max(initial=0.0)), 1e-6)
    pan = np.linspace(0.85, 1.15, channels, dtype=np.float32)[:, None]
    out = (mono * pan).astype(np.float32)
    out.flags.writeable = False
    return out


def write_audio(
    path: str | bytes | os.PathLike,
    samples: np.ndarray,
    rate: int = 44100,
    tags: dict[str, str] | None = None,
    suffix: str | None = None,
    cover: bytes | None = None,
    bit_rate: int | None = None,
) -> Path:
    """Encode float32 [channels, n] into `path`; container and codec from its suffix.

    `cover`: a PNG picture to attach (mp3 only). Opus is written at 48 kHz.
    """
    import av

    target = os.fsdecode(path)
    muxer, codec, fmt = CODECS[suffix or Path(target).suffix.lower()]
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if codec == "vorbis":
        return _write_vorbis(target, samples, rate, tags or {})
    with open(target, "wb") as file, av.open(file, "w", format=muxer) as out:
        out.metadata.update(tags or {})
        stream = out.add_stream(codec, rate=48000 if codec == "libopus" else rate, layout=layout)
        stream.codec_context.format = fmt
        if muxer == "ogg":
            stream.metadata.update(tags or {})
        if bit_rate:
            stream.bit_rate = bit_rate
        if cover:
            picture = out.add_stream("png", rate=1)
            picture.width = picture.height = 16
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.astype(np.float32)), format="fltp", layout=layout
        )
        frame.sample_rate = rate
        if cover:
            image = av.VideoFrame.from_ndarray(
                np.full((16, 16, 3), cover[0] if cover else 0, dtype=np.uint8), format="rgb24"
            )
            for packet in picture.encode(image):
                out.mux(packet)
        for packet in stream.encode(frame):
            out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return Path(target)


def _write_vorbis(target: str, samples: np.ndarray, rate: int, tags: dict[str, str]) -> Path:
    """Vorbis from libsndfile (PyAV's wheel has no libvorbis), remuxed by FFmpeg with the tags."""
    import io

    import av
    import soundfile

    plain = io.BytesIO()
    with soundfile.SoundFile(
        plain, "w", rate, samples.shape[0], format="OGG", subtype="VORBIS"
    ) as file:
        # libsndfile overflows its stack (a crash) when it is given minutes of Vorbis at once.
        for begin in range(0, samples.shape[1], 1 << 16):
            file.write(samples.T[begin : begin + (1 << 16)])
    plain.seek(0)
    with (
        av.open(plain) as source,
        open(target, "wb") as file,
        av.open(file, "w", format="ogg") as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        stream.metadata.update(tags)
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return Path(target)


def write_track(
    path: str | bytes | os.PathLike,
    seconds: float = 4.0,
    seed: int = 0,
    tags: dict[str, str] | None = None,
    rate: int = 44100,
    channels: int = 2,
) -> Path:
    """Write a synthetic track; container and codec from the suffix; parents are made."""
    return write_audio(path, music(seconds, seed, rate, channels), rate=rate, tags=tags)


def write_hour(path: str | os.PathLike, seed: int = 0) -> None:
    """An hour of noise, quickly made: with EMBED_WINDOWS=0 work for many seconds."""
    noise = np.random.default_rng(seed).integers(64, 192, 8000, np.uint8).tobytes()
    with wave.open(os.fspath(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(noise * 3600)
