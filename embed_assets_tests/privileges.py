"""Rights of the processes that the tests start.

    python privileges.py COMMAND ...

runs a command without what lets root pass over permissions. A process with threads of gRPC, as that
of the tests may be, cannot safely do this in its child (`preexec_fn`).
"""

import ctypes
import os
import sys


def give_up_roots() -> None:
    """Give up, before a command begins, what lets root pass over permissions (Linux only)."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for right in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)


if __name__ == "__main__":
    give_up_roots()
    os.execv(sys.argv[1], sys.argv[1:])
