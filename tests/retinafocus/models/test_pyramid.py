"""The pyramid: enlarging to the exact size, and the order of its additions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retinafocus.models.pyramid import Pyramid, PyramidStep, add_coarser


@pytest.mark.parametrize(
    ("coarse", "width", "enlarged"),
    [
        pytest.param([1, 2], 4, [1, 1, 2, 2], id="double"),
        pytest.param([1, 2], 3, [1, 1, 2], id="odd side"),
        pytest.param([1, 2, 3], 5, [1, 1, 2, 2, 3], id="longer odd side"),
        pytest.param([7], 1, [7], id="one cell"),
    ],
)
def test_the_coarser_map_is_repeated_to_the_exact_size(coarse: list[float], width: int, enlarged: list[float]) -> None:
    row = torch.tensor(coarse, dtype=torch.float32).reshape(1, 1, 1, -1)
    assert add_coarser(torch.zeros(1, 1, 1, width), row).flatten().tolist() == enlarged


def plain(pyramid: nn.Module, factor: float) -> nn.Module:
    """The module with every unit replaced by a multiplication, so that sums can be done by hand."""

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * factor

    for name, child in list(pyramid.named_children()):
        if isinstance(child, nn.ModuleList):
            pyramid.add_module(name, nn.ModuleList(Scale() for _ in child))
        else:
            pyramid.add_module(name, Scale())
    return pyramid


def test_levels_are_merged_from_the_top_down() -> None:
    c3, c4, c5 = (torch.full((1, 1, side, side), value) for side, value in ((4, 1.0), (2, 10.0), (1, 100.0)))
    p3, p4, p5 = plain(Pyramid((1, 1, 1), 4, 0.0), 2.0)(c3, c4, c5)
    # P5 = 2 * 100 without a merge; P4 = 2 * (2 * 10 + 200); P3 = 2 * (2 * 1 + 440)
    assert p5.unique().tolist() == [200]
    assert p4.unique().tolist() == [440]
    assert p3.unique().tolist() == [884]
    assert p3.shape == c3.shape


def test_p2_is_one_more_step() -> None:
    c2, p3 = torch.full((1, 1, 7, 5), 1.0), torch.full((1, 1, 4, 3), 10.0)
    p2 = plain(PyramidStep(1, 4, 0.0), 2.0)(c2, p3)
    assert p2.shape == c2.shape
    assert p2.unique().tolist() == [24]
