"""The photos that canvases are made of, from WIDER FACE as it is unpacked or from a folder in the Parquet form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.datasets.photo_labels import PhotoLabels, labelled_photo
from retinafocus.datasets.wider_ground_truth import BOXES_FILE, LIST_FILES, read_ground_truth
from retinafocus.datasets.widerface import read_wider_mat
from retinafocus.errors import LabelError, SettingsError
from retinafocus.evaluation.wider_protocol import ProtocolPhoto, protocol_photos


@dataclass(frozen=True, slots=True, eq=False)
class ListedPhoto:
    """A photo with labels, not yet looked at."""

    truth: ProtocolPhoto
    """All N rows of its labels."""

    ignored: NDArray[np.bool_]
    """(N,) rows that are neither face nor background."""

    path: Path

    size: tuple[int, int] | None
    """(height, width) the labels were made for; None where they do not say."""

    labelled: Callable[[tuple[int, int]], LabelledPhoto]
    """The record that training takes, for the (height, width) of the upright photo."""


def list_photos(folder: Path, ground_truth: Path | None) -> list[ListedPhoto]:
    """The photos of a folder in the Parquet form, or of the validation part of WIDER FACE, in the order of its lists.

    Args:
        folder: holds `images.parquet`, or `WIDER_val/images`.
        ground_truth: for WIDER FACE, the folder of its four `.mat` files; None looks below `folder`.

    Raises:
        SettingsError: neither form is there, or a ground truth is named for the Parquet form, which has its own.
        LabelError: the labels cannot be read, or a photo of WIDER FACE is missing.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder}: there is no such folder")
    if (folder / "images.parquet").exists():
        if ground_truth is not None:
            raise SettingsError(f"ground_truth: {folder} has labels of its own; leave the setting out")
        return _from_parquet(folder)
    return list_wider_photos(folder, ground_truth)


def list_wider_photos(folder: Path, ground_truth: Path | None) -> list[ListedPhoto]:
    """The same of WIDER FACE alone, also where the folder has `images.parquet` as well."""
    return _from_wider(folder, ground_truth or _ground_truth_folder(folder))


def _from_parquet(folder: Path) -> list[ListedPhoto]:
    photos = read_parquet_folder(folder)
    listed = []
    for photo, truth in zip(photos, protocol_photos(photos, folder / "images"), strict=True):
        # The protocol's rows are the faces, then the ignore regions.
        ignored = np.arange(len(truth.boxes)) >= len(photo.boxes)
        listed.append(ListedPhoto(truth, ignored, photo.path, photo.size, _always(photo)))
    return listed


def _always(photo: LabelledPhoto) -> Callable[[tuple[int, int]], LabelledPhoto]:
    return lambda size: photo


def _from_wider(folder: Path, ground_truth: Path) -> list[ListedPhoto]:
    truths = read_ground_truth(ground_truth)
    # The same file gives the boxes of the truth.
    rows_by_name = {photo.name.removesuffix(".jpg"): photo for photo in read_wider_mat(ground_truth / BOXES_FILE)}
    pictures = folder / "WIDER_val" / "images"
    # A set without some of them would pass for the whole one.
    if missing := [truth.name for truth in truths if not (pictures / f"{truth.name}.jpg").is_file()]:
        raise LabelError(
            f"{pictures}: {len(missing):,} of the {len(truths):,} pictures of the ground truth are not there (the "
            f"first is {missing[0]}.jpg); give the folder that WIDER_val.zip was unpacked into, or unpack it again"
        )
    listed = []
    for truth in truths:
        rows = rows_by_name[truth.name]
        ignored = np.array([row.doubtful for row in rows.rows], np.bool_)
        path = pictures / f"{truth.name}.jpg"
        listed.append(ListedPhoto(truth, ignored, path, None, _labeller(rows, path)))
    return listed


def _labeller(rows: PhotoLabels, path: Path) -> Callable[[tuple[int, int]], LabelledPhoto]:
    return lambda size: labelled_photo(rows, path, size, source="widerface")[0]


def _ground_truth_folder(folder: Path) -> Path:
    # Not by the file of all boxes: the release's own folder of labels has one, without the lists.
    found = sorted({path.parent for path in folder.rglob(LIST_FILES["hard"])})
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"{LIST_FILES['hard']} lies in {', '.join(map(str, found))}"
    else:
        problem = f"there is no images.parquet in it, nor {LIST_FILES['hard']} (WIDER FACE) below it"
    raise SettingsError(
        f"{folder}: {problem}; name the folder ground_truth of the official evaluation tools (eval_tools.zip) with "
        "--ground-truth"
    )
