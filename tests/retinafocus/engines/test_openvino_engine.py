"""OpenVINO's engine: a size that comes often gets a network of its own, and no bit changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from retinafocus.errors import PhotoError
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
    monkeypatch.setattr(openvino_engine, "OWN_NETWORKS", 2)
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


def test_least_recently_seen_size_makes_room(engine: OpenVinoEngine, pictures: Pictures) -> None:
    for side in (32, 64):
        engine.run(pictures(side, side, count=2))
    engine.run(pictures(32, 32))
    engine.run(pictures(96, 96, count=2))
    assert list(engine._own) == [(32, 32), (96, 96)]


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
