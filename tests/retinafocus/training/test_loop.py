"""Schedule, averaging, steps and checkpoints of the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models import Preset, RetinaFocus
from retinafocus.training.loop import AveragedModel, LoopConfig, Training, build_optimizer, fit, learning_rate_at
from retinafocus.training.losses import LossConfig
from retinafocus.training.samples import Batch

MakeBatches = Callable[[int, int], list[Batch]]

COSINE = LoopConfig(steps=110, warmup_steps=10, learning_rate=1.0)
STEPS = LoopConfig(steps=100, warmup_steps=0, learning_rate=1.0, schedule="steps", milestones=(0.5, 0.9))


@pytest.mark.parametrize(
    ("config", "step", "expected"),
    [
        pytest.param(COSINE, 0, 0.01, id="warm-up starts at a hundredth"),
        pytest.param(COSINE, 5, 0.505, id="half of the warm-up"),
        pytest.param(COSINE, 10, 1.0, id="top"),
        pytest.param(COSINE, 60, 0.5, id="half of the cosine"),
        pytest.param(COSINE, 110, 0.0, id="end"),
        pytest.param(STEPS, 0, 1.0, id="steps: start"),
        pytest.param(STEPS, 49, 1.0, id="steps: before the first"),
        pytest.param(STEPS, 50, 0.1, id="steps: first"),
        pytest.param(STEPS, 99, 0.01, id="steps: second"),
    ],
)
def test_learning_rate(config: LoopConfig, step: int, expected: float) -> None:
    assert learning_rate_at(step, config) == pytest.approx(expected)


def test_batch_norm_and_biases_do_not_decay_and_the_backbone_has_its_factor(model: RetinaFocus) -> None:
    optimizer = build_optimizer(model, LoopConfig(backbone_factor=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            assert (group["weight_decay"] > 0) == (parameter.ndim == 4), name
            assert group["factor"] == (0.1 if name.startswith("backbone.") else 1.0), name
    assert not names


def test_average_of_weights_by_hand(model: RetinaFocus) -> None:
    bias = model.class_heads[0].get_parameter("bias")
    with torch.no_grad():
        bias.fill_(0.0)
        averaged = AveragedModel(model, decay=0.3)
        bias.fill_(1.0)
        averaged.update(model, 0)  # keeps min(0.3, 1 / 10) of itself
        assert averaged.model.class_heads[0].get_parameter("bias")[0] == pytest.approx(0.9)
        bias.fill_(2.0)
        averaged.update(model, 90)  # keeps 0.3
        assert averaged.model.class_heads[0].get_parameter("bias")[0] == pytest.approx(0.3 * 0.9 + 0.7 * 2)
    assert not averaged.model.training
    assert averaged.model.backbone.state_dict()["stage1.0.1.num_batches_tracked"] == 0


def test_the_loss_falls_and_is_reported(model: RetinaFocus, make_batches: MakeBatches) -> None:
    config = LoopConfig(steps=9, warmup_steps=1, learning_rate=0.02, largest_gradient=1000)
    training = Training(model, config, LossConfig())
    reports: list[tuple[int, dict[str, float]]] = []
    fit(training, make_batches(0, 1) * 9, report=lambda *said: reports.append(said), report_every=4)
    assert [done for done, _ in reports] == [4, 8, 9]
    assert set(reports[0][1]) == {"total", "classes", "boxes", "landmarks", "focus", "gradient", "learning_rate"}
    assert reports[2][1]["total"] < 0.8 * reports[0][1]["total"]


def test_a_resumed_run_ends_with_the_same_bits(preset: Preset, make_batches: MakeBatches, tmp_path: Path) -> None:
    config = LoopConfig(steps=3, warmup_steps=1)

    def start(seed: int) -> Training:
        torch.manual_seed(seed)
        return Training(RetinaFocus(preset).to(memory_format=torch.channels_last), config, LossConfig())

    def run(training: Training, last: int) -> None:
        fit(
            training,
            make_batches(training.steps_done, last),
            report=lambda *_: None,
            checkpoint=tmp_path / "checkpoint.pt",
            checkpoint_every=1,
        )

    whole = start(0)
    run(whole, 3)
    run(start(0), 2)
    resumed = start(1)
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.steps_done == 2
    run(resumed, 3)
    for one, other in ((whole.model, resumed.model), (whole.averaged.model, resumed.averaged.model)):
        others = other.state_dict()
        assert all(torch.equal(tensor, others[name]) for name, tensor in one.state_dict().items())
    assert not list(tmp_path.glob("*.part"))


def test_fit_stops_at_the_configured_step(model: RetinaFocus, make_batches: MakeBatches) -> None:
    training = Training(model, LoopConfig(steps=1, warmup_steps=0), LossConfig())
    fit(training, make_batches(0, 2), report=lambda *_: None)
    assert training.steps_done == 1


def test_a_gradient_that_is_not_finite_changes_no_weight(model: RetinaFocus, make_batches: MakeBatches) -> None:
    training = Training(model, LoopConfig(steps=2, warmup_steps=0), LossConfig())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    (batch,) = make_batches(0, 1)
    for broken in ("inf", "nan"):
        result = training.step(batch._replace(box_deltas=batch.box_deltas * float(broken)))
        assert not torch.isfinite(result["total"])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_foreign_checkpoints_are_refused(model: RetinaFocus, preset: Preset, tmp_path: Path) -> None:
    training = Training(model, LoopConfig(), LossConfig())
    other = Training(RetinaFocus(replace(preset, channels=8)), LoopConfig(), LossConfig())
    other.save(tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt: no checkpoint of this training \(Error"):
        training.load(tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"broken\.pt: no checkpoint"):
        training.load(tmp_path / "broken.pt")
    torch.save({"model": {}}, tmp_path / "partial.pt")
    with pytest.raises(WeightsError, match=r"partial\.pt: no checkpoint"):
        training.load(tmp_path / "partial.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"steps": 0}, r"loop\.steps is 0", id="steps"),
        pytest.param({"steps": 5, "warmup_steps": 6}, r"loop\.warmup_steps 6", id="warm-up"),
        pytest.param({"learning_rate": 0.0}, r"loop\.learning_rate", id="rate"),
        pytest.param({"average_decay": 1.0}, r"loop\.average_decay is 1\.0", id="decay"),
    ],
)
def test_settings_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LoopConfig(**change)  # type: ignore[arg-type]
