"""The canary: tells whether this machine still makes the vectors that are stored.

A made-up clip and a few tracks of the library are embedded again and compared with what they gave
before, stage by stage: decoder, resampler, features, encoder.
"""
