"""The whole command with a fake peer: sets, answers that are kept, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.peers import catalogue
from benchmarks.peers.__main__ import main
from benchmarks.peers.catalogue import CHILDREN, OURS, Peer
from benchmarks.peers.sets import canvas_truth, read_set
from retinafocus.datasets.canvas_set import Tile
from retinafocus.datasets.labelled import LabelledPhoto
from retinafocus.datasets.parquet_writer import write_parquet_folder
from retinafocus.errors import SettingsError
from retinafocus.evaluation.wider_protocol import ProtocolPhoto

FAKE = f"""
import os, sys
sys.path.insert(0, {str(CHILDREN)!r})
from serve import serve

def load():
    def look(photo):
        with open(os.path.join(os.path.dirname(__file__), "asked"), "a") as file:
            print(os.path.basename(photo), *sys.argv[1:], file=file)
        return [[10, 10, 30, 30]], [0.75]
    return {{"name": "fake", "version": "1", "licence": "none", "weights_in_wheel": True}}, look

serve(load)
"""


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A photo with a face that somebody marked, one without faces, and one with a face that only a detector saw."""
    photos = {}
    for name, kinds in {"people/a.jpg": ("human",), "none/b.jpg": (), "machine/c.jpg": ("pseudo",)}.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(path)
        boxes = np.array([[10, 10, 30, 30]] * len(kinds), np.float32).reshape(-1, 4)
        photos[name] = LabelledPhoto(
            path=path,
            size=(48, 64),
            boxes=boxes,
            landmarks=np.full((len(kinds), 5, 2), np.nan, np.float32),
            ignore=np.zeros((0, 4), np.float32),
            source=name.split("/")[0],
            kinds=kinds,
        )
    write_parquet_folder(photos, tmp_path / "val", pictures="copy")
    return tmp_path / "val"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue is one fake peer, which writes into this file what it is asked."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    fake = Peer(name="fake", script=str(script), environment=OURS, default=("own",), low=("low",), told="as it is")
    broken = Peer(name="broken", script=str(tmp_path / "absent.py"), environment=OURS, told="")
    monkeypatch.setattr(catalogue, "PEERS", (fake, broken))
    (tmp_path / "absent.py").write_text("raise SystemExit('no wheel for this machine')")
    return tmp_path / "asked"


def test_command_writes_tables_and_says_who_does_not_work(
    faces: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(faces), "-o", str(tmp_path / "out")])
    rows = pq.read_table(tmp_path / "out" / "peers.parquet").to_pylist()
    assert [row["detector"] for row in rows] == ["fake"] * 5
    # One face, found, and a false box with the same score in the other photo.
    assert (rows[0]["num_photos"], rows[0]["num_faces"], rows[0]["ap50"]) == (2, 1, 0.5)
    assert rows[0]["false_per_photo"] == 0.5
    text = (tmp_path / "out" / "peers.md").read_text()
    assert "| broken (val) | the peer does not start: the peer's process ended with exit code 1: no wheel" in text
    assert text in capsys.readouterr().out
    # The first photo of each run is asked once more, so that getting ready is no photo's time.
    assert asked.read_text().splitlines() == [
        "a.jpg own", "a.jpg own", "b.jpg own", "a.jpg low", "a.jpg low", "b.jpg low",
    ]  # fmt: skip


def test_answers_that_are_there_are_not_asked_for_again(faces: Path, asked: Path, tmp_path: Path) -> None:
    arguments = [str(faces), "-o", str(tmp_path / "out"), "--peers", "fake"]
    main(arguments)
    first = (tmp_path / "out" / "peers.parquet").read_bytes()
    asked.unlink()
    main(arguments)
    assert not asked.exists()
    assert (tmp_path / "out" / "peers.parquet").read_bytes() == first
    store = tmp_path / "out" / "answers" / "val.fake.low.jsonl"
    store.write_bytes(store.read_bytes()[:-20])  # killed in the middle of the last line
    main(arguments)
    assert asked.read_text().splitlines() == ["a.jpg low", "b.jpg low"]
    Path(asked.parent / "fake.py").write_text(FAKE.replace("0.75", "0.5"))
    main(arguments)
    assert asked.read_text().count("\n") == 2 + 6


def test_tables_of_the_answers_that_are_there_ask_nobody(faces: Path, asked: Path, tmp_path: Path) -> None:
    arguments = [str(faces), "-o", str(tmp_path / "out"), "--tables-only"]
    main(arguments)
    assert pq.read_table(tmp_path / "out" / "peers.parquet").num_rows == 0
    assert not asked.exists()
    main([*arguments[:-1], "--peers", "fake"])
    before = asked.read_text()
    main(arguments)
    assert pq.read_table(tmp_path / "out" / "peers.parquet").num_rows == 5
    assert asked.read_text() == before


def test_sources_are_chosen(faces: Path, tmp_path: Path) -> None:
    assert [path.name for path in read_set(faces).paths] == ["a.jpg", "b.jpg"]
    assert [path.name for path in read_set(faces, ["machine"]).paths] == ["c.jpg"]
    assert [path.name for path in read_set(faces, limit=1).paths] == ["a.jpg"]
    with pytest.raises(SettingsError, match="there is no source x; there are machine, none, people"):
        read_set(faces, ["x"])
    with pytest.raises(SettingsError, match="no photos are left"):
        read_set(faces, limit=0)


def test_unknown_peer_is_an_error_of_the_command(faces: Path, asked: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(faces), "-o", str(tmp_path / "out"), "--peers", "nobody"])


def test_sets_of_one_name_are_refused_before_anybody_is_asked(
    faces: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(faces), str(faces), "-o", str(tmp_path / "out")])
    assert "two sets have the same name (val, val)" in capsys.readouterr().err
    assert not asked.exists()


def test_faces_of_a_canvas_lie_where_their_tile_does() -> None:
    boxes = np.array([[1, 2, 10, 20], [5, 5, 0, 9], [3, 3, 4, 4]], np.float64)
    none = np.zeros(3, np.bool_)
    photo = ProtocolPhoto("a", boxes, {"hard": none})
    tile = Tile("canvas", 0, photo, np.array([False, False, True]), (100, 200, 50, 50), "")
    truth = canvas_truth([tile])
    assert truth.boxes.tolist() == [[101, 202, 111, 222]]
    assert truth.ignore.tolist() == [[103, 203, 107, 207]]
    assert canvas_truth([]).boxes.shape == (0, 4)


def test_photo_of_another_source_is_a_region_of_the_canvas_that_does_not_count() -> None:
    photo = ProtocolPhoto("machine/a", np.array([[1, 2, 10, 20]], np.float64), {"hard": np.zeros(1, np.bool_)})
    tile = Tile("canvas", 0, photo, np.zeros(1, np.bool_), (100, 200, 50, 60), "")
    truth = canvas_truth([tile], ["people"])
    assert truth.boxes.shape == (0, 4)
    assert truth.ignore.tolist() == [[100, 200, 150, 260]]
    assert len(canvas_truth([tile], ["machine"]).boxes) == 1
