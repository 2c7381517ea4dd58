"""What a person reads of estimated anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retinafocus.anchors import AnchorConfig
from retinafocus.models.presets import LEVEL_STRIDES
from retinafocus.training.anchor_coverage import BUCKETS
from retinafocus.training.anchor_estimation import AnchorFit, anchor_fits
from retinafocus.training.targets import MATCH_PRESETS
from tune.anchor_sets import AnchorSet

POSITIVE = MATCH_PRESETS["retinafocus"].positive
"""IoU from which on an anchor is positive."""

FORM_NAMES = {"shape": "centred", "mean": "mean place", "worst": "worst place"}


def table_text(seen: Sequence[str], sets: Sequence[AnchorSet]) -> str:
    """`anchors.md`: all faces, faces by size, and the anchors on their levels."""
    parts = [
        "# Anchors",
        "\n".join(seen),
        "## All faces",
        _overall_table(sets),
        f"## Share of faces with an IoU above {POSITIVE:g}, by size, mean over places",
        _by_size_table(sets),
        f"## The {sets[-1].name} anchors on their levels",
        _fits_table(anchor_fits(sets[-1].anchors)),
    ]
    return "\n\n".join(parts) + "\n"


def _overall_table(sets: Sequence[AnchorSet]) -> str:
    """A row for each set: what it costs, and mean best IoU and two shares for each form."""
    forms = [f"{name}: mean IoU | > 0.35 | > 0.5" for name in FORM_NAMES.values()]
    lines = [
        f"| set | strides | sizes | h/w | anchors / Mpx | {' | '.join(forms)} |",
        "|---|---|---|---:|---:|" + "---:|" * 9,
    ]
    for each in sets:
        cells = [each.name, " ".join(f"{stride}" for stride in each.anchors.strides), _sizes(each)]
        cells += [f"{each.anchors.ratio:g}", f"{each.per_mpx:,.0f}"]
        for row in (each.all_sizes("shape"), each.all_sizes("mean"), each.all_sizes("worst")):
            cells += [f"{row.mean_overlap:.3f}", _percent(row.over_035), _percent(row.over_050)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _brief_table(sets: Sequence[AnchorSet]) -> str:
    """What fits a terminal: sizes, and shares of faces with an IoU that makes an anchor positive."""
    lines = [
        f"| set | sizes | h/w | per Mpx | mean IoU | > {POSITIVE:g} | centred > {POSITIVE:g} | worst > {POSITIVE:g} |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in sets:
        mean = each.all_sizes("mean")
        shares = [mean.over_035, each.all_sizes("shape").over_035, each.all_sizes("worst").over_035]
        cells = [each.name, _sizes(each), f"{each.anchors.ratio:g}", f"{each.per_mpx:,.0f}"]
        cells += [f"{mean.mean_overlap:.3f}", *map(_percent, shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_size_table(sets: Sequence[AnchorSet]) -> str:
    names = [f"{low:g}-{high:g}" if math.isfinite(high) else f"{low:g}+" for low, high in BUCKETS]
    lines = [f"| set | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for each in sets:
        rows = {(row.low, row.high): row for row in each.rows if row.form == "mean"}
        lines.append(f"| {each.name} | {' | '.join(_percent(rows[bucket].over_035) for bucket in BUCKETS)} |")
    counts = {(row.low, row.high): row.faces for row in sets[0].rows}
    return "\n".join([*lines, f"| faces | {' | '.join(f'{counts[bucket]:,}' for bucket in BUCKETS)} |"])


def _fits_table(fits: Sequence[AnchorFit]) -> str:
    lines = ["| size | stride | size / stride | IoU half a stride off |", "|---:|---:|---:|---:|"]
    lines += [
        f"| {fit.size:g} | {fit.stride} | {fit.size / fit.stride:.2f} | {fit.worst_overlap:.2f} |" for fit in fits
    ]
    return "\n".join(lines)


def describe_anchors(sets: Sequence[AnchorSet]) -> list[str]:
    """The estimated anchors, which of them cannot be sure of their faces, and all sets side by side."""
    anchors = sets[-1].anchors
    levels = "; ".join(
        f"stride {stride}: {', '.join(f'{size:g}' for size in sizes)}"
        for stride, sizes in zip(anchors.strides, anchors.sizes, strict=True)
    )
    lines = [f"anchors  {levels} px; height / width {anchors.ratio:g}"]
    if poor := [fit for fit in anchor_fits(anchors) if fit.worst_overlap < POSITIVE]:
        told = ", ".join(f"{fit.size:g} px on stride {fit.stride} ({fit.worst_overlap:.2f})" for fit in poor)
        lines.append(
            f"note     half a stride off, an IoU below {POSITIVE:g} even with faces of their own size: {told}; such "
            "faces rest on forced matches, a finer stride or an enlarged photo"
        )
    lines += ["", _brief_table(sets), ""]
    if anchors.strides == LEVEL_STRIDES:
        sizes = ", ".join(f"[{', '.join(f'{size:g}' for size in level)}]" for level in anchors.sizes)
        lines += ["[model.anchors]", f"sizes = [{sizes}]", f"ratio = {anchors.ratio:g}", ""]
    else:
        lines.append(
            f"note     the network has the strides {LEVEL_STRIDES}: these anchors are for comparison, no anchors.toml"
        )
    return lines


def _sizes(each: AnchorSet, most: int = 9) -> str:
    """As short as they can be told: all of a few, else the first and the last."""
    sizes = [size for level in each.anchors.sizes for size in level]
    if len(sizes) <= most:
        return " ".join(f"{size:.4g}" for size in sizes)
    return f"{sizes[0]:.3g} ... {sizes[-1]:.3g} ({len(sizes)})"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def front_text(sets: Sequence[AnchorSet]) -> str:
    """Every set with what a search looks for: means over octaves of sizes, then all faces."""
    lines = [
        f"| set | sizes | h/w | per Mpx | octaves > {POSITIVE:g} | octaves mean IoU | all > {POSITIVE:g} |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for each in sets:
        cells = [each.name, _sizes(each, 12), f"{each.anchors.ratio:g}", f"{each.per_mpx:,.0f}"]
        cells += [_percent(each.balanced("over_035")), f"{each.balanced('mean_overlap'):.3f}"]
        lines.append(f"| {' | '.join([*cells, _percent(each.all_sizes('mean').over_035)])} |")
    return "\n".join(lines)


def training_space(sets: Sequence[AnchorSet], face_range: tuple[float, float], *, init: bool) -> str:
    """A search space of whole sets of anchors for `retinafocus tune training`.

    Args:
        sets: the choices.
        face_range: see `AnchorSettings`. One for all: else each would have the photos that judge it enlarged by another
            factor, at another cost.
        init: whether the trainings go on from weights, whose heads are of no use to other anchors.
    """
    lines = [
        "# Sets of anchors beside the preset's, for `retinafocus tune training --space`, which compares them by short",
        "# trainings. A line is a choice; sizes are for the strides 8, 16 and 32.",
        "",
        '"model.anchors" = [',
        *(f"  {{ {_as_toml(each.anchors, face_range)} }},  # {_told(each)}" for each in sets),
        "]",
    ]
    if init:
        lines += ["# For all of them, so that the anchors of the weights have no start on the others."]
        lines += ['"model.heads" = "new"']
    return "\n".join(lines) + "\n"


def _told(each: AnchorSet) -> str:
    return f"{each.name}: {_percent(each.balanced('over_035'))} of octaves, {each.per_mpx:,.0f} anchors on 1 Mpx"


def _as_toml(anchors: AnchorConfig, face_range: tuple[float, float]) -> str:
    sizes = ", ".join(f"[{', '.join(f'{float(size)}' for size in level)}]" for level in anchors.sizes)
    low, high = map(float, face_range)
    return f"sizes = [{sizes}], ratio = {float(anchors.ratio)}, face_range = [{low}, {high}]"
