"""How many workers a cluster holds: places counted node by node."""

from __future__ import annotations

import pytest

from pipelines.room import Crew, Demand, find_crews, room
from pipelines.workers import Workers
from retinafocus.errors import SettingsError

CPU, GPU = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}
FOUR, EIGHT = {"CPU": 4.0, "memory": 8e9}, {"CPU": 8.0, "memory": 16e9}
WITH_GPUS = {"CPU": 4.0, "GPU": 2.0, "memory": 8e9}


@pytest.mark.parametrize(
    ("nodes", "kinds", "expected"),
    [
        pytest.param([], [(CPU, 1)], [0], id="no node"),
        pytest.param([{"CPU": 1.0}], [(CPU, 1)], [0], id="the only processor stays free"),
        pytest.param([FOUR], [(CPU, 9)], [3], id="all but one"),
        pytest.param([FOUR, EIGHT], [(CPU, 99)], [11], id="one is free on the cluster, not on each node"),
        pytest.param([FOUR, {"GPU": 4.0, "CPU": 1.0}], [(GPU, 4)], [1], id="GPUs without processors beside them"),
        pytest.param([WITH_GPUS], [(GPU | {"GPU": 0.5}, 9)], [3], id="half GPUs, then processors end"),
        pytest.param([{"CPU": 20.0, "GPU": 1.0}], [(GPU | {"GPU": 0.1}, 20)], [10], id="tenths are rounded numbers"),
        pytest.param([FOUR, FOUR], [(CPU | {"memory": 5e9}, 9)], [2], id="memory of one node, not of both together"),
        pytest.param([WITH_GPUS, FOUR], [(GPU, 2), (CPU, 9)], [2, 5], id="two kinds"),
        pytest.param(
            [{"CPU": 2.0, "GPU": 2.0}, FOUR], [(GPU, 2), (CPU, 3)], [2, 3], id="CPU workers go elsewhere first"
        ),
        pytest.param([{"CPU": 2.0, "GPU": 2.0}], [(GPU, 1), (CPU, 1)], [1, 0], id="nothing left for the second"),
    ],
)
def test_workers_that_find_a_place(
    nodes: list[dict[str, float]], kinds: list[tuple[dict[str, float], int]], expected: list[int]
) -> None:
    assert room(nodes, kinds) == expected


def _workers(count: int, chosen: bool = True, **settings: object) -> Workers:
    return Workers(count=count, device="cpu", chosen=chosen, **settings)  # type: ignore[arg-type]


def _sizes(crews: list[Crew]) -> list[tuple[int, int]]:
    return [(crew.least, crew.most) for crew in crews]


def _demand(workers: Workers, fills: bool = False, waits: bool = False, shards: int = 100, **memory: int) -> Demand:
    return Demand(workers=workers, fills=fills, waits=waits, shards=shards, memory=memory)


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        pytest.param(_demand(_workers(3)), [(3, 3)], id="what was asked for"),
        pytest.param(_demand(_workers(1, chosen=False), fills=True), [(11, 11)], id="all there is"),
        pytest.param(_demand(_workers(9), shards=2), [(2, 2)], id="no more than shards"),
        pytest.param(_demand(_workers(40, least=2)), [(2, 40)], id="a range has room for its least"),
        pytest.param(_demand(_workers(40, least=20), waits=True), [(20, 40)], id="a range waits for nodes that come"),
    ],
)
def test_crew_is_as_large_as_asked_for_and_room(demand: Demand, expected: list[tuple[int, int]]) -> None:
    assert _sizes(find_crews(demand, [FOUR, EIGHT], pytest.fail)) == expected


def test_range_waits_for_the_first_node_and_a_number_does_not() -> None:
    head = {"memory": 1e9}
    assert _sizes(find_crews(_demand(_workers(8, least=2), waits=True), [head], pytest.fail)) == [(2, 8)]
    with pytest.raises(SettingsError, match=r"has 0 CPUs; .* name LEAST\.\.MOST workers to wait for nodes"):
        find_crews(_demand(_workers(2), waits=True), [head], pytest.fail)
    with pytest.raises(SettingsError, match=r"20 workers of one CPU each .* use --workers 3"):
        find_crews(_demand(_workers(40, least=20)), [FOUR], pytest.fail)


def test_gpus_as_they_come_beside_workers_that_are_there() -> None:
    both = Workers(count=2, least=0, device="cuda", chosen=True, gpus_each=0.5, beside=_workers(3))
    gpu, cpu = find_crews(_demand(both), [FOUR], pytest.fail)
    assert (gpu.least, gpu.most, gpu.needs) == (0, 2, {"CPU": 1.0, "GPU": 0.5})
    assert (cpu.least, cpu.most, cpu.needs) == (3, 3, {"CPU": 1.0})


@pytest.mark.parametrize(
    ("workers", "nodes", "message"),
    [
        pytest.param(
            _workers(9), [FOUR], "workers: 9 workers of one CPU each beside one CPU for Ray itself do not fit, the "
            "cluster has 4 CPUs; use --workers 3 or add nodes", id="too many",
        ),
        pytest.param(
            Workers(count=4, device="cuda", chosen=True, gpus_each=1.0, beside=_workers(9)), [WITH_GPUS, FOUR],
            "workers: 4 workers of one CPU and 1 GPU on the same node each and 9 workers of one CPU each .* the "
            "cluster has 8 CPUs and 2 GPUs; use --workers gpu=2,cpu=5 or add nodes", id="too many of both",
        ),
        pytest.param(
            Workers(count=1, device="cuda", chosen=True, gpus_each=1.0), [EIGHT], "the cluster has 8 CPUs and 0 GPUs; "
            "one cuda worker needs one CPU and 1 GPU on the same node, and Ray itself 1 CPU: add nodes", id="no GPU",
        ),
    ],
)  # fmt: skip
def test_cluster_that_is_too_small_is_refused(workers: Workers, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        find_crews(_demand(workers), nodes, pytest.fail)


def test_memory_is_asked_for_where_it_is_known() -> None:
    (crew,) = find_crews(_demand(_workers(4), cpu=1_500_000_000), [FOUR, EIGHT], pytest.fail)
    assert crew.needs == {"CPU": 1.0, "memory": 1.5e9}


def test_memory_is_not_asked_of_nodes_that_are_yet_to_come() -> None:
    demand = _demand(_workers(8, least=1), waits=True, cpu=1_500_000_000)
    assert find_crews(demand, [FOUR], pytest.fail)[0].needs == {"CPU": 1.0}


def test_memory_that_does_not_suffice_makes_no_job_impossible() -> None:
    said: list[str] = []
    demand = _demand(_workers(11), cpu=3_000_000_000)  # 2 + 5 of them
    assert find_crews(demand, [FOUR, EIGHT], said.append) == [
        Crew(workers=demand.workers, least=11, most=11, needs={"CPU": 1.0})
    ]
    (words,) = said
    assert "a worker is expected to take 3.0 GB, and Ray has 24.0 GB to give on this cluster: it is not asked" in words
    too_large = _demand(_workers(1, chosen=False), fills=True, cpu=99_000_000_000)
    assert find_crews(too_large, [FOUR], said.append)[0].needs == {"CPU": 1.0}


def test_without_a_word_on_workers_memory_decides_how_many() -> None:
    said: list[str] = []
    demand = _demand(_workers(11, chosen=False), fills=True, cpu=3_000_000_000)
    (crew,) = find_crews(demand, [FOUR, EIGHT], said.append)
    assert (crew.least, crew.most, crew.needs["memory"]) == (7, 7, 3e9)
    assert said[0].endswith("so 7 workers are started where processors would allow 11")


def test_without_a_word_on_workers_memory_decides_on_a_laptop_too() -> None:
    said: list[str] = []
    laptop = {"CPU": 9.0, "memory": 5e9}  # a private cluster: a worker for each of eight cores, and one processor more
    demand = _demand(_workers(8, chosen=False), cpu=1_600_000_000)
    (crew,) = find_crews(demand, [laptop], said.append)
    assert (crew.least, crew.most, crew.needs["memory"]) == (3, 3, 1.6e9)  # no more are asked for than Ray can start
    assert said[0].endswith("so 3 workers are started where processors would allow 8")
