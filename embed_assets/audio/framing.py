"""Where the audio of a file ends: tags behind it, what follows the last frame, and Ogg's links.

Some demuxers add data behind the last frame to it. Then the audio of a file, and so its hash, would
change with each retag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embed_assets.audio.source import Source

ID3V1, APE, LYRICS, ID3V2 = "ID3v1", "APE", "Lyrics3", "ID3v2"

FRAME_CODECS = frozenset(["mp1", "mp2", "mp3", "ac3", "eac3", "dts"])
"""Codecs whose frame length `frame_bytes` can read, by FFmpeg's names."""

LONGEST_FLAC_FRAME = 1 << 21
"""Bytes: 65,535 samples of 8 channels of 32 bits."""

_TRAILING_ZEROS = 1 << 20
"""Most zero bytes behind the tags that are skipped."""

_MPEG_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by (MPEG version, layer); version 2.5 has those of 2."""

_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


@dataclass(frozen=True)
class TrailingTag:
    """A tag at the end of a file, bytes [begin, end); `kind`: ID3V1, APE, LYRICS or ID3V2."""

    kind: str
    begin: int
    end: int


def trailing_tags(source: Source) -> list[TrailingTag]:
    """The tags at the end of a file, last one first; zero bytes may follow them.

    Finds ID3v1 (and its enhanced form), APEv1 and APEv2, both versions of Lyrics3, and ID3v2 with a
    footer, in any order and number. Raises OSError.
    """
    found = list(_tags_before(source, source.size))
    return found or list(_tags_before(source, _without_zeros(source)))


def audio_end(source: Source) -> int:
    """Where the tags at the end of a file begin; its size if there are none. Raises OSError."""
    tags = trailing_tags(source)
    return tags[-1].begin if tags else source.size


def _tags_before(source: Source, end: int) -> Iterator[TrailingTag]:
    while end > 0:
        size = min(256, end)
        tag = _tag_before(source, source.peek(size, end - size), end)
        if tag is None or not 0 < tag.begin < end:
            return
        yield tag
        end = tag.begin


def _tag_before(source: Source, tail: bytes, end: int) -> TrailingTag | None:
    """The tag that ends at `end`, if there is one; `tail`: the bytes before `end`."""
    if len(tail) >= 128 and tail[-128:-125] == b"TAG":
        enhanced = source.peek(4, max(0, end - 355)) == b"TAG+"
        return TrailingTag(ID3V1, end - (355 if enhanced else 128), end)
    if tail[-32:-24] == b"APETAGEX":
        size = int.from_bytes(tail[-20:-16], "little")
        has_header = tail[-9] & 0x80
        return TrailingTag(APE, end - size - (32 if has_header else 0), end)
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return TrailingTag(LYRICS, end - 15 - int(tail[-15:-9]), end)
    if tail[-9:] == b"LYRICSEND":
        begin = max(0, end - 5200)
        at = source.peek(end - begin, begin).rfind(b"LYRICSBEGIN")
        return TrailingTag(LYRICS, begin + at, end) if at >= 0 else None
    if tail[-10:-7] == b"3DI" and max(tail[-4:]) < 128:
        return TrailingTag(ID3V2, end - 20 - syncsafe(tail[-4:]), end)
    return None


def syncsafe(size: bytes) -> int:
    """A number of ID3v2, with 7 bits per byte."""
    return sum((b & 127) << s for b, s in zip(size, (21, 14, 7, 0), strict=True))


def _without_zeros(source: Source) -> int:
    end = source.size
    while end > max(0, source.size - _TRAILING_ZEROS):
        begin = max(0, end - 4096)
        rest = source.peek(end - begin, begin).rstrip(b"\0")
        end = begin + len(rest)
        if rest:
            break
    return end


def frame_bytes(codec: str, packet: memoryview) -> int:
    """Number of bytes of a packet that are audio; 0 if it is not audio.

    For codecs whose frames FFmpeg cuts out of a byte stream: their last packet includes the data
    behind the last frame. `codec`: FFmpeg's name.
    """
    size = len(packet)
    if codec in ("mp1", "mp2", "mp3"):
        return min(size, _mpeg_frame(bytes(packet[:4]), size))
    if codec == "adts":
        is_frame = size > 6 and packet[0] == 0xFF and packet[1] & 0xF6 == 0xF0
        return (packet[3] & 3) << 11 | packet[4] << 3 | packet[5] >> 5 if is_frame else 0
    if codec in ("ac3", "eac3"):
        return min(size, _ac3_frame(bytes(packet[:6]), size))
    if codec == "dts" and bytes(packet[:4]) == b"\x7f\xfe\x80\x01" and size > 8:
        core = ((packet[5] & 3) << 12 | packet[6] << 4 | packet[7] >> 4) + 1
        # High-resolution extensions follow the core.
        return size if bytes(packet[core : core + 4]) == b"\x64\x58\x20\x25" else min(size, core)
    return size


def frames_of(codec: str, packets: Sequence[memoryview]) -> int:
    """How many of the last packets of a stream are frames; the rest is not audio.

    Noise sometimes looks like the header of a frame, but not like two consecutive ones of the same
    kind, the first as long as its header says. Without such a pair, all packets count as frames.
    """
    for n in range(len(packets), 1, -1):
        before, last = packets[n - 2 : n]
        is_frame = frame_bytes(codec, before) == len(before) and frame_bytes(codec, last)
        if is_frame and before[:2] == last[:2]:
            return n
    return len(packets)


def _mpeg_frame(head: bytes, size: int) -> int:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, pace = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 15 or pace == 3:
        return 0
    if rate == 0:  # free format: only the next frame would tell
        return size
    kbps = _MPEG_KBPS[1 if version == 3 else 2, layer][rate - 1]
    hertz = (44100, 48000, 32000)[pace] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbps // hertz + padding) * 4
    samples = 72_000 if layer == 3 and version != 3 else 144_000
    return samples * kbps // hertz + padding


def _ac3_frame(head: bytes, size: int) -> int:
    if len(head) < 6 or head[:2] not in (b"\x0b\x77", b"\x77\x0b"):
        return 0
    if head[0] == 0x77:  # 16-bit words the other way round
        return size
    if head[5] >> 3 > 10:
        return ((head[2] & 7) << 8 | head[3]) * 2 + 2
    pace, code = head[4] >> 6, head[4] & 63
    if pace == 3 or code >> 1 >= len(_AC3_KBPS):
        return 0
    kbps = _AC3_KBPS[code >> 1]
    words = (kbps * 96_000 // 48_000, kbps * 96_000 // 44_100 + (code & 1), kbps * 3)[pace]
    return words * 2


def flac_frame_bytes(packet: bytes, longest: int) -> int:
    """Where the FLAC frame at the beginning of a packet ends, found by the CRC at its end.

    `longest`: longest frame in bytes by the file's header; 0 if unknown. Returns the packet's size
    if no end is found: the frame is damaged, or cut off.
    """
    crc = 0
    ends = []
    for n, byte in enumerate(packet[: longest or LONGEST_FLAC_FRAME], 1):
        crc = (crc << 8 & 0xFFFF) ^ _CRC_TABLE[crc >> 8 ^ byte]
        if crc == 0:
            ends.append(n)
    if not ends or (ends[-1] == len(packet) and not packet.endswith(bytes(16))):
        return len(packet)
    # Zero bytes do not change the CRC: of consecutive candidates the first is the end.
    end = ends.pop()
    while ends and ends[-1] == end - 1 and packet[end - 1] == 0:
        end = ends.pop()
    return end


def _crc_of_byte(byte: int) -> int:
    crc = byte << 8
    for _ in range(8):
        crc = (crc << 1 ^ 0x8005) if crc & 0x8000 else crc << 1
    return crc & 0xFFFF


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))


def ogg_links(source: Source) -> Iterator[tuple[int, int]]:
    """The links of a chained Ogg file as (begin, end) in bytes; one for an ordinary file.

    Concatenated files and recordings of radio streams are chains: each link begins with the first
    pages of its own streams. Reads the headers of all pages.
    """
    position: int | None = 0
    begin, heading, any_page = 0, False, False
    while position is not None and position < source.size:
        head = source.peek(282, position)
        segments = head[27 : 27 + head[26]] if len(head) > 26 else b""
        if not head.startswith(b"OggS") or head[4:5] != b"\0":
            position = _next_page(source, position + 1)
            continue
        first = bool(head[5] & 2)
        if first and not heading and any_page:
            yield begin, position
            begin = position
        heading, any_page = first, True
        position += 27 + len(segments) + sum(segments)
    yield begin, source.size


def _next_page(source: Source, position: int) -> int | None:
    while chunk := source.peek(1 << 16, position):
        at = chunk.find(b"OggS")
        if at >= 0:
            return position + at
        if len(chunk) < 1 << 16:
            return None
        position += len(chunk) - 3
    return None
