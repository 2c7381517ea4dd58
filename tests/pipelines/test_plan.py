"""`retinafocus plan`: levels, pixels, time, memory and cores, from headers and a few photos."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.forecast import HEADER_BYTES, WARM_UP, Calibration, calibrate, read_headers
from pipelines.inventory import list_photos, manifest_table
from pipelines.plan_report import PlanJob, Price, plan_report, price
from pipelines.worker_memory import FIRST_USE, worker_bytes
from retinafocus import Detector, DetectorConfig
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.footprint import decoded_bytes, streamed_bytes
from retinafocus.levels import plan_levels


@pytest.fixture
def mixed(archive: Path, tmp_path: Path) -> Path:
    """Three photos, one of them progressive, and two files that are none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(2):
        shutil.copy(archive / ("day one" if number else "day2") / f"photo-{number:02d}.jpg", folder)
    file = io.BytesIO()
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(file, "jpeg", progressive=True)
    (folder / "progressive.jpg").write_bytes(file.getvalue())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no photo")
    return folder


def test_sizes_stand_side_by_side_and_unreadable_photos_are_counted(
    mixed: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", str(tiny_weights), "--device", "cpu", "--engine", "torch", "--gpu-seconds", "0.001"]
    assert cli.main(["plan", "--min-face", "10", "20", str(mixed), *options]) == 0
    words = capsys.readouterr().out
    rows = {line[:29].strip(): line[29:].split("  ") for line in words.splitlines()}
    assert "headers  all; 2 could not be read (1 truncated, 1 unsupported_format)" in words
    assert "0.0 Mpx on average, 161 x 120 px at most; 2 jpeg, 1 progressive jpeg" in words
    assert [cell.strip() for cell in rows["smallest face"] if cell.strip()] == ["10 px", "20 px"]
    # The commonest size is 160 x 120: at 10 px enlarged twice, with a level of a quarter of that below it.
    assert "1/2 80x60 0.00 whole" in words
    assert "2 320x240 0.08 whole" in words
    assert "1 160x120 0.02 whole" in words
    assert "missed   faces under 10 px (min_face) are not looked for" in words
    assert "about 0 s" in words
    assert "cores to feed one GPU" in rows
    assert "not known" not in words


def test_nothing_readable_says_so(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert cli.main(["plan", str(tmp_path), "--weights", str(tiny_weights), "--engine", "torch"]) == 0
    assert "no header could be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "there is no INPUT", id="no input"),
        pytest.param(["ARCHIVE", "--min-face", "x"], "min-face is 'x'", id="size"),
        pytest.param(["ARCHIVE", "--min-face", "0"], "min_face is 0.0", id="zero"),
        pytest.param(["ARCHIVE", "--gpu-seconds", "1", "2"], "2 values for 1 smallest faces", id="count"),
        pytest.param(["ARCHIVE", "--gpu-seconds", "0"], "above 0", id="seconds"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(
    archive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    words = [str(archive) if word == "ARCHIVE" else word for word in arguments]
    assert cli.main(["plan", *words, "--weights", str(tiny_weights)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_decoding_grows_with_the_photo_and_the_network_with_its_levels() -> None:
    # Two photos of 1000 px together, 500 of 2000 level pixels shown.
    calibration = Calibration(
        looked_at=2, photo_pixels=1000, planned_pixels=2000, shown_pixels=500,
        seconds={"decode": 0.1, "network": 4.0, "other": 0.4},
    )  # fmt: skip
    assert calibration.expected_pixels(800) == 200
    assert calibration.expected_seconds(3000, 1000) == pytest.approx({"decode": 0.3, "network": 2.0, "other": 0.2})
    assert sum(Calibration().expected_seconds(3000, 1000).values()) == Calibration().expected_pixels(800) == 0


@pytest.mark.parametrize(("gpu_seconds", "cores"), [(0.01, 4), (0.02, 2), (1.0, 1), (None, None)])
def test_cores_decode_as_fast_as_the_gpu_looks(gpu_seconds: float | None, cores: int | None) -> None:
    plan = plan_levels((120, 160), min_face=20, face_range=(20, 160))
    made = Price(
        min_face=20, plan=plan, planned_pixels=1, decoding=Counter(), memory_bytes=None, gpu_seconds=gpu_seconds,
        calibration=Calibration(looked_at=1), seconds={"decode": 0.035, "network": 1, "other": 1},
    )  # fmt: skip
    assert made.cores == cores


def test_price_of_one_4k_photo(tiny_weights: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((2160, 3840, 3), 90, np.uint8)).save(tmp_path / "4k.jpg", quality=50)
    sample = read_headers(manifest_table(list_photos([str(tmp_path)])), 10)
    detector = Detector.from_pretrained(
        tiny_weights, DetectorConfig(min_face=160, device="cpu", engine="torch", threads=1)
    )
    made = price(sample, detector, None)
    # The 160 px face needs 1/8: 480 x 270 px; a face of 2160 px needs 1/32: 120 x 68.
    assert [level.size for level in made.plan.levels] == [(68, 120), (270, 480)]
    assert made.planned_pixels == 68 * 120 + 270 * 480
    assert made.calibration.expected_pixels(made.planned_pixels) == made.planned_pixels  # no focus branch: every level
    assert made.decoding == {"1/8 at once": 1}
    # Two at 1/8 with the levels below (4/3), a third and its picture, the network on that, three files.
    pixels = 270 * 480
    files = 3 * (tmp_path / "4k.jpg").stat().st_size
    assert made.memory_bytes == FIRST_USE + files + 2 * 4 * pixels + 4 * pixels + 3 * pixels + 63 * pixels
    assert made.gpu_seconds is None


# A worker as `stages` runs it: two photos read ahead on threads, a third looked at.
WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import psutil
from pipelines.forecast import read_headers
from pipelines.inventory import list_photos, manifest_table
from pipelines.worker_memory import worker_bytes
from retinafocus import Detector, DetectorConfig
from retinafocus.cascade import CascadeConfig
folder, weights = sys.argv[1:]
config = DetectorConfig(device="cpu", engine="torch", threads=1, cascade=CascadeConfig(mode="exhaustive"))
detector = Detector.from_pretrained(weights, config)
program = psutil.Process().memory_info().rss
sample = read_headers(manifest_table(list_photos([folder])), 10)
plans = [(photo, config.cascade.plan(photo.size, 20, detector.preset)) for photo in sample.photos.values()]
with ThreadPoolExecutor(2) as pool:
    prepared = [pool.submit(detector.prepare, Path(uri).read_bytes()) for uri in sample.photos]
    detector.look(prepared.pop(0).result())
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"taken": peak - program, "predicted": worker_bytes(plans, detector)}))
"""


def test_predicted_memory_of_a_worker_is_above_its_peak_and_below_twice_that(
    tiny_weights: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1440, 2560, 3), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg", quality=80)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path), str(tiny_weights)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["taken"] <= found["predicted"] <= 2 * found["taken"], found


def test_photo_that_its_header_refuses_takes_its_file_alone(tiny_weights: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "jpeg", progressive=True)
    data = bytearray(file.getvalue())
    # The frame says 32,000 x 32,000 px, whose coefficients take 3 GB.
    struct.pack_into(">HH", data, data.find(b"\xff\xc2") + 5, 32000, 32000)
    (tmp_path / "large.jpg").write_bytes(data)
    detector = Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine="torch", threads=1))
    with pytest.raises(PhotoError, match=r"more than the limit of 2\.0 GiB"):
        detector.prepare(bytes(data))
    (photo,) = read_headers(manifest_table(list_photos([str(tmp_path)])), 1).photos.values()
    plan = detector.config.cascade.plan(photo.size, 20, detector.preset)
    assert worker_bytes([(photo, plan)], detector) == FIRST_USE + 3 * len(data)


def test_networks_that_openvino_comes_to_keep_count(tiny_weights: Path, archive: Path) -> None:
    pytest.importorskip("openvino")
    (photo,) = read_headers(manifest_table(list_photos([str(archive)])), 1).photos.values()
    expected = {}
    for engine in ("torch", "openvino"):
        detector = Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine=engine, threads=1))
        plan = detector.config.cascade.plan(photo.size, 20, detector.preset)
        expected[engine] = worker_bytes([(photo, plan)], detector)
    assert expected["openvino"] == expected["torch"] + 2**27 + (61 - 63) * plan.finest.pixels


def test_only_the_beginning_of_a_file_is_read_but_its_size_counts(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 401, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=100)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        sample = read_headers(manifest_table(list_photos([str(path)])), 1)
        (photo,) = sample.photos.values()
        assert len(data) > HEADER_BYTES
        assert photo.file_bytes == len(data)
        assert photo.decoded_bytes[1] == decoded_bytes(photo.header, data)
        assert photo.streamed_bytes == streamed_bytes(photo.header, data)


def test_network_whose_memory_was_not_measured_is_not_guessed(tiny_weights: Path, archive: Path) -> None:
    detector = Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine="torch", threads=1))
    detector.preset = replace(detector.preset, backbone="resnet50")
    sample = read_headers(manifest_table(list_photos([str(archive)])), 1)
    photos = [
        (photo, detector.config.cascade.plan(photo.size, 20, detector.preset)) for photo in sample.photos.values()
    ]
    assert worker_bytes(photos, detector) is None


def test_first_photo_is_looked_at_once(archive: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine="torch", threads=1))
    sizes: list[tuple[int, int]] = []
    look = detector.look
    monkeypatch.setattr(detector, "look", lambda photo: (sizes.append(photo.plan.photo_size), look(photo))[1])
    calibrate(detector, [str(archive / "day2" / "photo-00.jpg")])
    assert sizes == [WARM_UP[:2], (120, 160)]
    sizes.clear()
    calibrate(detector, [])
    assert not sizes


def test_folder_named_like_a_number_is_not_taken_for_a_size_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2024").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--min-face", "20", "2024"]) == 2
    assert "there is no INPUT: 2024 was read as a number; if it is the folder, write ./2024" in capsys.readouterr().err
    assert cli.main(["plan", "--min-face", "20", "./2024"]) == 2  # empty, but taken
    assert "no INPUT" not in capsys.readouterr().err


def test_headers_are_spread_over_the_archive(archive: Path) -> None:
    manifest = manifest_table(list_photos([str(archive)]))
    uris = manifest.column("uri").to_pylist()
    assert list(read_headers(manifest, 3).photos) == [uris[0], uris[11], uris[23]]


def test_photo_that_cannot_be_looked_at_is_replaced_by_another(
    archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    good = archive / "day2" / "photo-00.jpg"
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(good.read_bytes()[:-200])
    detector = Detector.from_pretrained(tiny_weights, DetectorConfig(device="cpu", engine="torch", threads=1))
    calibration = calibrate(detector, [str(cut), *[str(good)] * 2, str(cut)])
    assert calibration.looked_at == 2
    assert calibration.photo_pixels == 2 * 160 * 120
    assert min(calibration.seconds.values()) > 0


def test_job_without_a_given_gpu_says_that_the_cores_are_not_known(archive: Path, tiny_weights: Path) -> None:
    job = PlanJob(
        inputs=[str(archive)], detectors=[DetectorConfig(device="cpu", engine="torch")], weights=str(tiny_weights)
    )
    words = plan_report(job)
    assert "no GPU here: for the cores that feed one, give --gpu-seconds" in words


def test_more_gpu_times_than_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match="3 values for 2"):
        PlanJob(inputs=["x"], detectors=[DetectorConfig(), DetectorConfig()], gpu_seconds=[1, 2, 3])
