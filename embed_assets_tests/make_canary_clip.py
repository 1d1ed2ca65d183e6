"""How embed_assets/embedding/canary/ got its clip, and what each stage makes of it.

    python -m embed_assets_tests.make_canary_clip [--formats]

Writes `expected.npz`; with `--formats` also the files themselves, which encoders of other versions
make of other bytes. Run it after a deliberate change of the decoder, the resampler or `acoustic`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.stages import (
    DECODER,
    FEATURES,
    SAMPLES,
    embed_stages,
    sample_fingerprint,
)
from embed_assets.encoders.cards import CARDS
from embed_assets.encoders.config import EncoderConfig

CODECS = {"flac": ("flac", "s16", 0), "mp3": ("libmp3lame", "s16p", 96_000)}
CODECS["opus"] = ("libopus", "s16", 64_000)


def write_format(ending: str, rate: int) -> None:
    """Encode the clip into the shipped file of a format."""
    import av

    codec, kind, bit_rate = CODECS[ending]
    with av.open(str(clip.file_of(ending)), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.format = kind
        if bit_rate:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(clip.music(rate)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)


def expected() -> dict[str, np.ndarray]:
    """What is shipped as `expected.npz`."""
    found: dict[str, np.ndarray] = {}
    encoder_config = EncoderConfig("acoustic", "", "cpu", Path())
    recipe = encoder_config.recipe(10.0, 3)
    for ending in clip.FORMATS:
        made = embed_stages(clip.subject(ending, recipe, encoder_config))
        named = f"{ending} {recipe.encoder} {recipe.weights}"
        found[f"{DECODER} {ending}"] = np.array(made.stages[DECODER].points)
        found[f"{FEATURES} {named}"] = np.array(made.stages[FEATURES].points)
        found[f"vectors {named}"] = made.vectors
        for rate in {card.sample_rate for card in CARDS.values()}:
            at_rate = sample_fingerprint(clip.file_of(ending), float(clip.SECONDS), rate)
            found[f"{SAMPLES} {ending} {rate}"] = np.array(at_rate.points)
    return found


if __name__ == "__main__":
    if "--formats" in sys.argv[1:]:
        for ending, rate in clip.FORMATS.items():
            write_format(ending, rate)
    np.savez_compressed(clip.EXPECTED, **expected())
