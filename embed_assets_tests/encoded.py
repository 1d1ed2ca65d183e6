"""Bytes of audio files, made without a disk: any muxer, any header, silence of any length."""

from __future__ import annotations

import io
import struct
from functools import lru_cache

import numpy as np


def encode(
    samples: np.ndarray, rate: int, muxer: str, codec: str, fmt: str, layout: str = "mono"
) -> bytes:
    """Encode float32 [channels, n] into the bytes of a file."""
    import av

    target = io.BytesIO()
    experimental = {"strict": "experimental"}
    with av.open(target, "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, options=experimental)
        stream.codec_context.format = fmt
        if codec.startswith("wma"):
            stream.bit_rate = 64_000
        if codec == "vorbis":
            stream.codec_context.layout = layout = "stereo"
            samples = np.repeat(samples, 2, axis=0)
        # Packed: PyAV takes planar frames of up to 7 channels only.
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T, np.float32).reshape(1, -1), format="flt", layout=layout
        )
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            # FLAC's last one holds only its header's final figures, which Ogg and Matroska refuse.
            if packet.size or muxer == "flac":
                out.mux(packet)
    return target.getvalue()


def riff(rate: int, channels: int, bits: int, data: bytes, kind: int = 1, says: int = -1) -> bytes:
    """A WAV file with any header; `says` is the length that it claims for its data."""
    width = channels * bits // 8
    head = struct.pack(
        "<HHIIHH", kind, channels & 0xFFFF, rate, (rate * width) & 0xFFFFFFFF, width & 0xFFFF, bits
    )
    size = len(data) if says < 0 else says
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", size & 0xFFFFFFFF) + data
    return b"RIFF" + struct.pack("<I", (len(body) + size - len(data)) & 0xFFFFFFFF) + body


def protected(raw: bytes) -> bytes:
    """An M4A as the shop sold it: its sample entry says that the packets are encrypted."""
    return raw.replace(b"mp4a", b"drms")


def pcm(samples: np.ndarray, rate: int) -> bytes:
    data = (samples.T * 32_767).astype("<i2").tobytes()
    return riff(rate, samples.shape[0], 16, data)


def dsf() -> bytes:
    rng = np.random.default_rng(1)
    blocks = 2_822_400 * 2 // 8 // 4096 + 1
    data = rng.bytes(blocks * 4096 * 2)
    fmt = b"fmt " + struct.pack("<QIIIIIIQII", 52, 1, 0, 2, 2, 2_822_400, 1, 2_822_400 * 2, 4096, 0)
    body = fmt + b"data" + struct.pack("<Q", 12 + len(data)) + data
    return b"DSD " + struct.pack("<QQQ", 28, 28 + len(body), 0) + body


def silent_flac(rate: int, channels: int, samples: int) -> bytes:
    """Digital silence in constant subframes: some 20 bytes for each 65,535 samples a channel."""
    size = 65_535
    info = struct.pack(">HH", size, size) + bytes(6)
    packed = (rate << 44) | ((channels - 1) << 41) | (15 << 36) | samples
    info += packed.to_bytes(8, "big") + bytes(16)
    frames = bytearray()
    body = b"\0\0\0" * channels
    for number in range(samples // size):
        head = b"\xff\xf8" + bytes([0x70, ((channels - 1) << 4) | 0x08]) + _utf8(number)
        head += struct.pack(">H", size - 1)
        head += bytes([_crc(head, 0x07, 8)])
        frame = head + body
        frames += frame + _crc(frame, 0x8005, 16).to_bytes(2, "big")
    return b"fLaC\x80\0\0\x22" + info + bytes(frames)


def _utf8(n: int) -> bytes:
    """A number as FLAC writes a frame's: like UTF-8, but up to 36 bits."""
    if n < 0x80:
        return bytes([n])
    tail: list[int] = []
    while n >= 1 << (6 - len(tail)):
        tail.append(0x80 | (n & 0x3F))
        n >>= 6
    return bytes([(0xFF << (7 - len(tail))) & 0xFF | n, *reversed(tail)])


def _crc(data: bytes, polynomial: int, width: int) -> int:
    table, mask = _crc_table(polynomial, width), (1 << width) - 1
    crc = 0
    for byte in data:
        crc = (crc << 8) & mask ^ table[(crc >> (width - 8)) ^ byte]
    return crc


@lru_cache
def _crc_table(polynomial: int, width: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1) ^ (polynomial if crc >> (width - 1) else 0)
            crc &= (1 << width) - 1
        table.append(crc)
    return table


def with_cover(raw: bytes, size: int) -> bytes:
    frame = b"\0image/png\0\x03\0" + bytes(size)
    body = b"APIC" + synchsafe(len(frame)) + b"\0\0" + frame
    return b"ID3\x04\0\0" + synchsafe(len(body)) + body + raw


def with_comments(raw: bytes, count: int, text: str = "a comment, and not a short one") -> bytes:
    said = [f"NAME{i}={text}".encode() for i in range(count)] + [f"TITLE={text}".encode()]
    body = struct.pack("<I", 4) + b"test" + struct.pack("<I", len(said))
    body += b"".join(struct.pack("<I", len(s)) + s for s in said)
    last = raw[4] & 0x80
    return (
        raw[:4]
        + bytes([raw[4] & 0x7F])
        + raw[5:42]
        + bytes([4 | last])
        + len(body).to_bytes(3, "big")
        + body
        + raw[42:]
    )


def synchsafe(n: int) -> bytes:
    return bytes((n >> s) & 0x7F for s in (21, 14, 7, 0))
