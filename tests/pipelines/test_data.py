"""`retinafocus data import` and `data check`: every photo and every row ends somewhere a person can see."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.data import ImportJob, import_labels
from pipelines.data_check import Report, check_folder
from pipelines.report import Progress
from retinafocus.datasets.checks import NOTES, PROBLEMS
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.errors import LabelError, SettingsError

WIDER = "a.jpg\n2\n10 20 30 40 0 0 0 0 0 0 \n50 10 20 20 0 0 0 1 0 0 \nevent/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
RETINAFACE = "# a.jpg\n10 20 30 40 " + "20 30 0 " * 5 + "0.5\n# event/b.jpg\n"
COCO = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 160, "height": 120},
        {"id": 2, "file_name": "event/b.jpg", "width": 160, "height": 120},
    ],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]}],
    "categories": [{"id": 1, "name": "face"}],
}
VOC = (
    "<annotation><filename>{name}.jpg</filename><object><name>face</name><bndbox><xmin>11</xmin><ymin>21</ymin>"
    "<xmax>40</xmax><ymax>60</ymax></bndbox></object></annotation>"
)


def quiet() -> Progress:
    return Progress(io.StringIO())


def draw(path: Path, seed: int = 0, width: int = 160, height: int = 120) -> Path:
    """A soft random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 160 x 120 px."""
    draw(tmp_path / "data" / "images" / "a.jpg", 1)
    draw(tmp_path / "data" / "images" / "event" / "b.jpg", 2)
    return tmp_path / "data" / "images"


def run(**settings: object) -> tuple[str, list[LabelledPhoto]]:
    job = ImportJob(**{"format": "widerface", **settings})  # type: ignore[arg-type]
    return import_labels(job, quiet()), read_parquet_folder(Path(job.output))


def write_widerface(folder: Path) -> Path:
    (folder / "wider_face_train_bbx_gt.txt").write_text(WIDER)
    return folder / "wider_face_train_bbx_gt.txt"


def write_retinaface(folder: Path) -> Path:
    (folder / "label.txt").write_text(RETINAFACE)
    return folder / "label.txt"


def write_labelv2(folder: Path) -> Path:
    (folder / "labelv2.txt").write_text("# a.jpg 160 120\n10 20 40 60\n# event/b.jpg 160 120\n")
    return folder / "labelv2.txt"


def write_coco(folder: Path) -> Path:
    (folder / "faces.json").write_text(json.dumps(COCO))
    return folder / "faces.json"


def write_yolo(folder: Path) -> Path:
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(f"0 {25 / 160} {40 / 120} {30 / 160} {40 / 120}\n")
    return folder / "images"


def write_voc(folder: Path) -> Path:
    (folder / "event").mkdir()
    (folder / "a.xml").write_text(VOC.format(name="a"))
    (folder / "event" / "b.xml").write_text("<annotation><filename>b.jpg</filename></annotation>")
    return folder


@pytest.mark.parametrize(
    ("form", "write"),
    [
        pytest.param("widerface", write_widerface, id="official text"),
        pytest.param("widerface", write_retinaface, id="RetinaFace"),
        pytest.param("widerface", write_labelv2, id="SCRFD"),
        pytest.param("coco", write_coco, id="COCO"),
        pytest.param("yolo", write_yolo, id="YOLO"),
        pytest.param("voc", write_voc, id="VOC"),
    ],
)
def test_the_same_face_comes_out_of_every_form(
    pictures: Path, tmp_path: Path, form: str, write: Callable[[Path], Path]
) -> None:
    labels = write(pictures.parent)
    text, (first, second) = run(format=form, labels=str(labels), output=str(tmp_path / "out"), source="holiday")
    assert first.path == tmp_path / "out" / "images" / "a.jpg"
    assert (first.size, first.source, first.kinds) == ((120, 160), "holiday", ("human",))
    np.testing.assert_allclose(first.boxes, [[10, 20, 40, 60]], atol=1e-4)
    assert (len(second.boxes), second.path.is_symlink()) == (0, True)
    assert "photos   2 written" in text
    assert "1 of them without a face" in text


def test_invalid_faces_become_ignore_regions_and_landmarks_stay(pictures: Path, tmp_path: Path) -> None:
    _, (photo, _) = run(labels=str(write_widerface(pictures.parent)), output=str(tmp_path / "one"))
    assert (photo.ignore.tolist(), photo.source) == ([[50, 10, 70, 30]], "widerface")
    text, (photo, _) = run(labels=str(write_retinaface(pictures.parent)), output=str(tmp_path / "two"))
    assert photo.landmarks.tolist() == [[[20, 30]] * 5]
    assert "1, 1 with landmarks; 0 ignore regions" in text


def test_photos_that_cannot_be_used_are_skipped_counted_and_listed(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "a.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "words.jpg").write_text("not a picture at all")
    names = ["a.jpg", "cut.jpg", "words.jpg", "lost.jpg", "event/b.jpg"]
    images = [{"id": number, "file_name": name, "width": 160, "height": 120} for number, name in enumerate(names)]
    images[4]["width"] = 161
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({**COCO, "images": images, "annotations": []}))
    text, photos = run(format="coco", labels=str(labels), output=str(tmp_path / "out"), images=str(pictures))
    assert [photo.path.name for photo in photos] == ["a.jpg"]
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [(photo["image"], photo["status"]) for photo in record["skipped"]] == [
        ("cut.jpg", "truncated"),
        ("words.jpg", "unsupported_format"),
        ("lost.jpg", "not_found"),
        ("event/b.jpg", "wrong_size"),
    ]
    assert record["skipped"][3]["reason"] == "the labels were made for 161 x 120 px, the upright photo has 160 x 120"
    assert "skipped  4 photos: 1 truncated, 1 unsupported_format, 1 not_found, 1 wrong_size; first cut.jpg: the" in text


def test_bad_boxes_are_dropped_counted_and_listed_with_their_line(pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "label.txt"
    labels.write_text("# a.jpg\n0 0 0 0\n150 100 50 50\n160 5 9 9\n5 5 -2 9\n")
    text, (photo,) = run(labels=str(labels), output=str(tmp_path / "out"), images=str(pictures))
    assert photo.boxes.tolist() == [[150, 100, 160, 120]]
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [row["place"].split(":")[-1] for row in record["dropped"]] == ["2", "4", "5"]
    assert "dropped  3 rows: 2 the box has no area, 1 the box lies outside the photo; first " in text
    assert f"{labels}:2" in text


def test_classes_are_chosen_by_the_user_and_the_others_counted(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.txt").write_text("0 .5 .5 .1 .1\n1 .5 .5 .2 .2\n1 .2 .2 .1 .1\n2 .5 .5 .1 .1\n")
    with pytest.raises(SettingsError, match=r"classes: .*1 \(2 boxes\), 0 \(1 boxes\), 2 \(1 boxes\); name those"):
        run(format="yolo", labels=str(pictures), output=str(tmp_path / "out"))
    text, photos = run(format="yolo", labels=str(pictures), output=str(tmp_path / "out"), classes=["0", "2"])
    assert [len(photo.boxes) for photo in photos] == [2, 0]
    assert "left out 2 rows of other classes: 2 1" in text


def test_a_photo_turned_by_its_exif_is_measured_upright(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 0.5\n")
    _, (photo,) = run(format="yolo", labels=str(tmp_path), output=str(tmp_path / "out"))
    assert (photo.size, photo.boxes.tolist()) == ((60, 40), [[0, 15, 40, 45]])


@pytest.mark.parametrize(
    ("labels", "pictures_at"),
    [
        pytest.param("wider_face_split/wider_face_val_bbx_gt.txt", "WIDER_val/images", id="WIDER FACE as it unpacks"),
        pytest.param("val/label.txt", "val/images", id="RetinaFace"),
        pytest.param("annotations/instances_val.json", "val", id="COCO"),
        pytest.param("valid/_annotations.coco.json", "valid", id="json beside the pictures"),
        pytest.param("ImageSets/Main/val.txt", "JPEGImages", id="VOC list"),
        pytest.param("Annotations", "JPEGImages", id="VOC folder"),
    ],
)
def test_pictures_are_found_in_the_usual_places(tmp_path: Path, labels: str, pictures_at: str) -> None:
    root = tmp_path / "data"
    path = root / labels
    draw(root / pictures_at / "a.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "coco" if path.suffix == ".json" else "voc" if pictures_at == "JPEGImages" else "widerface"
    if form == "voc":
        (root / "Annotations").mkdir()
        (root / "Annotations" / "a.xml").write_text(VOC.format(name="a"))
        if path.suffix:
            path.write_text("a\n")
    elif form == "coco":
        path.write_text(json.dumps({**COCO, "images": COCO["images"][:1]}))
    else:
        path.write_text("# a.jpg\n1 2 30 40\n" if path.stem == "label" else "a.jpg\n1\n1 2 30 40 0 0 0 0 0 0\n")
    _, photos = run(format=form, labels=str(path), output=str(tmp_path / "out"))
    assert [len(photo.boxes) for photo in photos] == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["no.txt", "--from", "coco"], 1, "LabelError: no.txt: there is no such file", id="no file"),
        pytest.param(["PICTURES", "--from", "coco"], 1, "this is a folder; name the file of labels in it", id="folder"),
        pytest.param(["BAD", "--from", "widerface"], 1, "label.txt:2: 3 values where 4 or 20 are needed", id="bad"),
        pytest.param(["NAMES", "--from", "widerface"], 1, "names without a single face, like the test", id="test"),
        pytest.param(["EMPTY", "--from", "widerface"], 1, "there is no photo in it", id="empty"),
        pytest.param(
            ["LABELS", "--from", "widerface"], 2, "lost.jpg is in none of", id="pictures elsewhere"
        ),
        pytest.param(
            ["LABELS", "--from", "widerface", "--images", "PICTURES"], 2,
            "none of the 1 pictures can be used; lost.jpg: there is no file of that name", id="wrong pictures",
        ),
    ],
)  # fmt: skip
def test_wrong_use_ends_with_its_code_and_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    texts = {"BAD": "# a.jpg\n1 2 3\n", "NAMES": "# a.jpg\n", "EMPTY": "", "LABELS": "# lost.jpg\n1 2 3 4\n"}
    places = {"PICTURES": str(pictures)}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "label.txt").write_text(text)
        places[name] = str(tmp_path / name / "label.txt")
    words = [places.get(word, word) for word in arguments]
    assert cli.main(["data", "import", *words, "-o", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="from: csv is not known; choose coco, yolo, voc, widerface"):
        ImportJob(format="csv", labels="a", output="b")
    with pytest.raises(SettingsError, match="first_pixel is 2"):
        ImportJob(format="voc", labels="a", output="b", first_pixel=2)


def check(folder: Path, **settings: str | None) -> Report:
    against, plots, table = (settings.get(name) for name in ("against", "plots", "table"))
    return check_folder(str(folder), against, plots, table, io.StringIO())


@pytest.fixture
def labelled(pictures: Path, tmp_path: Path) -> Path:
    run(labels=str(write_widerface(pictures.parent)), output=str(tmp_path / "out"), pictures="copy")
    return tmp_path / "out"


def test_a_clean_folder_has_no_problems_and_is_described(labelled: Path) -> None:
    report = check(labelled)
    assert (report.has_problems, report.findings) == (False, [])
    assert report.text.splitlines() == [
        "photos   2, 1 of them without a face",
        "faces    1, 0 with landmarks; 1 ignore regions",
        "sizes    0 to 16: 0.0 %, 16 to 32: 0.0 %, 32 to 96: 100.0 %, 96 and more: 0.0 % of the faces "
        "(sqrt(width * height), px); half below 34.6 px, nine tenths between 34.6 and 34.6 px",
        "ratios   height / width: half below 1.33, nine tenths between 1.33 and 1.33",
        "density  faces in a photo: half below 0.5, nine tenths between 0.05 and 0.95, at most 1 (a.jpg)",
        "problems: none",
        "notes: none",
    ]


def test_everything_wrong_is_found_at_once_and_listed_in_the_table(labelled: Path, tmp_path: Path) -> None:
    images, labels = (pq.read_table(labelled / f"{name}.parquet").to_pylist() for name in ("images", "labels"))
    for name, source in (("again.jpg", "a.jpg"), ("cut.jpg", "a.jpg"), ("b2.jpg", "event/b.jpg")):
        shutil.copy(labelled / "images" / source, labelled / "images" / name)
        images.append({**images[0], "image": name})
    data = (labelled / "images" / "cut.jpg").read_bytes()
    (labelled / "images" / "cut.jpg").write_bytes(data[: len(data) // 2])
    small = cv2.resize(cv2.imread(str(labelled / "images" / "b2.jpg")), (80, 60), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(labelled / "images" / "b2.jpg"), small)
    labels += [{**labels[0], "x2": labels[0]["x1"]}, labels[0], {**labels[0], "image": "nobody.jpg"}]
    for name, rows in (("images", images), ("labels", labels)):
        path = labelled / f"{name}.parquet"
        pq.write_table(pq.read_table(path).from_pylist(rows, schema=pq.read_schema(path)), path)
    report = check(labelled, table=str(tmp_path / "found.parquet"))
    assert report.has_problems
    assert sorted((finding.kind, finding.image) for finding in report.findings) == [
        ("alike", "b2.jpg"),
        ("bad row", "a.jpg"),
        ("bad row", "nobody.jpg"),
        ("box twice", "a.jpg"),
        ("same file", "again.jpg"),
        ("unreadable", "cut.jpg"),
        ("wrong size", "b2.jpg"),
    ]
    assert (
        "  1 unreadable: the picture cannot be decoded, or is not there\n      first cut.jpg: truncated: "
        in report.text
    )
    rows = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert rows == [{"kind": f.kind, "image": f.image, "detail": f.detail} for f in report.findings]


def test_a_photo_in_both_splits_is_a_leak_also_saved_again_or_mirrored(
    labelled: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    draw(other / "new.jpg", 9)
    shutil.copy(pictures / "a.jpg", other / "same.jpg")
    cv2.imwrite(str(other / "smaller.png"), cv2.resize(cv2.imread(str(pictures / "a.jpg")), (80, 60)))
    cv2.imwrite(str(other / "mirrored.jpg"), cv2.imread(str(pictures / "event" / "b.jpg"))[:, ::-1])
    run(format="yolo", labels=str(other), output=str(tmp_path / "val"))
    report = check(tmp_path / "val", against=str(labelled))
    assert [(finding.kind, finding.image, finding.detail) for finding in report.findings if "both" in finding.kind] == [
        ("alike in both", "mirrored.jpg", "event/b.jpg mirrored"),
        ("same file in both", "same.jpg", "a.jpg"),
        ("alike in both", "smaller.png", "a.jpg"),
    ]
    assert cli.main(["data", "check", str(tmp_path / "val"), "--against", str(labelled)]) == 1
    assert "2 alike in both: the other folder shows nearly the same" in capsys.readouterr().out
    assert cli.main(["data", "check", str(labelled)]) == 0


def test_an_empty_folder_is_checked_too(tmp_path: Path) -> None:
    from retinafocus.datasets.parquet_writer import write_parquet_folder

    write_parquet_folder({}, tmp_path / "out", pictures="link")
    pytest.importorskip("matplotlib")
    report = check(tmp_path / "out", plots=str(tmp_path / "plots"), against=str(tmp_path / "out"))
    assert report.text.startswith("photos   0, 0 of them without a face\nfaces    0,")
    assert len(list((tmp_path / "plots").iterdir())) == 3


def test_plots_are_pictures_with_something_in_them(labelled: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = check(labelled, plots=str(tmp_path / "plots"))
    for name in ("sizes", "ratios", "density"):
        path = tmp_path / "plots" / f"{name}.png"
        pixels = cv2.imread(str(path))
        assert pixels.shape == (450, 900, 3)
        assert (pixels == (165, 110, 59)).all(axis=2).any(), "bars, in BGR"
        assert f"plot     {path}" in report.text


def test_without_matplotlib_the_error_names_the_extra_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"plots: they need matplotlib: pip install 'retinafocus\[plots\]'"):
        check(tmp_path / "nowhere", plots=str(tmp_path / "plots"))


def test_every_finding_is_documented_as_the_code_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for kind, meaning in {**PROBLEMS, **NOTES}.items():
        assert f"| {kind} | {meaning} |" in text


def test_no_folder_of_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"images\.parquet: there is no such file"):
        check(tmp_path)
