"""`retinafocus tune ACTION`; each action is a module."""

from __future__ import annotations

from pipelines.commands import (
    tune_anchor_search,
    tune_anchors,
    tune_focus,
    tune_focus_labels,
    tune_thresholds,
    tune_training,
)
from pipelines.commands.command import Verbs, add_verb


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "tune", "find better settings than the given ones for the photos at hand")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    tune_anchors.add(actions)
    tune_anchor_search.add(actions)
    tune_focus.add(actions)
    tune_focus_labels.add(actions)
    tune_thresholds.add(actions)
    tune_training.add(actions)
