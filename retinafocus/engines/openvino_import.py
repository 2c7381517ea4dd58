"""OpenVINO without its telemetry, which reports each import to Google Analytics unless its user has opted out.

Whoever looks for faces in an archive must be able to trust that nothing leaves the machine. Import it from here only.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TELEMETRY = "openvino_telemetry"


def _without_telemetry() -> ModuleType:
    """The library, with the stand-in it has for where its telemetry package is not installed."""
    if "openvino" in sys.modules or TELEMETRY in sys.modules:
        return import_module("openvino")  # somebody else loaded it: their choice
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # makes its import fail
    try:
        return import_module("openvino")
    finally:
        sys.modules.pop(TELEMETRY, None)


openvino = _without_telemetry()
