"""What is known of `acoustic` before it is loaded; imports nothing."""

from embed_assets.encoders.base import EncoderCard

ACOUSTIC = EncoderCard(
    name="acoustic",
    summary="built in, no download",
    note=(
        "built-in acoustic features (timbre, harmony, rhythm): for trials and small machines; much"
        " weaker than MuQ"
    ),
    licence="Apache-2.0",
    commercial_use=True,
    space="acoustic",
    sample_rate=22_050,
    dim=128,
    engines=("numpy",),
    describe="embed_assets.encoders.acoustic.encoder:describe",
    load="embed_assets.encoders.acoustic.encoder:load",
    is_quick=True,
    features="embed_assets.encoders.acoustic.encoder:features_of",
    # Ten tracks against themselves as MP3 of 128 kbit/s gave .953 or more (of 64 kbit/s, which cuts
    # off the treble, .49 or more), and the 903 pairs of other tracks of about one length among 383
    # gave .56 at most.
    same_recording_cosine=0.95,
)
