"""What is known of `muq` and `muq-int8` before they are loaded; imports nothing."""

from dataclasses import replace

from embed_assets.encoders.base import EncoderCard

MUQ = EncoderCard(
    name="muq",
    summary="weights CC-BY-NC 4.0",
    note="MuQ, a self-supervised music model by Tencent AI Lab; its weights are CC-BY-NC 4.0: not"
    " for commercial use",
    licence="CC-BY-NC 4.0",
    commercial_use=False,
    space="muq",
    sample_rate=24_000,
    engines=("openvino", "torch"),
    describe="embed_assets.encoders.muq.encoder:info",
    load="embed_assets.encoders.muq.encoder:load",
    default_model="OpenMuQ/MuQ-large-msd-iter",
    download_size="1.3 GB",
    instead="acoustic",
    runs_on_gpu=True,
    # Generously: the weights, and as they are packed for the CPU (2.2 GiB in bfloat16), or torch
    # with them, which runs it where OpenVINO cannot.
    worker_bytes=3 << 30,
    worker_bytes_per_second=80 << 20,
    load_exact="embed_assets.encoders.muq.encoder:exact",
    first_load_notice="embed_assets.encoders.muq.encoder:first_load_notice",
    unused_files="embed_assets.encoders.muq.encoder:unused_files",
    features="embed_assets.encoders.muq.engines:mel_of",
)

MUQ_INT8 = replace(
    MUQ,
    name="muq-int8",
    summary="MuQ in 8 bits: faster on a CPU, less exact; measure it first with"
    " `embed-assets try-int8`",
    note=f"{MUQ.note}; in int8, whose vectors are close to those in float but not the same",
    engines=("openvino",),
    describe="embed_assets.encoders.muq.encoder:info_int8",
    load="embed_assets.encoders.muq.encoder:load_int8",
    runs_on_gpu=False,
    require="embed_assets.encoders.muq.int8_engine:require",
    load_exact="",
    first_load_notice="",
    unused_files="",
)
