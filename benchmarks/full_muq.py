"""Makes a full-size MuQ checkpoint of random weights, for what MuQ costs where its weights are not.

    python benchmarks/full_muq.py FOLDER [--music DIR] [--json]

Its batch norms are calibrated on music, so that nothing degenerates: frames differ in time, and
tracks from each other. Its vectors mean nothing. The other benchmarks make one for themselves
unless --model names a folder, this one's or real weights.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

CONFIG = {
    "conv_dim": 512,
    "encoder_dim": 1024,
    "encoder_depth": 12,
    "codebook_dim": 16,
    "codebook_size": 8192,
    "w2v2_config": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "conv_depthwise_kernel_size": 31,
    },
}

SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--music", type=Path, help="a folder of real music to calibrate on")
    args = common.parse(parser, argv)
    common.prepare()
    common.show({"benchmark": "full_muq", **make(args.folder, args.music, args.small)}, args)
    return 0


def make(folder: Path, music: Path | None = None, small: bool = False) -> dict[str, Any]:
    """Write config.json and model.safetensors; how much frames and tracks differ.

    `small`: a model of the same architecture with a thousandth of the weights.
    """
    import numpy as np
    import torch

    from embed_assets_tests import small_muq, synth

    left_out: Counter[str] = Counter()
    if music:
        paths = common.tracks_in(music)
        windows = common.middles(paths[:: max(1, len(paths) // 8)], SECONDS, left_out)
    else:
        made = [synth.music(SECONDS, seed, 24_000, 1) for seed in range(8)]
        windows = [np.asarray(m, np.float32).reshape(-1) for m in made]
    audio = torch.from_numpy(np.stack(windows))
    with contextlib.redirect_stdout(io.StringIO()):
        module = small_muq.build(0, **({} if small else CONFIG))
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        module(audio)
        module.eval()
        frames = module(audio).last_hidden_state
        with contextlib.redirect_stdout(io.StringIO()):
            module.save_pretrained(folder)
    means = frames.mean(dim=1)
    return {
        "spread_over_frames": round(frames.std(dim=1).mean().item(), 3),
        "spread_over_tracks": round(means.std(dim=0).mean().item(), 3),
        "parameters": sum(p.numel() for p in module.parameters()),
        "left_out": left_out,
    }


if __name__ == "__main__":
    sys.exit(main())
