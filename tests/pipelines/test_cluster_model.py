"""What clusters are expected to do: hand-worked numbers, and bounds that hold whatever the shards are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cluster_model import START_SECONDS, Node, PhotoCost, makespan, predict
from retinafocus.errors import SettingsError

COST = PhotoCost(seconds=0.5, file_bytes=2e6)


def test_largest_shards_go_first_to_whoever_is_free() -> None:
    # 5 | 4, 2 | 3, 1, 1 would be better; largest first gives 5, 1 | 4, 1 | 3, 2 = 6, 5, 5.
    assert makespan([1, 2, 3, 4, 5, 1], 3) == 6
    assert makespan([3, 3, 3], 2) == 6
    assert makespan([7], 100) == 7
    assert makespan([], 4) == 0


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=60), st.integers(1, 20))
def test_last_worker_ends_after_the_even_share_and_before_that_and_the_largest_job(
    seconds: list[float], workers: int
) -> None:
    found, least = makespan(seconds, workers), max(sum(seconds) / workers, max(seconds))
    assert least <= found * (1 + 1e-9)
    # Graham 1969: list scheduling is never worse than the mean and the largest together.
    assert found <= (sum(seconds) / workers + max(seconds)) * (1 + 1e-9)


def test_even_shards_on_many_nodes() -> None:
    # 64 shards of 100 photos, 8 workers on each of 2 nodes: 4 shards each, 200 s of work.
    found = predict(COST, [100] * 64, Node(workers=8, price_per_hour=3.6), 2)
    assert found.seconds == 200 + START_SECONDS
    assert found.photos_per_second == pytest.approx(6400 / 225)
    assert found.limit == "workers"
    assert found.efficiency == pytest.approx(200 / 225)
    assert found.node_hours == pytest.approx(2 * 225 / 3600)
    assert found.price == pytest.approx(0.45)
    assert found.price_per_million == pytest.approx(0.45 / 6400 * 1e6)


def test_store_and_network_of_a_node_hold_workers_back() -> None:
    shards = [100] * 64
    # 16 workers want 64 MB/s; the store gives 32: twice as long.
    held = predict(COST, shards, Node(workers=8), 2, store_bytes_per_second=32e6)
    assert (held.limit, held.seconds) == ("store", 400 + START_SECONDS)
    assert held.efficiency == pytest.approx(200 / 425)
    assert held.price is None
    assert held.price_per_million is None
    # Each node wants 32 MB/s and gets 8: four times.
    held = predict(COST, shards, Node(workers=8, bytes_per_second=8e6), 2, store_bytes_per_second=64e6)
    assert (held.limit, held.seconds) == ("node network", 800 + START_SECONDS)
    # As much as they want is no limit.
    assert predict(COST, shards, Node(workers=8), 2, store_bytes_per_second=64e6).limit == "workers"


def test_more_workers_than_shards_do_not_help() -> None:
    one, two = (predict(COST, [256] * 4, Node(workers=4), nodes) for nodes in (1, 10))
    assert one.seconds == two.seconds == 128 + START_SECONDS
    assert (one.limit, two.limit) == ("workers", "shards")
    assert two.efficiency == pytest.approx(one.efficiency / 10)


def test_one_photo() -> None:
    found = predict(PhotoCost(seconds=0.5, file_bytes=0.0), [1], Node(workers=1, price_per_hour=0.0), 1)
    assert found.seconds == 0.5 + START_SECONDS
    assert found.price == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param({"workers": 0}, "node-workers is 0", id="workers"),
        pytest.param({"workers": 1, "bytes_per_second": 0.0}, "node-bandwidth", id="bandwidth"),
        pytest.param({"workers": 1, "price_per_hour": -1.0}, "price-per-node-hour is -1", id="price"),
    ],
)
def test_node_that_makes_no_sense_is_refused(words: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Node(**words)


def test_cluster_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingsError, match="cluster is 0"):
        predict(COST, [1], Node(workers=1), 0)
    with pytest.raises(SettingsError, match="store-bandwidth"):
        predict(COST, [1], Node(workers=1), 1, store_bytes_per_second=0)
