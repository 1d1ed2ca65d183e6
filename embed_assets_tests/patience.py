"""How long the tests wait for what must happen."""

PATIENCE = 900.0
"""Seconds: more than the busiest machine takes. What happens ends the wait, so that only a test
that fails takes so long."""
