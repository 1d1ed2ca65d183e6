"""Which file extensions are indexed, and which audio-like ones are not, with the reason.

The extension decides; `probe` finds out what is inside. docs/files.md is generated from these
tables.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of file and its extensions, in lower case and without the dot.

    `why` and `instead`: why it is skipped, and what to do; empty for kinds that are indexed.
    """

    name: str
    endings: tuple[str, ...]
    why: str = ""
    instead: str = ""


def _kind(name: str, endings: str, why: str = "", instead: str = "") -> Kind:
    return Kind(name, tuple(endings.split()), why, instead)


TAKEN = (
    _kind("MPEG audio, layers I to III", "mp3 mp2 mp1 mpga mpa m2a"),
    _kind("FLAC", "flac"),
    _kind("Ogg: Vorbis, Opus, Speex, FLAC", "ogg oga opus spx"),
    _kind("MP4 without video: AAC, ALAC", "m4a m4b m4p m4r f4a f4b 3ga"),
    _kind("AAC without a container", "aac adts"),
    _kind("WAV, RF64, Wave64, Broadcast Wave", "wav wave bwf rf64 w64"),
    _kind("AIFF", "aif aiff aifc"),
    _kind("Windows Media Audio", "wma"),
    _kind("Matroska and WebM without video", "mka weba"),
    _kind("Monkey's Audio", "ape"),
    _kind("WavPack", "wv"),
    _kind("Musepack", "mpc mp+"),
    _kind("True Audio", "tta"),
    _kind("TAK", "tak"),
    _kind("Shorten", "shn"),
    _kind("DSD", "dsf dff"),
    _kind("Dolby Digital, Dolby Digital Plus", "ac3 eac3 ec3"),
    _kind("DTS", "dts"),
    _kind("Sun and NeXT audio", "au snd"),
    _kind("Apple Core Audio", "caf"),
    _kind("AMR", "amr"),
    _kind("Sony OpenMG", "oma aa3"),
    _kind("Audible, which is encrypted: rejected as protected", "aax"),
)
"""Files that are tracks."""

NOT_TAKEN = (
    _kind(
        "video",
        "mp4 m4v mov qt 3gp 3g2 mkv webm ogv ogm ogx avi divx wmv asf flv f4v mpg mpeg m2v m2ts mts"
        " vob rm rmvb wtv",
        "the extension means video, and a library may contain films",
        "extract the audio unchanged: `ffmpeg -i clip.mp4 -vn -c copy clip.m4a` (.mka takes any"
        " codec)",
    ),
    _kind(
        "tracker modules",
        "mod xm it s3m stm mtm med okt 669 mptm mo3 umx",
        "notes and samples, which every player renders differently",
        "render them to FLAC or WAV, e.g. with `openmpt123 --render`",
    ),
    _kind(
        "notes without sound",
        "mid midi kar rmi xmf",
        "notes only; the sound depends on the instruments",
        "render them to FLAC or WAV, e.g. with `fluidsynth`",
    ),
    _kind(
        "music of consoles and home computers",
        "nsf nsfe spc sid psid vgm vgz gbs hes kss ay sap psf psf2 minipsf gsf minigsf usf miniusf"
        " 2sf mini2sf ssf",
        "programs for a sound chip; most have no end",
        "render them to FLAC or WAV with a player for that chip",
    ),
    _kind(
        "RealAudio",
        "ra",
        "no tag reader and few players support it",
        "convert them: `ffmpeg -i old.ra new.flac`",
    ),
    _kind("CD tracks", "cda", "only a pointer to a track on a CD", "rip the CD"),
    _kind(
        "formats that FFmpeg cannot decode",
        "ofr ofs la pac",
        "FFmpeg and libsndfile cannot decode them",
        "convert them, e.g. to FLAC, with the program that made them",
    ),
    _kind(
        "Audible without its key",
        "aa aaxc",
        "encrypted; only the shop's own player can read them",
        "nothing: they cannot be indexed",
    ),
    _kind(
        "Musepack or Microsoft Project",
        "mpp",
        "the extension has two meanings",
        "if it is music, rename it to `.mpc`",
    ),
    _kind(
        "speech and sound effects",
        "gsm awb voc vox dss ds2 qcp 8svx svx iff",
        "recordings from telephones and old computers, hardly ever music",
        "convert them: `ffmpeg -i old.voc new.flac`",
    ),
    _kind(
        "soundtracks of films",
        "mlp thd dtshd at3 mogg",
        "rare, and not tested",
        "convert them: `ffmpeg -i old.thd new.flac`",
    ),
)
"""Files that look like audio and are skipped; `doctor` counts them."""

AUDIO_SUFFIXES = frozenset(e.encode() for kind in TAKEN for e in kind.endings)
"""Extensions of tracks, in lower case; `probe` finds out what is inside."""

OTHER_SUFFIXES = {e.encode(): kind for kind in NOT_TAKEN for e in kind.endings}
"""The same for what is not taken, with its kind."""
