"""Heads: the order of the outputs and where the focus branch starts from."""

from __future__ import annotations

import math

import pytest
import torch

from retinafocus.models.heads import FocusBranch, per_anchor
from retinafocus.models.presets import FocusConfig


def test_outputs_are_ordered_by_row_column_anchor_value() -> None:
    # Channel a * 2 + v at (row, column) holds the digits row, column, a, v.
    output = torch.zeros(1, 4, 2, 3)
    for row in range(2):
        for column in range(3):
            for channel in range(4):
                output[0, channel, row, column] = 1000 * row + 100 * column + 10 * (channel // 2) + channel % 2
    expected = [
        [1000 * row + 100 * column + 10 * a + v for v in (0, 1)]
        for row in (0, 1)
        for column in (0, 1, 2)
        for a in (0, 1)
    ]
    assert per_anchor(output, 2).tolist() == [expected]
    in_rows_of_channels = output.to(memory_format=torch.channels_last)
    assert per_anchor(in_rows_of_channels, 2).tolist() == [expected]


def test_the_focus_branch_starts_as_autofocus_does_but_for_its_prior() -> None:
    torch.manual_seed(0)
    branch = FocusBranch(FocusConfig(channels=256, prior=0.02), (32, 64, 128, 256), 64, slope=0.0)
    for layer in (branch.conv3x3, branch.conv1x1):
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert not layer.get_parameter("bias").any()
    assert branch.logit.weight.shape == (1, 256, 1, 1)
    assert branch.logit.get_parameter("bias").tolist() == pytest.approx([math.log(0.02 / 0.98)])


def test_a_prior_of_one_half_is_the_zero_bias_of_the_paper() -> None:
    branch = FocusBranch(FocusConfig(prior=0.5), (32, 64, 128, 256), 64, slope=0.0)
    assert branch.logit.get_parameter("bias").tolist() == [0.0]
