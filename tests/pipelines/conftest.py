"""Photographs, weights and a cluster for the job tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import detect
from pipelines.report import Progress
from retinafocus import DetectorConfig, open_run
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.runs import Run
from retinafocus.weights import save_model


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file with seeded random numbers: it finds no faces, but the same boxes every time."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_model(RetinaFocus(get_preset("mobilenet025-1mb")), path, licence="none: random numbers", source="a test")
    return path


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 small JPEGs in two folders, with things beside them that are no photos."""
    root = tmp_path_factory.mktemp("archive")
    random = np.random.default_rng(3)
    for number in range(24):
        folder = root / ("day one" if number % 2 else "day2")
        folder.mkdir(exist_ok=True)
        small = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        picture = cv2.resize(small, (160 + number, 120), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / f"photo-{number:02d}.jpg"), picture)
    (root / "notes.txt").write_text("not a photo")
    (root / "._photo-01.jpg").write_bytes(b"resource fork")
    (root / "@eaDir").mkdir()
    (root / "@eaDir" / "photo-01.jpg").write_bytes(b"thumbnail")
    return root


@pytest.fixture(scope="session")
def run_job() -> Callable[..., Run]:
    """A function that runs a job in this process and opens its tables."""

    def run(photos: Path, output: Path, weights: Path, **settings: object) -> Run:
        settings = {"runner": "local", "workers": "2", "detector": DetectorConfig(device="cpu"), **settings}
        job = detect.DetectJob(inputs=[str(photos)], output=str(output), weights=str(weights), **settings)  # type: ignore[arg-type]
        with open(os.devnull, "w") as quiet:
            detect.run(detect.plan(job), Progress(quiet))
        return open_run(output)

    return run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The one Ray cluster of the whole test run; its address. Four processors, so that actors never take them all."""
    # Other processes of the tests join it, and a token would have to reach each of them.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray")
    context = ray.init(num_cpus=4, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()
