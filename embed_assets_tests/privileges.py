"""Rights of the processes that the tests start."""

import ctypes


def give_up_roots() -> None:
    """Give up, before a command begins, what lets root pass over permissions (Linux only)."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for right in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)
