"""Files that are odd by design: bombs, lies about sizes, extremes of rate, channels and length."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from embed_assets_tests.encoded import (
    dsf,
    encode,
    pcm,
    protected,
    riff,
    silent_flac,
    with_comments,
    with_cover,
)
from embed_assets_tests.synth import music

GOOD, BAD, EITHER = "embedded", "rejected", "either"

Odd = tuple[str, bytes, str, str]
"""Name, content, what was done, what may become of it."""


def oddities(whole: Callable[..., bytes], rng: np.random.Generator) -> Iterator[Odd]:
    """The files; `whole(suffix, seed)` makes a good one."""
    yield from _lengths(whole)
    yield from _formats()
    yield from _values()
    yield from _headers_and_noise(rng)
    yield from _lies(whole)
    yield from _strangers(whole)


def _lengths(whole: Callable[..., bytes]) -> Iterator[Odd]:
    for suffix in ("mp3", "flac", "ogg", "m4a", "wav", "dsf"):
        yield f"nothing.{suffix}", b"", "0-byte", BAD
    yield "one byte.mp3", b"\xff", "1-byte", BAD
    yield "one sample.wav", riff(44_100, 1, 16, b"\1\0"), "1-sample", BAD
    for suffix, muxer, codec, fmt in (
        ("flac", "flac", "flac", "s16"),
        ("mp3", "mp3", "libmp3lame", "s16p"),
        ("m4a", "ipod", "aac", "fltp"),
        ("wv", "wv", "wavpack", "s16p"),
    ):
        one = encode(np.full((1, 1), 0.5, np.float32), 44_100, muxer, codec, fmt)
        yield f"one sample.{suffix}", one, "1-sample", BAD
    second = encode(music(2.0, 900, 8_000, 1), 8_000, "mp3", "libmp3lame", "s16p")
    frames = second[second.find(b"\xff\xe3", 300) :]
    yield "one hour.mp3", frames * (3600 // 2), "1-hour", GOOD
    hours = encode(music(2.0, 901, 8_000, 1), 8_000, "mp3", "libmp3lame", "s16p")
    frames = hours[hours.find(b"\xff\xe3", 300) :]
    yield "ten hours.mp3", frames * (36_000 // 2), "10-hour", GOOD
    yield "ten silent hours.flac", silent_flac(8_000, 1, 36_000 * 8_000), "10-hour", BAD


def _formats() -> Iterator[Odd]:
    loud = encode(music(2.0, 910, 192_000, 2), 192_000, "flac", "flac", "s32", "stereo")
    yield "192 kHz.flac", loud, "192-kHz", GOOD
    yield "384 kHz.wav", pcm(music(2.0, 911, 384_000, 2), 384_000), "384-kHz", GOOD
    yield "8 channels.wav", pcm(music(2.0, 912, 48_000, 8), 48_000), "8-channels", GOOD
    eight = encode(music(2.0, 913, 48_000, 8), 48_000, "flac", "flac", "s16", "7.1")
    yield "8 channels.flac", eight, "8-channels", GOOD
    yield "64 channels.wav", pcm(music(2.0, 914, 8_000, 64), 8_000), "64-channels", EITHER
    yield "4 kHz.wav", pcm(music(3.0, 915, 4_000, 1), 4_000), "4-kHz", GOOD
    yield "10 Hz.wav", riff(10, 1, 16, bytes(range(256)) * 4), "10-Hz", EITHER
    yield "1 Hz.wav", riff(1, 1, 16, bytes(range(256)) * 4), "1-Hz", EITHER
    yield "0 Hz.wav", riff(0, 1, 16, bytes(range(256)) * 400), "0-Hz", BAD
    yield "4 GHz.wav", riff(0xFFFFFFF0, 1, 16, bytes(range(256)) * 400), "4-GHz", BAD
    yield "2 GHz.wav", riff(0x7FFFFFFF, 1, 16, bytes(range(256)) * 400), "2-GHz", BAD
    yield "0 channels.wav", riff(44_100, 0, 16, bytes(range(256)) * 800), "0-channels", EITHER
    many = riff(44_100, 65_535, 16, bytes(range(256)) * 8000)
    yield "65535 channels.wav", many, "65535-channels", EITHER
    yield "0 bits.wav", riff(44_100, 1, 0, bytes(range(256)) * 800), "0-bits", EITHER
    for kind in (0, 2, 0x11, 0x55, 0xFF, 0x161, 0xFFFE, 0xFFFF):
        name = f"wav of kind {kind}.wav"
        yield name, riff(44_100, 2, 16, bytes(range(256)) * 800, kind), "wrong-codec", EITHER
    yield "stereo DSD.dsf", dsf(), "DSD", EITHER


def _values() -> Iterator[Odd]:
    for name, value in (("not a number", np.nan), ("infinite", np.inf), ("minus", -np.inf)):
        data = np.full(44_100 * 2, value, "<f4").tobytes()
        yield f"{name}.wav", riff(44_100, 1, 32, data, 3), "not-finite", BAD
    mixed = np.array(music(3.0, 920, 44_100, 1)[0], "<f4")
    mixed[1000:60_000] = np.nan
    yield "half not a number.wav", riff(44_100, 1, 32, mixed.tobytes(), 3), "not-finite", EITHER
    loud = (music(3.0, 921, 44_100, 1)[0] * 1e30).astype("<f4")
    yield "far too loud.wav", riff(44_100, 1, 32, loud.tobytes(), 3), "too-loud", EITHER
    yield "silence.wav", riff(44_100, 2, 16, bytes(44_100 * 8)), "silence", BAD
    constant = np.full(44_100 * 3, 12_345, "<i2").tobytes()
    yield "direct current.wav", riff(44_100, 1, 16, constant), "direct-current", EITHER
    rng = np.random.default_rng(922)
    noise = rng.integers(-1, 2, 44_100 * 3).astype("<i2").tobytes()
    yield "dither.wav", riff(44_100, 1, 16, noise), "near-silence", GOOD
    quiet = np.zeros(44_100 * 3, "<i2")
    quiet[66_000] = 30_000
    yield "one click.wav", riff(44_100, 1, 16, quiet.tobytes()), "near-silence", EITHER


def _headers_and_noise(rng: np.random.Generator) -> Iterator[Odd]:
    heads = {
        "ape": b"MAC \x96\x0f\0\0",
        "mpc": b"MPCKSH\x0f",
        "mp+": b"MP+\x07",
        "tak": b"tBaK\x01\x0a\0\0",
        "shn": b"ajkg\x02",
        "dts": b"\x7f\xfe\x80\x01\xfc\x3c",
        "dff": b"FRM8" + struct.pack(">Q", 9_000) + b"DSD FVER",
        "dsf": b"DSD " + struct.pack("<QQ", 28, 9_000),
        "mka": b"\x1a\x45\xdf\xa3",
        "flac": b"fLaC\x80\0\0\x22",
        "ogg": b"OggS\0\x02",
        "wv": b"wvpk" + struct.pack("<I", 9_000) + b"\x10\x04",
        "mp3": b"\xff\xfb\x90\x64",
        "aac": b"\xff\xf1\x50\x80",
        "m4a": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0",
        "wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
        "amr": b"#!AMR\n",
        "caf": b"caff\0\x01\0\0",
        "au": b".snd\0\0\0\x18",
        "ac3": b"\x0b\x77",
        "tta": b"TTA1\x01\0\x02\0\x10\0",
        "aiff": b"FORM\0\0\x23\x28AIFFCOMM",
        "w64": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0",
    }
    for kind, head in heads.items():
        suffix = "mpc" if kind == "mp+" else kind
        for i in range(3):
            content = head + rng.bytes(9_000)
            yield f"{kind}, then noise {i}.{suffix}", content, "header-and-noise", EITHER
        yield f"{kind}, then nothing.{suffix}", head, "header-only", BAD
    for i in range(20):
        yield f"noise {i}.mp3", rng.bytes(int(rng.integers(10, 60_000))), "only-noise", EITHER
    for i in range(5):
        yield f"sevens {i}.aac", b"\xff" * (1000 << i), "only-0xff", BAD


def _lies(whole: Callable[..., bytes]) -> Iterator[Odd]:
    data = np.frombuffer(np.ascontiguousarray(music(2.5, 930, 22_050, 1)), "<f4")
    tune = (data * 32_767).astype("<i2").tobytes()
    for says in (0, 1, 0x7FFFFFFE, 0xFFFFFFFE, 0xFFFFFFFF):
        yield f"says {says}.wav", riff(22_050, 1, 16, tune, says=says), "length-lies", EITHER
        tune = tune[2:]
    flac = bytearray(whole("flac", 931))
    flac[21:26] = bytes([flac[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])
    yield "says months.flac", bytes(flac), "length-lies", EITHER
    flac = bytearray(whole("flac", 932))
    flac[18:21] = b"\x9f\xff\xf0"
    yield "says 655 kHz.flac", bytes(flac), "rate-lies", EITHER
    block = b"\x84" + (0xFFFFFF).to_bytes(3, "big")
    raw = whole("flac", 933)
    yield "comments of 16 MB.flac", raw[:42] + block + raw[42:], "tag-lies", EITHER
    comments = struct.pack("<I", 4) + b"test" + struct.pack("<I", 0xFFFFFFFF)
    head = b"\x04" + len(comments).to_bytes(3, "big") + comments
    raw = whole("flac", 934)
    yield "4 G comments.flac", raw[:4] + raw[4:42] + head + raw[42:], "tag-lies", EITHER
    for number, atom in enumerate((b"mdat", b"moov", b"stts", b"stsz", b"stco", b"stsc", b"esds")):
        m4a = bytearray(whole("m4a", 940 + number))
        at = m4a.find(atom)
        m4a[at - 4 : at] = b"\x7f\xff\xff\xff"
        yield f"{atom.decode()} of 2 GB.m4a", bytes(m4a), "size-lies", EITHER
        m4a = bytearray(whole("m4a", 960 + number))
        m4a[at + 8 : at + 16] = b"\xff" * 8
        yield f"{atom.decode()} of many.m4a", bytes(m4a), "count-lies", EITHER
    ogg = bytearray(whole("ogg", 980))
    last = ogg.rfind(b"OggS")
    ogg[last + 6 : last + 14] = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
    yield "ends in eternity.ogg", bytes(ogg), "length-lies", EITHER
    nested = b"moov"
    for _ in range(3_000):
        nested = struct.pack(">I", len(nested) + 8) + b"moov" + nested
    yield "boxes in boxes.m4a", b"\0\0\0\x14ftypM4A \0\0\0\0M4A " + nested, "decoder-bomb", BAD
    yield (
        "lists in lists.wav",
        b"RIFF\xff\xff\xff\x7fWAVE" + b"LIST\xff\xff\xff\x7fWAVE" * 2_000,
        ("decoder-bomb"),
        BAD,
    )
    yield "silence at 655 kHz.flac", silent_flac(655_350, 8, 600 * 655_350), "decoder-bomb", BAD
    yield "cover of 30 MB.mp3", with_cover(whole("mp3", 985), 30 << 20), "huge-tags", GOOD
    yield "cover of 8 MB.mp3", with_cover(whole("mp3", 986), 8 << 20), "huge-tags", GOOD
    yield "long comments.flac", with_comments(whole("flac", 987), 4_000), "huge-tags", GOOD
    yield "escapes.flac", with_comments(whole("flac", 988), 1, "\x1b[2J\x1b]0;x\x07"), "tags", GOOD


def _strangers(whole: Callable[..., bytes]) -> Iterator[Odd]:
    for i, suffix in enumerate(("m4a", "m4p", "mp4.m4a")):
        yield f"bought.{suffix}", protected(whole("m4a", 990 + i)), "DRM", BAD
    for name, content in (
        ("picture.mp3", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(999)),
        ("picture.flac", b"\x89PNG\r\n\x1a\n" + bytes(99)),
        ("document.m4a", b"%PDF-1.7\n" + bytes(99)),
        ("archive.ogg", b"PK\x03\x04" + bytes(99)),
        ("page.mp3", b"<!doctype html><p>404"),
        ("notes.mp3", b"Remember the milk.\n" * 99),
        ("list.mp3", b"#EXTM3U\n/etc/passwd\n"),
        ("sheet.flac", b'FILE "/etc/passwd" WAVE\n  TRACK 01 AUDIO\n'),
        ("program.mp3", b"\x7fELF" + bytes(999)),
        ("database.wav", b"SQLite format 3\0" + bytes(999)),
        ("zip bomb.mp3", b"\x1f\x8b\x08" + bytes(999)),
        ("notes.mid.mp3", b"MThd\0\0\0\x06" + bytes(99)),
    ):
        yield name, content, "no-audio", BAD
