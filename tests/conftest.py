"""Fixtures and switches for the whole suite."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import hypothesis
import pytest

# A machine busy with other work must not fail a property: pytest's own time limit catches what hangs.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; add --run-slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research photographs, weights and ground truth, which is never part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the research data, which is not here ({SHARED_DATA.name} beside the project)")
    return SHARED_DATA


class _SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def no_small_signal_stack() -> None:
    """Handle signals on the ordinary stack.

    Ray and fault handlers give a process a small stack of its own for signals. Where an engine has used the processor's
    matrix registers (AMX), what the kernel saves there no longer fits, and the next signal, such as that of a child
    process that ends, kills the process with SIGSEGV.
    """
    if sys.platform == "linux":
        disabled = 2  # SS_DISABLE
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_SignalStack(None, disabled, 0)), None)
