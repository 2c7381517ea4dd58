"""GPU workers and CPU workers at one run, as it is planned: asked for, recorded, and both from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import planning
from pipelines.report import describe_plan
from pipelines.workers import Workers
from retinafocus import DetectorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import Run


def _mixed(archive: Path, output: Path, weights: Path, **settings: Any) -> planning.DetectJob:
    settings = {"workers": "gpu=2,cpu=6", "address": "head:6379", **settings}
    return planning.DetectJob(inputs=[str(archive)], output=str(output), weights=str(weights), **settings)


def test_plan_of_both_kinds_says_so(archive: Path, tiny_weights: Path, tmp_path: Path) -> None:
    job = _mixed(archive, tmp_path, tiny_weights, gpus_per_worker=0.5, detector=DetectorConfig(engine="torch"))
    planned = planning.plan(job, with_forecast=True)
    assert (planned.runner, planned.detector.device, planned.beside and planned.beside.device) == ("ray", "cuda", "cpu")
    assert planned.workers.beside == Workers(count=6, device="cpu", chosen=True)
    words = describe_plan(planned)
    assert "runs     ray, 2 cuda workers of 0.5 GPU each and 6 cpu workers, torch and torch, float32" in words
    assert "expected" not in words  # no GPU here to look with


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"runner": "local", "address": None, "workers": "1..2"},
            r"workers is 1\.\.2, runner is local; .* --runner ray",
        ),
        ({"detector": DetectorConfig(engine="onnx")}, "engine is 'onnx', which runs on CPUs, device is 'cuda'"),
        ({"detector": DetectorConfig(precision="float16")}, "precision is 'float16' on the CPU"),
    ],
    ids=["needs Ray", "engine of one kind", "precision of one kind"],
)
def test_what_both_kinds_cannot_do_is_refused(
    archive: Path, tiny_weights: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        planning.plan(_mixed(archive, tmp_path, tiny_weights, **settings))


def test_run_of_one_kind_goes_on_with_both_only_if_it_was_begun_so(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    detector = DetectorConfig(device="cpu", engine="torch")
    run = run_job(archive, tmp_path, tiny_weights, detector=detector, limit=4)
    assert run.info["totals"]["engines"] == {"torch on cpu, float32": 4}
    assert {(record["engine"], record["device"], record["precision"]) for record in run.records} == {
        ("torch", "cpu", "float32")
    }
    both = _mixed(archive, tmp_path, tiny_weights, detector=DetectorConfig(engine="torch"), limit=4)
    with pytest.raises(RunError, match=r"beside\.device was None, is cpu; .*detector\.device was cpu, is cuda"):
        planning.plan(both)
