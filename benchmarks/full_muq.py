"""Makes a full-size MuQ checkpoint of random weights, for what MuQ costs where its weights are not.

    python benchmarks/full_muq.py FOLDER [--music DIR]

Its batch norms are calibrated on music, so that nothing degenerates: frames differ in time, and
tracks from each other. Its vectors mean nothing. The other benchmarks make one for themselves
unless --model names a folder, this one's or real weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--music", type=Path, help="a folder of real music to calibrate on")
    args = parser.parse_args()
    common.prepare()
    for name, value in make(args.folder, args.music).items():
        print(f"{name:34} {value}")
    return 0


def make(folder: Path, music: Path | None = None) -> dict[str, float]:
    """Write config.json and model.safetensors; how much frames and tracks differ."""
    import numpy as np
    import torch

    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets_tests import small_muq, synth

    if music:
        paths = common.tracks_in(music)
        paths = paths[:: max(1, len(paths) // 8)]
        heard = [read_windows(bytes(p), 0.0, WindowPolicy(SECONDS, 1), 24_000) for p in paths]
        windows = [d.windows[0] for d in heard]
    else:
        made = [synth.music(SECONDS, seed, 24_000, 1) for seed in range(8)]
        windows = [np.asarray(m, np.float32).reshape(-1) for m in made]
    longest = round(SECONDS * 24_000)
    audio = torch.from_numpy(np.stack([w for w in windows if len(w) == longest]))
    with contextlib.redirect_stdout(io.StringIO()):
        module = small_muq.build(0, **CONFIG)
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
    }


if __name__ == "__main__":
    sys.exit(main())
