"""Why no decoder can open a file, as far as its first bytes tell."""

from __future__ import annotations

from embed_assets.errors import Reason, TrackRejected

OTHER_KINDS = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"MThd", "a MIDI file, which contains notes, not sound"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3", "a database"),
)

AUDIO_MARKS = (
    b"ID3",
    b"fLaC",
    b"OggS",
    b"RIFF",
    b"RIFX",
    b"FORM",
    b"MAC ",
    b"wvpk",
    b"MPCK",
    b"MP+",
)


def unreadable(head: bytes) -> TrackRejected:
    """The rejection of a file that no decoder can open, by its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, kind in OTHER_KINDS:
        if start[: len(mark)].lower() == mark.lower():
            return TrackRejected(Reason.NOT_AUDIO, f"no audio stream: this looks like {kind}")
    if not head.strip(b"\0"):
        return TrackRejected(
            Reason.CORRUPT, "it begins with zero bytes only; copy it again from its source"
        )
    if head.startswith(AUDIO_MARKS) or head[4:8] == b"ftyp":
        return TrackRejected(
            Reason.CORRUPT,
            "it begins like audio, but the rest is damaged; copy it again",
        )
    if _is_text(head):
        return TrackRejected(Reason.NOT_AUDIO, "no audio stream: this looks like a text file")
    return TrackRejected(
        Reason.NOT_AUDIO,
        "FFmpeg does not recognise its format: it is damaged, or not audio",
    )


def _is_text(head: bytes) -> bool:
    sample = head[:4096]
    return not any(byte < 9 or 13 < byte < 32 for byte in sample) and sample.isascii()
