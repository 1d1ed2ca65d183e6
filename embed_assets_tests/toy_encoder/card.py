"""What is known of `toy` before it is loaded."""

from embed_assets.encoders.base import EncoderCard

TOY = EncoderCard(
    name="toy",
    summary="power in bands",
    note="the power of a sound in 24 bands, for a test",
    licence="Apache-2.0",
    commercial_use=True,
    space="toy",
    sample_rate=16_000,
    dim=24,
    engines=("numpy",),
    describe="embed_assets_tests.toy_encoder.encoder:describe",
    load="embed_assets_tests.toy_encoder.encoder:load",
    is_quick=True,
)
