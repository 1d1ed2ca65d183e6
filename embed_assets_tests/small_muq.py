"""Makes a small checkpoint of the real MuQ architecture, and serves it as the hub would.

Its weights are drawn from a fixed seed, so its vectors are the same everywhere, within rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

DIM = 64
"""Width of its vectors."""


def config(**changes: Any) -> dict[str, Any]:
    """The small model's config; dropout is on, so that training mode cannot go unnoticed."""
    return {
        "label_rate": 25,
        "num_codebooks": 1,
        "codebook_dim": 4,
        "codebook_size": 16,
        "features": ["melspec_2048"],
        "hop_length": 240,
        "n_mels": 128,
        "conv_dim": 8,
        "encoder_dim": DIM,
        "encoder_depth": 2,
        "is_flash": False,
        "stat": {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623},
        "w2v2_config": {
            "hidden_size": DIM,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "hidden_act": "swish",
            "activation_dropout": 0.1,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.1,
            "layerdrop": 0.0,
            "layer_norm_eps": 1e-5,
            "position_embeddings_type": "rotary",
            "rotary_embedding_base": 10000,
            "max_source_positions": 5000,
            "conv_depthwise_kernel_size": 31,
            "conformer_conv_dropout": 0.1,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_activation": "gelu",
            **changes.pop("w2v2_config", {}),
        },
        **changes,
    }


def build(seed: int = 0, **changes: Any) -> Any:
    """The model in memory, a `muq.MuQ` in evaluation mode, with the weights of `seed`."""
    import torch
    from muq import MuQ, MuQConfig

    python_state, torch_state = random.getstate(), torch.get_rng_state()
    try:
        model = MuQ(MuQConfig(**config(**changes)))
        # MuQ seeds torch itself while it is built; and fresh batch norms would be no-ops.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if not tensor.is_floating_point() or name.endswith("inv_freq"):
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(1 + noise.abs())
                elif tensor.ndim == 1 and name.endswith("weight"):
                    tensor.copy_(1 + 0.1 * noise)
                else:
                    tensor.copy_(noise * 0.7 / max(tensor[0].numel(), 4) ** 0.5)
        return model.eval()
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def exact_frames(audio: np.ndarray) -> np.ndarray:
    """The frames of the model of seed 0, computed in float64: [B, T] -> [B, F, DIM].

    What every CPU gives to many more digits than float32 has: the judge of all engines.
    """
    import torch

    model = build().double().model
    # muq's own forward would compute the spectrogram in float32.
    spectrogram = model.preprocessor_melspec_2048.to(torch.float64)
    with torch.inference_mode():
        mel = {"melspec_2048": spectrogram(torch.from_numpy(audio).double())[..., :-1]}
        mel = model.normalize(mel)["melspec_2048"]
        frames = [model.conformer(model.conv(window[None]))[0] for window in mel]
        return torch.cat(frames).numpy()


def save(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the model as config.json and model.safetensors into `folder`, as the hub does."""
    with contextlib.redirect_stdout(io.StringIO()):
        build(seed, **changes).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def hub(
    folder: Path,
    model: str,
    *,
    stalls: bool = False,
    asked: list[str] | None = None,
    others: dict[str, Path] | None = None,
) -> Iterator[str]:
    """Serve `folder` as a model of a Hugging Face hub on loopback; yields its HF_ENDPOINT.

    `others`: the folders of more models, by their ids; otherwise it is the only one.

    `stalls`: of weights it sends half, and then nothing. `asked`: which bytes of them were asked
    for, by each request.

    huggingface_hub reads HF_ENDPOINT when it is imported: set it for a process of its own.
    """
    models = {model: folder} | (others or {})
    served = {
        name: {p.name: p.read_bytes() for p in where.iterdir() if p.suffix not in (".md", "")}
        for name, where in models.items()
    }
    commit = "0123456789abcdef0123456789abcdef01234567"
    over = threading.Event()

    def etag(name: str, raw: bytes) -> str:
        kind = hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1
        return kind(raw).hexdigest()

    def listing(files: dict[str, bytes]) -> list[dict[str, Any]]:
        rows = []
        for name, raw in files.items():
            row = {"type": "file", "path": name, "size": len(raw), "oid": etag(name, raw)}
            lfs = {"lfs": {"oid": etag(name, raw), "size": len(raw), "pointerSize": 130}}
            rows.append(row | (lfs if name.endswith(".safetensors") else {}))
        return rows

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            asked_for = (m for m in served if f"/{m}/" in f"{path}/")
            model = max(asked_for, key=len, default="")
            files = served.get(model, {})
            if model and path.startswith(f"/api/models/{model}/tree/"):
                self.answer(200, json.dumps(listing(files)).encode())
            elif model and f"{path}/".startswith(f"/api/models/{model}/"):
                siblings = [{"rfilename": name} for name in files]
                body = {"id": model, "sha": commit, "siblings": siblings, "tags": []}
                self.answer(200, json.dumps(body).encode())
            elif model and path.startswith(f"/{model}/resolve/") and name in files:
                raw = files[name]
                headers = {"ETag": f'"{etag(name, raw)}"', "X-Repo-Commit": commit}
                self.send(name, raw, headers)
            else:
                there = model and path.startswith(f"/{model}/resolve/")
                code = "EntryNotFound" if there else "RepoNotFound"
                self.answer(404, b"{}", {"X-Error-Code": code})

        do_HEAD = do_GET

        def send(self, name: str, body: bytes, headers: dict[str, str]) -> None:
            wanted = self.headers.get("Range", "")
            if self.command == "HEAD" or not name.endswith(".safetensors"):
                return self.answer(200, body, headers)
            if asked is not None:
                asked.append(wanted)
            begin = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            if not stalls:
                return self.answer(206 if begin else 200, body[begin:], headers)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            over.wait(3600)
            return None

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
