"""OpenVINO without its telemetry, which reports each import to Google Analytics unless its user has opted out.

Whoever looks for faces in an archive must be able to trust that nothing leaves the machine. Import it from here only.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

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

# Its table of NumPy's types is made at the first question. Two threads that ask at once wait for each other for ever,
# one with Python's lock, the other with the table's (2026.4). A module is imported in one thread alone.
openvino.Type.f32.to_dtype()


@cache
def core() -> Any:
    """The one `openvino.Core` of this process, never let go.

    Each gives the thread that made it a stack of its own for signals, and takes its memory back when it goes (2026.4).
    If that is in another order than they came, or in another thread, the thread is left with a stack that is not
    there, and its next signal (Ctrl-C, SIGTERM, the end of a child process) ends the process with SIGSEGV.
    """
    return openvino.Core()
