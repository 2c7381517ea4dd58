"""What a label file says about one photo, row for row, and the way from there to a `LabelledPhoto`.

Every reader of a label format gives `PhotoLabels`: nothing is dropped, moved or cut there, because an evaluation may
count rows by number. What training needs is made once, here, for all formats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.errors import LabelError, SettingsError

Box = tuple[float, float, float, float]
Points = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labelled region as its file has it."""

    place: str
    """Where it is written: `file:line`, or the file and what identifies the entry."""

    box: Box
    """xyxy pixels, x2 and y2 exclusive; may be empty or lie outside the photo."""

    points: Points | None = None
    """x and y of the five landmarks in the order of `LANDMARK_NAMES`, NaN where missing; None if there are none."""

    doubtful: bool = False
    """Neither face nor background: becomes an ignore region."""

    kind: str = ""
    """The class as the file names it; empty in formats that know faces only."""

    attributes: tuple[float, ...] = ()
    """What the format tells beside, in the order the reader documents."""


@dataclass(frozen=True, slots=True)
class PhotoLabels:
    """One photo of a label file."""

    name: str
    """The picture's path under the folder of pictures, with forward slashes."""

    place: str
    """Where the photo is listed, like `LabelRow.place`."""

    rows: tuple[LabelRow, ...]
    """Every row, in the file's order."""

    size: tuple[int, int] | None = None
    """(height, width) the labels were made for, in pixels; None where the format does not say."""


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that became neither a face nor an ignore region."""

    place: str
    reason: str


NO_AREA = "the box has no area"
OUTSIDE = "the box lies outside the photo"


def labelled_photo(
    labels: PhotoLabels, path: Path, size: tuple[int, int], *, source: str, kinds: frozenset[str] | None = None
) -> tuple[LabelledPhoto, list[DroppedRow]]:
    """Make the record that training takes: boxes cut at the photo's border, doubtful rows as ignore regions.

    Args:
        labels: the rows; none are needed.
        path: the picture's file.
        size: (height, width) of the upright photo.
        source: the collection the photo comes from.
        kinds: classes that are faces; rows of others are left out without being counted as dropped. None takes all.

    Returns:
        The record, with kind "human" for every face, and the rows whose box has no area inside the photo.
    """
    faces: list[tuple[Box, Points | None]] = []
    ignore: list[Box] = []
    dropped: list[DroppedRow] = []
    for row in labels.rows:
        if kinds is not None and row.kind not in kinds:
            continue
        x1, y1, x2, y2 = row.box
        box = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[1])), min(y2, float(size[0]))
        if x2 <= x1 or y2 <= y1:
            dropped.append(DroppedRow(row.place, NO_AREA))
        elif np.float32(box[2]) <= np.float32(box[0]) or np.float32(box[3]) <= np.float32(box[1]):
            dropped.append(DroppedRow(row.place, OUTSIDE))
        elif row.doubtful:
            ignore.append(box)
        else:
            faces.append((box, row.points))
    points = [(math.nan,) * 10 if points is None else points for _, points in faces]
    record = LabelledPhoto(
        path=path,
        size=size,
        boxes=np.array([box for box, _ in faces], np.float32).reshape(-1, 4),
        landmarks=np.array(points, np.float32).reshape(-1, 5, 2),
        ignore=np.array(ignore, np.float32).reshape(-1, 4),
        source=source,
        kinds=("human",) * len(faces),
    )
    return record, dropped


def face_kinds(photos: Iterable[PhotoLabels], wanted: Sequence[str] | None) -> frozenset[str] | None:
    """Which classes are faces: those the user names; unnamed only where the labels have a single class.

    Returns:
        The classes, or None where every row is a face.

    Raises:
        SettingsError: a class is not in the labels, or there are several and none is named; lists them with counts.
    """
    counts = Counter(row.kind for photo in photos for row in photo.rows)
    there = ", ".join(f"{kind or 'faces without a class'} ({count:,} boxes)" for kind, count in counts.most_common())
    if wanted is None:
        if len(counts) > 1:
            raise SettingsError(f"classes: the labels have {there}; name those that are faces with --classes")
        return None
    if unknown := sorted(set(wanted) - set(counts)):
        raise SettingsError(f"classes: there are no boxes of {', '.join(unknown)}; the labels have {there or 'none'}")
    return frozenset(wanted)


def check_names(photos: Iterable[PhotoLabels]) -> None:
    """Refuse names that leave the folder of pictures, and photos listed twice: one of the two would be lost.

    Raises:
        LabelError: names the place.
    """
    places: dict[str, str] = {}
    for photo in photos:
        path = PurePosixPath(photo.name)
        if not photo.name or path.is_absolute() or ".." in path.parts:
            raise LabelError(f"{photo.place}: {photo.name!r} is no path below the folder of pictures; make it one")
        # Two spellings of one path would be one file in the end.
        if (earlier := places.setdefault(str(path), photo.place)) != photo.place:
            raise LabelError(f"{photo.place}: {photo.name} is listed already at {earlier}; join the two or remove one")


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, without spaces at their ends, each with its `file:line`.

    Raises:
        LabelError: there is no such file, or it is not UTF-8 text.
    """
    for number, line in enumerate(read_label_text(path).split("\n"), start=1):
        if stripped := line.strip():
            yield f"{path}:{number}", stripped


def read_label_text(path: Path) -> str:
    """A whole text file.

    Raises:
        LabelError: it cannot be read, or is not UTF-8 text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: byte {error.start} is not UTF-8 text; is this a file of labels?") from None
    except OSError as error:
        raise LabelError(f"{path}: the labels cannot be read ({error.strerror})") from None


def numbers(text: str, place: str, counts: Sequence[int], meaning: str) -> list[float]:
    """The finite numbers of a line, of which there must be as many as one of `counts`.

    Raises:
        LabelError: another count, or a word that is no finite number; `meaning` says what the line should be.
    """
    words = text.split()
    if len(words) not in counts:
        expected = " or ".join(str(count) for count in counts)
        raise LabelError(f"{place}: {len(words)} values where {expected} are needed: {meaning}")
    return [finite(word, place, meaning) for word in words]


def finite(word: object, place: str, meaning: str) -> float:
    """A finite number from a word or a parsed value.

    Raises:
        LabelError: it is none.
    """
    try:
        value = float(word)  # type: ignore[arg-type]  # whatever it is, the error below names it
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(word, bool) or not math.isfinite(value):
        raise LabelError(f"{place}: {word!r} is no finite number: {meaning}")
    return value


def marked_points(values: Sequence[float]) -> Points | None:
    """Five landmarks from x, y, flag triples, where the triple -1 -1 -1 is a missing one; None if all are missing.

    A negative coordinate alone means nothing: a face cut by the photo's border has landmarks outside of it.
    """
    points: list[float] = []
    for x, y, flag in zip(values[0::3], values[1::3], values[2::3], strict=True):
        points += (math.nan, math.nan) if x == y == flag == -1 else (x, y)
    return None if all(math.isnan(value) for value in points) else tuple(points)
