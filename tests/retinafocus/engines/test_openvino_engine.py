"""OpenVINO's engine: a size that comes often gets a network of its own, and no bit changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, RetinaFocus

openvino_engine = pytest.importorskip("retinafocus.engines.openvino_engine")

if TYPE_CHECKING:
    from retinafocus.engines.openvino_engine import OpenVinoEngine

Pictures = Callable[..., np.ndarray]


def as_bytes(outputs: Outputs) -> list[bytes]:
    return [output.numpy().tobytes() for output in outputs if output is not None]


@pytest.fixture
def engine(model: RetinaFocus, monkeypatch: pytest.MonkeyPatch) -> OpenVinoEngine:
    monkeypatch.setattr(openvino_engine, "OWN_AFTER", 2)
    return openvino_engine.OpenVinoEngine(model, threads=1)


def test_size_that_comes_often_gets_a_network_of_its_own_with_the_same_bits(
    engine: OpenVinoEngine, pictures: Pictures
) -> None:
    many = [pictures(64, 96, seed=seed) for seed in range(5)]
    for first in many:  # twice by the network for all sizes, then by its own
        engine.run(first)
    own = [as_bytes(engine.run(picture)) for picture in many]
    assert list(engine._own) == [(64, 96)]
    engine._own.clear()
    engine._keeps_own = False
    assert [as_bytes(engine.run(picture)) for picture in many] == own


def room_for(sizes: list[tuple[int, int]]) -> int:
    return sum(openvino_engine.FIXED_BYTES + openvino_engine.PIXEL_BYTES * height * width for height, width in sizes)


def test_networks_take_no_more_memory_than_they_may(
    engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "OWN_BYTES", room_for([(32, 32), (64, 64)]))
    for side in (32, 64, 96, 32, 96):
        engine.run(pictures(side, side, count=2))
    assert list(engine._own) == [(64, 64), (32, 32)]  # both still in use, so nothing is compiled in turn
    monkeypatch.setattr(openvino_engine, "IDLE_AFTER", 6)
    engine.run(pictures(32, 32, count=2))
    engine.run(pictures(40, 40, count=2))  # smaller than the 64 x 64 that has been idle
    assert list(engine._own) == [(32, 32), (40, 40)]


def test_size_that_all_the_memory_is_too_small_for_gets_none(
    engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "OWN_BYTES", room_for([(32, 32)]) - 1)
    monkeypatch.setattr(openvino_engine, "IDLE_AFTER", 0)
    engine.run(pictures(32, 32, count=3))
    assert not engine._own
    assert engine._keeps_own


def test_large_sizes_get_none(engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "OWN_PIXELS", 64 * 64)
    engine.run(pictures(64, 65, count=3))
    engine.run(pictures(64, 64, count=3))
    assert list(engine._own) == [(64, 64)]


def test_own_network_with_other_bits_is_never_used(
    engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = as_bytes(engine.run(pictures(40, 40)))
    monkeypatch.setattr(openvino_engine, "_same_bits", lambda one, other: False)
    assert [as_bytes(engine.run(pictures(40, 40))) for _ in range(3)] == [wanted] * 3
    assert not engine._own
    assert not engine._keeps_own


def test_own_network_that_memory_is_too_small_for_costs_no_photo(
    engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*size: int) -> Any:
        raise RuntimeError("Failed to allocate 12 bytes of memory")

    wanted = as_bytes(engine.run(pictures(40, 40)))
    monkeypatch.setattr(engine, "_compiled", fail)
    assert as_bytes(engine.run(pictures(40, 40))) == wanted
    assert not engine._own


def test_counts_of_sizes_are_bounded(
    engine: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "MAX_COUNTED", 3)
    for width in range(1, 10):
        engine.run(pictures(8, width))
        assert len(engine._seen) <= 4


def test_network_is_compiled_anew_after_a_failure(engine: OpenVinoEngine, pictures: Pictures) -> None:
    wanted = as_bytes(engine.run(pictures(40, 41)))
    with pytest.raises(PhotoError):
        engine.run(pictures(40, 41)[..., :2].copy())
    assert engine._any_size is None
    assert as_bytes(engine.run(pictures(40, 41))) == wanted


def test_own_network_is_given_up_after_a_failure(engine: OpenVinoEngine, pictures: Pictures) -> None:
    wanted = as_bytes(engine.run(pictures(40, 41)))
    engine.run(pictures(40, 41))
    assert list(engine._own) == [(40, 41)]
    with pytest.raises(PhotoError):
        engine.run(pictures(40, 41)[..., :2].copy())
    assert not engine._own
    assert as_bytes(engine.run(pictures(40, 41))) == wanted


@pytest.fixture(scope="module")
def in_integers(ranged_model: RetinaFocus) -> OpenVinoEngine:
    try:
        return openvino_engine.OpenVinoEngine(ranged_model, "int8", threads=1)
    except SettingsError as error:
        pytest.skip(str(error))


def test_integers_say_about_what_float32_says(
    in_integers: OpenVinoEngine, ranged_model: RetinaFocus, pictures: Pictures
) -> None:
    exact = openvino_engine.OpenVinoEngine(ranged_model, threads=1)
    pixels = cv2.resize(pictures(15, 20)[0], (320, 240), interpolation=cv2.INTER_CUBIC)[None]
    for one, other in zip(in_integers.run(pixels), exact.run(pixels), strict=True):
        assert one is not None
        assert other is not None
        assert one.shape == other.shape
        assert 0 < (one - other).square().mean().sqrt() < 0.1 * other.std()


def test_integers_are_the_same_bit_for_bit_whatever_was_looked_at_before(
    in_integers: OpenVinoEngine, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "OWN_AFTER", 2)
    pixels = pictures(96, 128)
    wanted = as_bytes(in_integers.run(pixels))
    for size in ((33, 47), (96, 128), (1, 1), (96, 128), (64, 64)):
        in_integers.run(pictures(*size, seed=1))
        assert as_bytes(in_integers.run(pixels)) == wanted
    assert list(in_integers._own) == [(96, 128)]
    assert in_integers._keeps_own


ENGINES_DROPPED = """
import signal, subprocess
from retinafocus.engines.openvino_engine import OpenVinoEngine
from retinafocus.models import RetinaFocus, get_preset
model = RetinaFocus(get_preset("mobile025")).eval()
signal.signal(signal.SIGCHLD, lambda *_: None)
first, second = OpenVinoEngine(model, threads=1), OpenVinoEngine(model, threads=1)
del first, second
for _ in range(5):
    subprocess.run(["true"], check=True)
print("alive")
"""


def test_signals_are_survived_after_engines_are_dropped_in_the_order_they_were_made() -> None:
    child = subprocess.run([sys.executable, "-c", ENGINES_DROPPED], capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, "alive\n"), child.stderr


# Stands still in one of four tries where the table of types is not made on import.
THREADS_AT_ONCE = """
import threading
from retinafocus.engines.openvino_import import openvino
together = threading.Barrier(8)
threads = [
    threading.Thread(target=lambda: (together.wait(), openvino.Type.f32.to_dtype())) for _ in range(8)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("alive")
"""


def test_first_pictures_of_several_threads_do_not_wait_for_each_other_for_ever() -> None:
    command = [sys.executable, "-c", THREADS_AT_ONCE]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout) == (0, "alive\n"), child.stderr
