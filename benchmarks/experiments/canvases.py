"""Canvases of 4K joined from labelled photos at their own size, as `retinafocus make-4k` makes them (the paper, 4.1).

Only photos of sources whose faces people marked are on them, and those of sources without any region: what machines
marked says how far detectors agree, not what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.make_4k import CanvasJob, make_canvases
from pipelines.report import Progress
from retinafocus.datasets.canvas_layout import LayoutConfig
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.datasets.parquet_writer import write_parquet_folder
from retinafocus.errors import SettingsError

ORDER = "balanced"
"""Small faces spread evenly: a canvas with all of them would leave the focus map nothing to skip."""


def made_canvases(faces: Path, output: Path) -> list[LabelledPhoto]:
    """The canvases of a folder of labelled photos; what is there already is read, not made again.

    Args:
        faces: labelled photos in the Parquet form.
        output: gets the folders `people`, links to the photos that are used, and `canvases`.

    Raises:
        SettingsError: no source has a face that people marked.
    """
    people, folder = output / "people", output / "canvases"
    if not folder.is_dir():
        photos = marked_by_people(read_parquet_folder(faces))
        if not any(len(photo.boxes) for photo in photos):
            raise SettingsError(f"{faces}: no face in it was marked by people; canvases need some")
        if not people.is_dir():
            named = {f"{photo.source}/{photo.path.name}": photo for photo in photos}
            write_parquet_folder(named, people, pictures="link")
        # JPEG, because archives are: the time of a way from bytes to faces is told.
        layouts = [LayoutConfig(order=ORDER)]
        make_canvases(CanvasJob(path=str(people), output=str(folder), layouts=layouts, format="jpeg"), Progress())
    return [without_machine_made(photo) for photo in read_parquet_folder(folder)]


def marked_by_people(photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """The photos of sources with a face that people marked, or with nothing marked at all."""
    by_people = {photo.source for photo in photos if "human" in photo.kinds}
    by_machines = {photo.source for photo in photos if len(photo.boxes) or len(photo.ignore)} - by_people
    return [photo for photo in photos if photo.source not in by_machines]


def without_machine_made(photo: LabelledPhoto) -> LabelledPhoto:
    """The same photo with the faces that only detectors saw among the regions where nothing is right or wrong."""
    sure = np.array([kind == "human" for kind in photo.kinds], bool)
    return replace(
        photo,
        boxes=photo.boxes[sure],
        landmarks=photo.landmarks[sure],
        ignore=np.concatenate([photo.ignore, photo.boxes[~sure]]),
        kinds=("human",) * int(sure.sum()),
    )
