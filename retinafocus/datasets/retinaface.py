"""The label files that came with RetinaFace and SCRFD: WIDER FACE pictures with landmarks.

`label.txt` has a line `# event/name.jpg`, then a row for each face: `x y w h`, five times `x y flag`, and blur. Its
validation form has `x y w h` only, its test form no rows at all. `labelv2.txt` has `# event/name.jpg width height`,
then rows `x1 y1 x2 y2` and five times `x y flag`, or `x1 y1 x2 y2 ignore`.

Source: insightface, detection/retinaface/rcnn/dataset/retinaface.py and detection/scrfd/mmdet/datasets/retinaface.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from retinafocus.datasets.photo_labels import LabelRow, PhotoLabels, marked_points, numbers, text_lines
from retinafocus.errors import LabelError

ATTRIBUTES = ("blur",)
"""Of the rows of `label.txt` with landmarks: from 0 (clear) to 1; negative where nobody has judged it."""

_SIZED_HEADER = re.compile(r"#\s*(?P<name>\S.*?)\s+(?P<width>\d+)\s+(?P<height>\d+)")


def read_label_txt(path: Path) -> list[PhotoLabels]:
    """Read RetinaFace's `label.txt`, of train, val or test.

    Raises:
        LabelError: a line is malformed; names file and line.
    """
    return _read(path, lambda text, place: (text[1:].strip(), None), _row)


def read_labelv2_txt(path: Path) -> list[PhotoLabels]:
    """Read SCRFD's `labelv2.txt`, the only one of the family that has the sizes of the pictures.

    Raises:
        LabelError: a line is malformed; names file and line.
    """
    return _read(path, _sized_header, _row_v2)


def has_sizes(header: str) -> bool:
    """Whether a `#` line is of `labelv2.txt`: it ends with two whole numbers."""
    return _SIZED_HEADER.fullmatch(header) is not None


def _read(
    path: Path,
    read_header: Callable[[str, str], tuple[str, tuple[int, int] | None]],
    read_row: Callable[[str, str], LabelRow],
) -> list[PhotoLabels]:
    headers: list[tuple[str, str, tuple[int, int] | None]] = []
    rows: list[list[LabelRow]] = []
    for place, text in text_lines(path):
        if text.startswith("#"):
            name, size = read_header(text, place)
            headers.append((name, place, size))
            rows.append([])
        elif headers:
            rows[-1].append(read_row(text, place))
        else:
            raise LabelError(f"{place}: a face before the first picture; a line `# event/name.jpg` is due")
    return [PhotoLabels(name, place, tuple(own), size) for (name, place, size), own in zip(headers, rows, strict=True)]


def _row(text: str, place: str) -> LabelRow:
    x, y, width, height, *rest = numbers(text, place, (4, 20), "x y w h, five times x y flag, blur; or x y w h")
    box = x, y, x + width, y + height
    return LabelRow(place, box, marked_points(rest[:15]), attributes=tuple(rest[15:])) if rest else LabelRow(place, box)


def _sized_header(text: str, place: str) -> tuple[str, tuple[int, int]]:
    match = _SIZED_HEADER.fullmatch(text)
    size = (int(match["height"]), int(match["width"])) if match else (0, 0)
    if match is None or min(size) < 1:
        raise LabelError(f"{place}: a line `# event/name.jpg width height` is due, with a size above 0")
    return match["name"], size


def _row_v2(text: str, place: str) -> LabelRow:
    meaning = "x1 y1 x2 y2, five times x y flag; or x1 y1 x2 y2 ignore; or x1 y1 x2 y2"
    x1, y1, x2, y2, *rest = numbers(text, place, (4, 5, 19), meaning)
    points = marked_points(rest) if len(rest) == 15 else None
    return LabelRow(place, (x1, y1, x2, y2), points, doubtful=rest == [1.0])
