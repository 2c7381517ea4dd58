"""Counters for operators: what they count, and that the dashboard asks for just these."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import metrics_on_ray
from pipelines.looking import Looked
from pipelines.metrics_on_ray import METRICS, RunMetrics, exported_name, run_name
from retinafocus.faces import Faces

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "retinafocus.json"

# What Ray adds by itself to all that a worker counts, as seen on the page of a node.
RAYS_LABELS = {"NodeAddress"}


class Recorded:
    """Stands for Ray's counter, which nobody can ask what it holds."""

    totals: dict[tuple[str, ...], float] = {}  # noqa: RUF012  # one for all, cleared by the test

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name = name

    def set_default_tags(self, tags: dict[str, str]) -> Recorded:
        self.run = tags["run"]
        return self

    def inc(self, amount: float, labels: dict[str, str]) -> None:
        assert amount > 0  # Ray refuses all else
        key = (self.name, self.run, *labels.values())
        self.totals[key] = self.totals.get(key, 0) + amount


def test_worker_counts_photos_faces_failures_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_on_ray, "Counter", Recorded)
    Recorded.totals.clear()
    metrics = RunMetrics("out")
    two = Faces(np.zeros((2, 4)), np.full(2, 0.5), np.zeros((2, 5, 2)), np.zeros(2, np.int16))
    found, failed = Looked(row={"bytes": 1000}, faces=two), Looked(row={"bytes": None}, status="corrupt")
    found.ms.update(read=250.0, network=1000.0)
    failed.ms.update(read=250.0)
    metrics.photo(found)
    metrics.photo(failed)
    metrics.shard()
    assert Recorded.totals == {
        ("retinafocus_photos", "out"): 2,
        ("retinafocus_faces", "out"): 2,
        ("retinafocus_bytes", "out"): 1000,
        ("retinafocus_failures", "out", "corrupt"): 1,
        ("retinafocus_seconds", "out", "read"): 0.5,
        ("retinafocus_seconds", "out", "network"): 1.0,
        ("retinafocus_shards", "out"): 1,
    }


@pytest.mark.parametrize(
    ("output", "name"), [("/data/out/", "out"), ("s3://bucket/runs/2024", "2024"), ("/", "run"), ("out", "out")]
)
def test_run_is_called_by_the_last_part_of_its_folder(output: str, name: str) -> None:
    assert run_name(output) == name


def _expressions(value: Any) -> Iterator[str]:
    """All that the dashboard asks Prometheus."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("expr", "query", "definition") if isinstance(value.get(name), str))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _expressions(item)


def test_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    expressions = [text for text in _expressions(json.loads(DASHBOARD.read_text())) if text != "prometheus"]
    asked = {name for text in expressions for name in re.findall(r"\bray_\w+", text)}
    assert asked == {exported_name(name) for name in METRICS}
    # It sums by labels that are there, and each query knows which run is meant.
    labels = {label for _, more in METRICS.values() for label in more} | {"run"} | RAYS_LABELS
    assert {name for text in expressions for name in re.findall(r"by \((\w+)\)", text)} <= labels
    assert [text for text in expressions if not text.startswith("label_values") and 'run=~"$run"' not in text] == []


def test_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23  # Grafana's grid has 24 columns
