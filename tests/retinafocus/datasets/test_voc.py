"""Pascal VOC: pixels counted from one, difficult objects, split lists, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinafocus.datasets.voc import read_voc
from retinafocus.errors import LabelError

FACE = """
  <object>
    <name>face</name>{difficult}
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>"""
SIZE = "<size><width>640</width><height>480</height><depth>3</depth></size>"


def face(*corners: float, difficult: str = "") -> str:
    return FACE.format(*corners, difficult=difficult)


def put(folder: Path, name: str = "a", objects: str = "", size: str = SIZE) -> Path:
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = Path(name).name
    path.write_text(f"<annotation>\n  <filename>{stem}.jpg</filename>\n  {size}{objects}\n</annotation>\n")
    return path


def test_the_first_pixel_is_one_and_the_last_is_inside(tmp_path: Path) -> None:
    path = put(tmp_path, objects=face(1, 1, 640, 480) + face(11, 21, 11, 21))
    (photo,) = read_voc(tmp_path)
    assert (photo.name, photo.size, photo.place) == ("a.jpg", (480, 640), str(path))
    assert [row.box for row in photo.rows] == [(0, 0, 640, 480), (10, 20, 11, 21)]
    assert [(row.kind, row.place) for row in photo.rows] == [("face", f"{path}:4"), ("face", f"{path}:8")]


def test_files_that_count_from_zero_are_read_as_the_user_says(tmp_path: Path) -> None:
    put(tmp_path, objects=face(0, 0, 640, 480) + face(10.5, 20, 11, 21))
    (photo,) = read_voc(tmp_path, first_pixel=0)
    assert [row.box for row in photo.rows] == [(0, 0, 640, 480), (10.5, 20, 11, 21)]


def test_difficult_objects_are_doubtful(tmp_path: Path) -> None:
    objects = [face(1, 1, 9, 9, difficult=f"<difficult>{flag}</difficult>") for flag in (0, 1)]
    put(tmp_path, objects="".join(objects))
    (photo,) = read_voc(tmp_path)
    assert [row.doubtful for row in photo.rows] == [False, True]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_an_absent_size_is_unknown_and_a_photo_may_have_no_faces(tmp_path: Path, size: str) -> None:
    put(tmp_path, size=size)
    (photo,) = read_voc(tmp_path)
    assert (photo.size, photo.rows) == (None, ())


def test_root_annotations_and_split_list_are_all_taken(tmp_path: Path) -> None:
    for name in ("a", "b", "deep/c"):
        put(tmp_path, name)
    split = tmp_path / "ImageSets" / "Main" / "val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("b\ndeep/c  1\n")
    everything = ["a.jpg", "b.jpg", "deep/c.jpg"]
    assert [photo.name for photo in read_voc(tmp_path)] == everything
    assert [photo.name for photo in read_voc(tmp_path / "Annotations")] == everything
    assert [photo.name for photo in read_voc(split)] == everything[1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("<annotation>\n<a></b>", r"a\.xml:2: this is no XML \(mismatched tag\)", id="tags"),
        pytest.param("", r"a\.xml:1: this is no XML \(no element found\)", id="empty"),
        pytest.param("<annotation></annotation>", r"a\.xml:1: <annotation> has no <filename>", id="no name"),
        pytest.param(
            "<annotation><filename>a.jpg</filename>\n<object><name>face</name></object></annotation>",
            r"a\.xml:2: <object> has no <bndbox>",
            id="no box",
        ),
        pytest.param(
            "<annotation><filename>a.jpg</filename>\n<object>\n<name>face</name>\n<bndbox><xmin>1</xmin></bndbox>"
            "</object></annotation>",
            r"a\.xml:4: <bndbox> has no <ymin>",
            id="no corner",
        ),
        pytest.param(
            "<annotation><filename>a.jpg</filename>\n<object><bndbox>\n<xmin>left</xmin></bndbox></object></annotation>",
            r"a\.xml:3: 'left' is no finite number: <xmin> of <bndbox>",
            id="word",
        ),
        pytest.param(
            f"<annotation><filename>a.jpg</filename>{face(0, 5, 9, 9)}</annotation>",
            r"a\.xml:4: xmin 0, ymin 5, but Pascal VOC counts pixels from 1; .* --first-pixel 0",
            id="counts from zero",
        ),
        pytest.param(
            f"<annotation><filename>a.jpg</filename>{face(1, 5, 9, 9).replace('face', ' ')}</annotation>",
            r"a\.xml:2: <object> has no <name>",
            id="no class",
        ),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_voc(tmp_path)


def test_folders_without_xml_and_lists_of_missing_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="there is no XML file"):
        read_voc(tmp_path)
    split = tmp_path / "ImageSets" / "Main" / "val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("b\n")
    with pytest.raises(LabelError, match=r"Annotations/b\.xml: the labels cannot be read \(No such file"):
        read_voc(split)
