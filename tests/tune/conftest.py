"""Labelled photos for estimating and searching anchors, where only boxes count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinafocus.datasets.labelled import LANDMARK_COLUMNS


@pytest.fixture(scope="session")
def labels_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of twelve photos with eight faces each, 12 to 200 px, a quarter higher than wide; without the pictures."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(4)
    images = [{"image": f"{number}.jpg", "width": 640, "height": 480, "source": "a"} for number in range(12)]
    labels = []
    for image in images:
        for size in np.exp(rng.uniform(np.log(12), np.log(200), 8)):
            width, height = size / 1.25**0.5, size * 1.25**0.5
            left, top = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
            box = {"x1": left, "y1": top, "x2": left + width, "y2": top + height}
            labels.append({"image": image["image"], "kind": "human", **box} | dict.fromkeys(LANDMARK_COLUMNS))
    pq.write_table(pa.Table.from_pylist(images), root / "images.parquet")
    schema = pa.schema(
        [("image", pa.string()), ("kind", pa.string())]
        + [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", *LANDMARK_COLUMNS)]
    )
    pq.write_table(pa.Table.from_pylist(labels, schema=schema), root / "labels.parquet")
    return root
