"""What is known of `muq-mulan` before it is loaded; imports nothing."""

from embed_assets.encoders.base import EncoderCard

MUQ_MULAN = EncoderCard(
    name="muq-mulan",
    summary="MuQ trained together with text, for `embed-assets find`; weights CC-BY-NC 4.0",
    note="MuQ-MuLan, a model of music and text by Tencent AI Lab, which finds music by words too;"
    " its weights are CC-BY-NC 4.0: not for commercial use",
    licence="CC-BY-NC 4.0",
    commercial_use=False,
    space="muq-mulan",
    sample_rate=24_000,
    engines=("openvino", "torch"),
    describe="embed_assets.encoders.mulan.encoder:info",
    load="embed_assets.encoders.mulan.encoder:load",
    dim=512,
    window_seconds=10.0,
    only_this_window=True,
    wraps_short_windows=True,
    default_model="OpenMuQ/MuQ-MuLan-large",
    download_size="2.66 GB",
    instead="acoustic",
    fetch="embed_assets.encoders.mulan.weights:fetch",
    load_words="embed_assets.encoders.mulan.words:load",
    runs_on_gpu=True,
    # As MuQ, whose weights are nine tenths of what a worker loads.
    worker_bytes=3 << 30,
    worker_bytes_per_second=80 << 20,
    load_exact="embed_assets.encoders.mulan.encoder:exact",
    first_load_notice="embed_assets.encoders.mulan.encoder:first_load_notice",
    unused_files="embed_assets.encoders.mulan.encoder:unused_files",
    features="embed_assets.encoders.muq.engines:mel_of",
)
