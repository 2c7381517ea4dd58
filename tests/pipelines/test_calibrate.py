"""`retinafocus weights calibrate`, and runs in 8-bit integers that hold to their ranges."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import calibrate as job
from pipelines.cli import main
from retinafocus import DetectorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import Run
from retinafocus.weights import add_ranges, read_info

pytest.importorskip("retinafocus.engines.openvino_engine")

INTEGERS = DetectorConfig(device="cpu", engine="openvino", precision="int8")


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def calibrated(archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "ranged.safetensors"
    assert job.calibrate(str(tiny_weights), [str(archive)], str(output)).looked_at == 24
    return output


def test_same_photographs_give_the_same_file_with_the_same_hash(
    archive: Path, tiny_weights: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.safetensors"
    assert main(["weights", "calibrate", str(tiny_weights), str(archive), "-o", str(again)]) == 0
    assert again.read_bytes() == calibrated.read_bytes()
    assert read_info(again).sha256 == read_info(tiny_weights).sha256
    words = capsys.readouterr().out
    assert "after 24 photographs" in words
    assert f"int8     ranges {read_info(again).ranges_sha256 or ''}"[:28] in words


def test_another_photograph_is_taken_for_one_that_cannot_be_read(
    archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, photo in enumerate(sorted((archive / "day2").glob("*.jpg"))[:3]):
        shutil.copy(photo, tmp_path / f"{number}.jpg")
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8 no more")
    monkeypatch.setattr(job, "PHOTOS", 2)
    done = job.calibrate(str(tiny_weights), [str(tmp_path)], str(tmp_path / "out.safetensors"))
    assert (done.looked_at, done.passed_over) == (2, 1)
    for photo in tmp_path.glob("*.jpg"):
        photo.write_bytes(b"nothing")
    with pytest.raises(SettingsError, match=r"none of the 3 photographs can be looked at \(.*0.jpg: "):
        job.calibrate(str(tiny_weights), [str(tmp_path)], str(tmp_path / "out.safetensors"))


def test_run_in_integers_is_continued_with_the_same_ranges_only(
    run_job: Callable[..., Run], archive: Path, calibrated: Path, tmp_path: Path
) -> None:
    weights, out = tmp_path / "weights.safetensors", tmp_path / "run"
    shutil.copy(calibrated, weights)
    try:
        run = run_job(archive, out, weights, detector=INTEGERS, limit=3)
    except SettingsError as error:
        pytest.skip(str(error))  # the processor cannot
    assert run.complete
    assert run.info["settings"]["detector"]["precision"] == "int8"
    assert run.info["settings"]["ranges_sha256"] == read_info(weights).ranges_sha256
    add_ranges(weights, dict.fromkeys(read_info(weights).ranges or {}, (-9.0, 9.0)), weights)
    with pytest.raises(RunError, match="ranges_sha256 was"):
        run_job(archive, out, weights, detector=INTEGERS, limit=3)


def test_run_in_integers_without_ranges_ends_before_it_begins(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="retinafocus weights calibrate WEIGHTS PHOTOS -o OUT"):
        run_job(archive, tmp_path / "run", tiny_weights, detector=INTEGERS)
    assert not (tmp_path / "run").exists()


def test_photographs_in_an_object_store_give_the_same_file(
    archive: Path, tiny_weights: Path, tmp_path: Path, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = sorted(archive.glob("*/*.jpg"))[:2]
    for photo in photos:
        s3_server.client.put_object(Bucket=s3_server.bucket, Key=f"in/{photo.name}", Body=photo.read_bytes())
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    output, local = tmp_path / "s3.safetensors", tmp_path / "local.safetensors"
    command = ["weights", "calibrate", str(tiny_weights), f"{s3_server.location}/in", "-o", str(output)]
    assert main([*command, "--endpoint", s3_server.endpoint]) == 0
    job.calibrate(str(tiny_weights), [str(photo) for photo in photos], str(local))
    assert output.read_bytes() == local.read_bytes()
