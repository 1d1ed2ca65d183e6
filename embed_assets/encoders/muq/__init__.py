"""MuQ, the default encoder, and `muq-int8`, the same in 8 bits: what runs it, and what is kept."""
