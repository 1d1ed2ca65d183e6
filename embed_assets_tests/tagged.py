"""Tags byte by byte, as taggers write them, and files to put them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embed_assets_tests import synth


def encode(path: Path, muxer: str, codec: str, fmt: str, seconds: float = 2, seed: int = 3) -> Path:
    """Write a stereo track with an encoder that `synth` does not use."""
    import av

    with open(path, "wb") as file, av.open(file, "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=44100, layout="stereo")
        stream.codec_context.format = fmt
        stream.bit_rate = 128_000
        samples = np.ascontiguousarray(synth.music(seconds, seed))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return path


def ogg_flac(path: Path, seconds: float = 2, seed: int = 3) -> Path:
    """Write FLAC in an Ogg container."""
    import av

    flac = synth.write_track(path.with_suffix(".flac"), seconds, seed)
    with (
        av.open(str(flac)) as source,
        open(path, "wb") as file,
        av.open(file, "w", format="ogg") as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path


def dsf(path: Path, seconds: float = 2) -> Path:
    """Write a DSF file (DSD, 1 bit at 2.8 MHz) of noise."""
    rate, channels, block = 2822400, 2, 4096
    blocks = max(1, round(rate * seconds / 8 / block))
    data = np.random.default_rng(1).bytes(blocks * block * channels)
    fmt = (
        b"".join(n.to_bytes(4, "little") for n in (1, 0, 2, channels, rate, 1))
        + (blocks * block * 8).to_bytes(8, "little")
        + block.to_bytes(4, "little")
        + bytes(4)
    )
    chunks = b"fmt " + (12 + len(fmt)).to_bytes(8, "little") + fmt
    chunks += b"data" + (12 + len(data)).to_bytes(8, "little") + data
    head = b"DSD " + (28).to_bytes(8, "little") + (28 + len(chunks)).to_bytes(8, "little")
    path.write_bytes(head + bytes(8) + chunks)
    return path


def syncsafe(size: int) -> bytes:
    return bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])


def id3(version: int, *frames: tuple[str, bytes]) -> bytes:
    """An ID3v2 tag of frames as bytes, version 2, 3 or 4 (others get the header alone right)."""
    body = b""
    for name, data in frames:
        if version == 2:
            body += name.encode() + len(data).to_bytes(3, "big") + data
        else:
            size = len(data).to_bytes(4, "big") if version == 3 else syncsafe(len(data))
            body += name.encode() + size + b"\0\0" + data
    return b"ID3" + bytes([version, 0, 0]) + syncsafe(len(body)) + body


def latin(text: str) -> bytes:
    return b"\0" + text.encode("latin-1")


def utf8(text: str) -> bytes:
    return b"\3" + text.encode()


def utf16(text: str) -> bytes:
    return b"\1\xff\xfe" + text.encode("utf-16-le")


def id3v1(
    title: bytes = b"",
    artist: bytes = b"",
    album: bytes = b"",
    year: bytes = b"",
    track: int = 0,
    genre: int = 255,
) -> bytes:
    """An ID3v1.1 tag."""
    texts = b"".join(text[:30].ljust(30, b"\0") for text in (title, artist, album))
    return b"TAG" + texts + year[:4].ljust(4, b"\0") + bytes(29) + bytes([track, genre])


def ape(**tags: str | list[str]) -> bytes:
    """An APEv2 tag; `_` in a name is a blank."""
    from io import BytesIO

    from mutagen.apev2 import APEv2

    made, file = APEv2(), BytesIO()
    for name, value in tags.items():
        made[name.replace("_", " ")] = value
    made.save(file)
    return file.getvalue()


def lyrics3() -> bytes:
    body = b"LYRICSBEGININD00002110LYR00005hello"
    return body + b"%06d" % len(body) + b"LYRICS200"


def element(kind: int, data: bytes) -> bytes:
    """An EBML element of Matroska."""
    name = kind.to_bytes((kind.bit_length() + 7) // 8, "big")
    return name + (len(data) | 1 << 28).to_bytes(4, "big") + data


def matroska_tag(level: int | None, **values: str) -> bytes:
    """A tag of Matroska at a level: 50 is the album, 30 the track, None says nothing."""
    targets = element(0x68CA, bytes([level])) if level else b""
    simple = [
        element(0x67C8, element(0x45A3, name.encode()) + element(0x4487, value.encode()))
        for name, value in values.items()
    ]
    return element(0x7373, element(0x63C0, targets) + b"".join(simple))


def with_matroska_tags(path: Path, *tags: bytes) -> Path:
    """Append a Tags element to the segment of an `.mka` file."""
    path.write_bytes(path.read_bytes() + element(0x1254C367, b"".join(tags)))
    return path


def bare_mp3(folder: Path, seconds: float = 2, seed: int = 1) -> bytes:
    """An MP3 with no tag at all."""
    raw = synth.write_track(folder / f"bare{seed}.mp3", seconds, seed).read_bytes()
    if raw.startswith(b"ID3"):
        raw = raw[10 + sum(b << s for b, s in zip(raw[6:10], (21, 14, 7, 0), strict=True)) :]
    return raw
