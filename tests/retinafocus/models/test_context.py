"""The context module: what each of its three branches sees."""

from __future__ import annotations

import torch

from retinafocus.models.context import ContextModule


def test_branches_see_3x3_5x5_and_7x7_windows() -> None:
    module = ContextModule(8, slope=0.0).eval()
    for parameter in module.parameters():
        parameter.data.fill_(1.0)
    for name, buffer in module.named_buffers():
        buffer.fill_(0.0 if name.endswith("running_mean") else 1.0)
    base, spot = torch.zeros(1, 8, 11, 11), torch.zeros(1, 8, 11, 11)
    spot[0, 0, 5, 5] = 1.0
    with torch.inference_mode():
        changed = (module(spot) - module(base)).abs() > 0
    widths = [int(channel.any(dim=0).sum()) for channel in changed[0]]
    # Half of the channels from the 3x3 branch, a quarter each from the others.
    assert widths == [3, 3, 3, 3, 5, 5, 7, 7]


def test_the_output_is_not_negative_and_has_the_shape_of_the_input() -> None:
    module = ContextModule(64, slope=0.1).eval()
    with torch.inference_mode():
        output = module(torch.randn(2, 64, 1, 3, generator=torch.Generator().manual_seed(0)))
    assert output.shape == (2, 64, 1, 3)
    assert float(output.min()) == 0.0
