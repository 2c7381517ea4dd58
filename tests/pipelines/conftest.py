"""Photographs, weights and a cluster for the job tests."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import detect, planning
from pipelines.report import Progress
from retinafocus import DetectorConfig, open_run
from retinafocus.datasets.labelled import LANDMARK_COLUMNS
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.runs import Run
from retinafocus.weights import save_model

from .search_here import without_ray


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
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of 128 px with drawn faces of 24 to 60 px, in the Parquet form; two sources, one ignore region."""
    root = tmp_path_factory.mktemp("labelled")
    (root / "images").mkdir()
    random = np.random.default_rng(5)
    images, labels = [], []
    for number in range(8):
        name, source = f"{number}.png", "odd" if number % 2 else "even"
        small = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = np.ascontiguousarray(cv2.resize(small, (128, 128), interpolation=cv2.INTER_CUBIC) // 2, np.uint8)
        for left, top in ((4, 4), (66, 60))[: 1 + number % 2]:
            width = int(random.integers(24, 52))
            labels.append({"image": name, "kind": "human"} | draw_face(picture, left, top, width))
        images.append({"image": name, "width": 128, "height": 128, "source": source})
        assert cv2.imwrite(str(root / "images" / name), picture)
    doubtful = dict.fromkeys(labels[0]) | {"image": "0.png", "kind": "ignore"}
    labels.append(doubtful | {"x1": 100.0, "y1": 100.0, "x2": 120.0, "y2": 120.0})
    pq.write_table(pa.Table.from_pylist(images), root / "images.parquet")
    pq.write_table(pa.Table.from_pylist(labels), root / "labels.parquet")
    return root


@pytest.fixture
def short_training(labelled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the settings of a training: three epochs of one step. The test is at work in the file's folder."""
    monkeypatch.chdir(tmp_path)  # trials are at work in other folders, and must not look for these there
    folder = os.path.relpath(labelled_folder)
    path = tmp_path / "training.toml"
    path.write_text(
        f"""
        batch = 2
        epoch_steps = 1
        loaders = 0
        device = "cpu"
        data.folders = ["{folder}"]
        evaluation = {{folder = "{folder}", min_face = 20, photos = 2}}
        model.preset = "mobilenet025-1mb"
        sample.crop.side = 64
        loop = {{steps = 3, warmup_steps = 1}}
        """
    )
    return path


def draw_face(picture: np.ndarray, left: int, top: int, width: int) -> dict[str, float]:
    """An oval with eyes, nose and mouth, a fifth taller than wide; its box and landmarks as columns of the labels."""
    height = round(width * 1.2)
    centre = (left + width // 2, top + height // 2)
    cv2.ellipse(picture, centre, (width // 2, height // 2), 0, 0, 360, (150, 180, 230), -1)
    points = [(left + round(width * x), top + round(height * y)) for x, y in FACE_POINTS]
    for point in points[:3]:
        cv2.circle(picture, point, max(1, width // 12), (30, 30, 60), -1)
    cv2.line(picture, points[3], points[4], (40, 40, 200), max(1, width // 12))
    box = {"x1": left, "y1": top, "x2": left + width, "y2": top + height}
    named = zip(LANDMARK_COLUMNS, (value for point in points for value in point), strict=True)
    return {name: float(value) for name, value in (*box.items(), *named)}


# Left eye, right eye, nose, left and right corner of the mouth, as shares of the box.
FACE_POINTS = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.58), (0.33, 0.76), (0.67, 0.76))


@pytest.fixture(scope="session")
def run_job() -> Callable[..., Run]:
    """A function that runs a job in this process and opens its tables."""

    def run(photos: Path, output: Path, weights: Path, *, log: str | None = None, **settings: object) -> Run:
        settings = {"runner": "local", "workers": "2", "detector": DetectorConfig(device="cpu"), **settings}
        job = planning.DetectJob(inputs=[str(photos)], output=str(output), weights=str(weights), **settings)  # type: ignore[arg-type]
        with open(os.devnull, "w") as quiet:
            detect.run(planning.plan(job), Progress(quiet, events=log))
        return open_run(output)

    return run


# What a Python process runs at its start where PYTHONPATH has it: a JPEG decoder with faults. Photos without a mark are
# decoded as ever.
FAULTY_DECODER = """
import ctypes, os, time
import simplejpeg

decode = simplejpeg.decode_jpeg

def faulty(data, *arguments, **options):
    if b"FAULT-segfault" in data:
        ctypes.string_at(0)
    if b"FAULT-exit" in data:
        os._exit(7)
    if b"FAULT-hang" in data:
        time.sleep(3600)
    hog = bytearray(16 << 30) if b"FAULT-memory" in data else None  # reserved only, never touched
    return decode(data, *arguments, **options)

simplejpeg.decode_jpeg = faulty
"""


@pytest.fixture(scope="session")
def faulty_decoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process whose JPEG decoder has the faults that a photo's mark asks for; see `add_fault`."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "sitecustomize.py").write_text(FAULTY_DECODER)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def add_fault(photo: Path, fault: str) -> None:
    """Mark a JPEG, after its end: `segfault`, `exit`, `hang` or `memory`. Other decoders pass over it."""
    photo.write_bytes(photo.read_bytes() + f"FAULT-{fault}".encode() + b"\xff\xd9")


def rows_without(run: Run, names: Iterable[str]) -> list[list[dict[str, object]]]:
    """Rows of `faces` and of `images`, but for the photos of those names."""
    tables = (run.faces(), run.images())
    return [[row for row in table.to_pylist() if row["uri"].rsplit("/", 1)[1] not in names] for table in tables]


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for something, five minutes at most."""
    deadline = time.monotonic() + 300
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture
def searches_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches run in the process of the test, without Ray."""
    for name, module in without_ray().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="session")
def ray_cluster(faulty_decoder: dict[str, str]) -> Iterator[str]:
    """The one Ray cluster of the whole test run; its address. Four processors, so that actors never take them all."""
    # Other processes of the tests join it, and a token would have to reach each of them.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:  # its workers take their environment from the processes started here
        patch.setenv("PYTHONPATH", faulty_decoder["PYTHONPATH"])
        context = ray.init(num_cpus=4, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()
