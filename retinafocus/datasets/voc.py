"""Pascal VOC: one XML file for each picture.

Pixels are counted from 1 and the last one belongs to the box, so the box of a whole picture is 1, 1, width, height.
Several tools write the same elements counted from 0 with the last pixel outside; the user says so with `first_pixel`,
and a 0 where 1 is the smallest is refused: a shift by one pixel spoils the box of a small face. `difficult` objects
become ignore regions, as in the VOC evaluation. Landmarks are not part of the format.

Source: VOC2012 development kit, section 6 (annotation) and VOCevaldet.m (difficult).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from retinafocus.datasets.photo_labels import LabelRow, PhotoLabels, finite, text_lines
from retinafocus.errors import LabelError


def read_voc(path: Path, *, first_pixel: int = 1) -> list[PhotoLabels]:
    """Read a folder of XML files, to any depth, or those that a list of `ImageSets/Main` names.

    Args:
        path: the data set's root, its folder `Annotations`, or `ImageSets/Main/train.txt`.
        first_pixel: 1 as the format has it, with the last pixel inside the box; 0 with the last pixel outside.

    Returns:
        The photos in the order of the files; names are relative to the folder of pictures.

    Raises:
        LabelError: a file is malformed; names file and line.
    """
    if path.is_file():
        root = path.absolute().parents[2] / "Annotations" if len(path.absolute().parents) > 2 else path.parent
        files = [root / f"{text.split()[0]}.xml" for _, text in text_lines(path)]
    else:
        root = path / "Annotations" if (path / "Annotations").is_dir() else path
        files = sorted(root.rglob("*.xml"))
    if not files:
        raise LabelError(
            f"{path}: there is no XML file; give the data set's root, Annotations, or ImageSets/Main/*.txt"
        )
    return [_photo(file, file.relative_to(root).parent, first_pixel) for file in files]


@dataclass(slots=True)
class _Element:
    """An XML element with the line it begins on, which the standard library's tree forgets."""

    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def child(self, tag: str) -> _Element | None:
        return next((child for child in self.children if child.tag == tag), None)


def _parse(path: Path) -> _Element:
    root = _Element("", 0)
    open_elements = [root]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def text(data: str) -> None:
        open_elements[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise LabelError(f"{path}:{error.lineno}: this is no XML ({expat.ErrorString(error.code)})") from None
    except OSError as error:
        raise LabelError(f"{path}: the labels cannot be read ({error.strerror})") from None
    return root.children[0]


def _photo(path: Path, subfolder: Path, first_pixel: int) -> PhotoLabels:
    root = _parse(path)
    name = _text(root, "filename", path)
    rows = [_row(element, path, first_pixel) for element in root.children if element.tag == "object"]
    return PhotoLabels((subfolder / name).as_posix(), str(path), tuple(rows), _size(root, path))


def _text(parent: _Element, tag: str, path: Path) -> str:
    element = parent.child(tag)
    if element is None or not element.text.strip():
        raise LabelError(f"{path}:{parent.line}: <{parent.tag}> has no <{tag}>")
    return element.text.strip()


def _number(parent: _Element, tag: str, path: Path) -> float:
    element = parent.child(tag)
    line = parent.line if element is None else element.line
    return finite(_text(parent, tag, path), f"{path}:{line}", f"<{tag}> of <{parent.tag}>")


def _size(root: _Element, path: Path) -> tuple[int, int] | None:
    element = root.child("size")
    if element is None:
        return None
    height, width = int(_number(element, "height", path)), int(_number(element, "width", path))
    return (height, width) if height > 0 and width > 0 else None  # some tools leave 0


def _row(element: _Element, path: Path, first_pixel: int) -> LabelRow:
    place = f"{path}:{element.line}"
    box = element.child("bndbox")
    if box is None:
        raise LabelError(f"{place}: <object> has no <bndbox>")
    x1, y1, x2, y2 = (_number(box, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if min(x1, y1) < first_pixel and first_pixel == 1:
        raise LabelError(
            f"{path}:{box.line}: xmin {x1:g}, ymin {y1:g}, but Pascal VOC counts pixels from 1; if this file counts "
            "from 0, import it with --first-pixel 0"
        )
    difficult = element.child("difficult")
    doubtful = difficult is not None and difficult.text.strip() == "1"
    return LabelRow(
        place, (x1 - first_pixel, y1 - first_pixel, x2, y2), doubtful=doubtful, kind=_text(element, "name", path)
    )
