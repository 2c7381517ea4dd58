"""What a person reads of a Focus Pixel study."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retinafocus.evaluation.focus_limits import Recommendation
from retinafocus.evaluation.focus_shares import FocusShares
from retinafocus.evaluation.focus_study import SCORES, SizeBin


def describe_bins(bins: Sequence[SizeBin]) -> str:
    """The bins as a Markdown table; a dash where there is nothing to say."""
    recalls = " | ".join(f"recall at {floor:g}" for floor in SCORES)
    lines = [
        f"| network px | faces | {recalls} | 95 % interval at 0.5 | mean score | mean IoU | pairs | gain by a zoom |",
        "|---|---:|" + "---:|" * (len(SCORES) + 5),
    ]
    for one in bins:
        size = f"{one.low:g} to {one.high:g}" if math.isfinite(one.high) else f"{one.low:g} and more"
        cells = [size, f"{one.faces:,}", *(_percent(recall) for recall in one.recalls)]
        cells += [f"{100 * one.recall_low:.1f} to {100 * one.recall_high:.1f} %" if one.faces else "-"]
        cells += ["-" if math.isnan(value) else f"{value:.2f}" for value in (one.mean_score, one.mean_iou)]
        cells += [f"{one.pairs:,}", "-" if math.isnan(one.gain) else f"{100 * one.gain:+.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe_answer(answer: Recommendation, halves: Sequence[Recommendation]) -> list[str]:
    """a, b, c with what they rest on, and what either half of the photos says."""
    lines = []
    for letter, name in (("a", "smallest"), ("b", "small"), ("c", "large")):
        limit = getattr(answer, name)
        others = " and ".join(_pixels(getattr(half, name).pixels) for half in halves)
        lines.append(f"{letter}        {_pixels(limit.pixels)}: {limit.reason}. Halves of the photos: {others}")
    return lines


def _pixels(value: float | None) -> str:
    return "no answer" if value is None else f"{value:g} px"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def describe_shares(shares: Sequence[tuple[tuple[float, float, float], Sequence[FocusShares]]]) -> str:
    """What each (a, b, c) asks of a perfect focus map, as a Markdown table."""
    lines = [
        "| a / b / c | scale | faces worth a look | too small | unsure | focus cells | ignored cells |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for abc, each in shares:
        for one in each:
            cells = [" / ".join(f"{size:g}" for size in abc), f"{one.scale:g}"]
            cells += [_percent(share) for share in (one.worth_a_look, one.too_small, one.unsure)]
            cells += [_percent(share) for share in (one.focus_cells, one.ignored_cells)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def describe_settings(answer: Recommendation, largest_face: float) -> list[str]:
    """The words to paste behind `retinafocus train --config FILE`, and what else to know before.

    Args:
        answer: of the rules.
        largest_face: the size up to which the cascade relies on these weights, network-input pixels.
    """
    if answer.labels is None:
        return ["settings none: a rule has no answer, or a is not below b; look at the plots"]
    a, b, c = answer.labels
    lines = [
        f"settings --set sample.focus.smallest={a:g} --set sample.focus.small={b:g} --set sample.focus.large={c:g}"
    ]
    if answer.large.pixels != c:
        lines.append(f"note     c is raised to b: its rule says {_pixels(answer.large.pixels)}")
    useful = largest_face / answer.zoom
    if b > useful:
        lines.append(
            f"note     b above {useful:g} px buys nothing in a cascade: {answer.zoom:g} times larger, such a face is "
            f"over the {largest_face:g} px up to which these weights are relied on, and only the coarser level keeps it"
        )
    return lines
