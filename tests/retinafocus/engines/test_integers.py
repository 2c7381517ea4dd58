"""Processors that cannot add products of 8-bit integers are found out by their arithmetic."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("retinafocus.engines.openvino_engine")

CHECK = """
from retinafocus.engines.integers import check_processor
from retinafocus.errors import SettingsError

try:
    check_processor({"INFERENCE_NUM_THREADS": 1})
except SettingsError as error:
    print(error)
"""


def test_processor_without_the_instructions_is_refused() -> None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the instructions can be hidden from the library on x86 only")
    run = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.startswith("precision is 'int8', but this processor has no instructions for it"), run.stderr
