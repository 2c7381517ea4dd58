"""Each loss against numbers worked out by hand. ln 2 = 0.6931 is softplus(0)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from retinafocus.errors import SettingsError
from retinafocus.models import Outputs
from retinafocus.training.losses import LossConfig, Losses, detection_losses, focus_loss, mined_class_loss
from retinafocus.training.samples import Batch


def logits_of(differences: list[list[float]]) -> Tensor:
    """(B, A, 2) logits whose face entry is this much above the other."""
    face = torch.tensor(differences)
    return torch.stack([torch.full_like(face, 0.5), face + 0.5], dim=2)


def int8(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int8)


@pytest.mark.parametrize(
    ("labels", "config", "expected"),
    [
        pytest.param([1, 0, 0, 0, -1], {"negative_ratio": 2}, [0.1269, 3.0486, 0, 2.1269, 0], id="two hardest for one"),
        pytest.param([1, 1, 0, 0, -1], {"negative_ratio": 0.5}, [0.1269, 0.0486, 0, 2.1269, 0], id="half a negative"),
        pytest.param(
            [1, 0, 0, 0, 0], {"negative_ratio": 9}, [0.1269, 3.0486, 1.3133, 2.1269, 5.0067], id="all there are"
        ),
        pytest.param([0, 0, 0, 0, 0], {"least_negatives": 1}, [0, 0, 0, 0, 5.0067], id="no face, hardest one"),
        pytest.param([0, 0, 0, 0, 0], {"least_negatives": 0}, [0, 0, 0, 0, 0], id="no face, none wanted"),
        pytest.param([-1, -1, -1, -1, -1], {"least_negatives": 3}, [0, 0, 0, 0, 0], id="all ignored"),
    ],
)
def test_hard_negatives(labels: list[int], config: dict[str, float], expected: list[float]) -> None:
    settings = replace(LossConfig(least_negatives=0), **config)  # type: ignore[arg-type]
    losses = mined_class_loss(logits_of([[2.0, 3.0, 1.0, 2.0, 5.0]]), int8([labels]), settings)
    assert losses[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_crops_are_mined_apart() -> None:
    logits = logits_of([[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 1.0, 2.0]])
    losses = mined_class_loss(
        logits, int8([[0, 0, 0, 0], [1, 0, 0, 0]]), LossConfig(negative_ratio=1, least_negatives=1)
    )
    assert (losses[0] > 0).sum() == 1
    assert losses[1].tolist() == pytest.approx([math.log(2), 0, 0, 2.1269], abs=1e-4)


def test_class_loss_is_cross_entropy() -> None:
    logits = torch.randn((1, 50, 2), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(50) % 3 == 0).to(torch.int8)[None]
    losses = mined_class_loss(logits, labels, LossConfig(negative_ratio=100))
    expected = torch.nn.functional.cross_entropy(logits[0], labels[0].long(), reduction="none")
    assert torch.allclose(losses[0], expected, atol=1e-6)


def test_focal_loss_of_the_focus_map() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0]]])
    # One positive: 0.25 * 0.5^2 * ln 2; two negatives: 2 * 0.75 * 0.5^2 * ln 2; over one positive cell.
    loss = focus_loss(logits, int8([[1, 0, 0, -1]])[None], LossConfig())
    assert float(loss) == pytest.approx((0.0625 + 0.375) * math.log(2))
    # A sure and right answer (probability 0.9) counts (0.1 / 0.5)^2 as much, times its smaller cross-entropy.
    sure = focus_loss(torch.full((1, 1, 1), math.log(9)), int8([[1]])[None], LossConfig())
    assert float(sure) == pytest.approx(0.25 * 0.01 * -math.log(0.9), rel=1e-4)
    plain = focus_loss(logits, int8([[0, 0, -1, -1]])[None], LossConfig(focal_gamma=0, focal_alpha=0))
    assert float(plain) == pytest.approx(2 * math.log(2)), "without positives the sum is divided by 1"
    assert float(focus_loss(logits, int8([[-1] * 4])[None], LossConfig())) == 0


@pytest.fixture
def outputs() -> Outputs:
    """Two crops of three anchors and a focus map of one cell; every loss of it is simple."""
    boxes, landmarks = torch.zeros((2, 3, 4)), torch.zeros((2, 3, 10))
    boxes[1, 0] = torch.tensor([0.5, 2.0, 0.0, 0.0])
    landmarks[1, 0] = 2.0
    tensors = (torch.zeros((2, 3, 2)), boxes, landmarks, torch.zeros((2, 1, 1, 1)))
    return Outputs(*(tensor.requires_grad_() for tensor in tensors))


@pytest.fixture
def batch() -> Batch:
    mask = torch.zeros((2, 10), dtype=torch.bool)
    mask[0, :4] = True
    return Batch(
        pixels=torch.zeros((2, 3, 8, 8), dtype=torch.uint8),
        labels=int8([[0, 0, -1], [1, 1, 0]]),
        positives=torch.tensor([3, 4]),
        box_deltas=torch.zeros((2, 4)),
        landmark_deltas=torch.zeros((2, 10)),
        landmark_mask=mask,
        focus=int8([[0], [1]])[..., None],
    )


def test_terms_are_normalised_and_weighted(outputs: Outputs, batch: Batch) -> None:
    config = LossConfig(negative_ratio=0, least_negatives=1, landmark_weight=3, focus_weight=10)
    losses = Losses(*(value.detach() for value in detection_losses(outputs, batch, config)))
    assert float(losses.classes) == pytest.approx(4 * math.log(2) / 2), "2 positives, 1 negative of each crop"
    assert float(losses.boxes) == pytest.approx((0.125 + 1.5) / 2), "0.5 is below beta, 2 above"
    assert float(losses.landmarks) == pytest.approx(4 * 1.5), "only one of the two has landmarks"
    assert float(losses.focus) == pytest.approx((0.0625 + 0.1875) * math.log(2))
    expected = losses.classes + 2 * losses.boxes + 3 * losses.landmarks + 10 * losses.focus
    assert float(losses.total) == pytest.approx(float(expected))


def test_nothing_to_learn_from_gives_zero_gradients(outputs: Outputs, batch: Batch) -> None:
    empty = batch._replace(
        labels=torch.full_like(batch.labels, -1),
        positives=batch.positives[:0],
        box_deltas=batch.box_deltas[:0],
        landmark_deltas=batch.landmark_deltas[:0],
        landmark_mask=batch.landmark_mask[:0],
        focus=torch.full_like(batch.focus, -1) if batch.focus is not None else None,
    )
    losses = detection_losses(outputs, empty, LossConfig())
    assert [float(value.detach()) for value in losses] == [0, 0, 0, 0, 0]
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert all(tensor is not None and tensor.grad is not None and not tensor.grad.any() for tensor in outputs)


def test_without_focus_branch_there_is_no_focus_loss(outputs: Outputs, batch: Batch) -> None:
    losses = detection_losses(outputs._replace(focus_logits=None), batch._replace(focus=None), LossConfig())
    assert float(losses.focus) == 0
    assert float(losses.total.detach()) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"box_weight": -1.0}, r"loss\.box_weight is -1\.0", id="weight"),
        pytest.param({"least_negatives": -1}, r"loss\.least_negatives is -1", id="least"),
        pytest.param({"smooth_beta": 0.0}, "smooth_beta must be more than 0", id="beta"),
        pytest.param({"focal_alpha": 1.5}, r"focal_alpha in 0\.\.1", id="alpha"),
    ],
)
def test_settings_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        LossConfig(**change)  # type: ignore[arg-type]
