"""The package openvino, imported where it is needed, without its telemetry."""

from __future__ import annotations

import sys
from typing import Any


class Refused(Exception):
    """OpenVINO cannot run a model here; the message says why."""


def import_openvino() -> Any:
    """The module openvino; raises Refused where it cannot be imported."""
    # Its telemetry reports each conversion to Google Analytics unless one opts out. Without the
    # package OpenVINO uses a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise Refused(f"the package openvino cannot be imported ({error})") from error
    return openvino
