"""The search over anchors, without Ray; the whole of it is in tests/pipelines/test_tune_anchor_search.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.settings import settings_of
from pipelines.train_config import NAMED, TrainConfig
from retinafocus.anchors import AnchorConfig
from retinafocus.errors import RunError, SettingsError
from retinafocus.models import get_preset
from retinafocus.training.anchor_coverage import Coverage
from retinafocus.training.anchor_estimation import Floats
from tune.anchor_search import AnchorSearchJob, _estimated, _front_table, choose
from tune.anchor_sets import balanced, measured_sets
from tune.anchor_trials import SPACE, AnchorTrials, anchors_of, check_space, faces_by_octave, starts_of
from tune.anchor_words import training_space
from tune.seen_faces import SeenFaces
from tune.space import parse_space
from tune.sweep import Trial, trials_table
from tune.training_trials import base_settings, config_of

SEEN = SeenFaces(folder="somewhere")


def squares(*sizes: float, each: int = 20) -> Floats:
    return np.repeat(np.array(sizes)[:, None], 2, axis=1).repeat(each, axis=0)


def test_octaves_count_alike_if_they_have_enough_faces() -> None:
    counts, shares = (1000, 20, 19, 0), (0.2, 0.6, 1.0, np.nan)
    rows = [Coverage("mean", 0.0, 1.0, *told, 0.0) for told in zip(counts, shares, shares, strict=True)]
    assert balanced(rows, "over_035") == pytest.approx(0.4)
    assert balanced(rows, "mean_overlap") == pytest.approx(0.4)


def test_results_of_a_trial_are_those_worked_out_by_hand() -> None:
    # 60 faces of 24 px lie wholly within the nearest anchor of 96 px, at most 4 px off: an IoU of 24^2 / 96^2.
    # 20 faces of 96 px are at most 4 px off in both axes: at the least (92/96)^2 / (2 - (92/96)^2).
    sample = faces_by_octave(np.concatenate([squares(24, each=60), squares(96)]))
    results = sample.results(AnchorConfig(sizes=((96.0,), (96.0,), (96.0,))))
    assert results["coverage"] == 0.5
    assert results["all_faces"] == 0.25
    assert results["anchors_per_mpx"] == pytest.approx(20507.8125)  # 1e6 * (1/64 + 1/256 + 1/1024)
    least = (92 / 96) ** 2
    assert 1 / 16 + least / (2 - least) < 2 * results["mean_overlap"] < 1 / 16 + 1


def test_faces_of_a_trial_are_spread_over_their_octave_whatever_their_order() -> None:
    faces = np.stack([np.linspace(16, 31.9, 100)] * 2, axis=1)
    sample = faces_by_octave(np.concatenate([faces, squares(64, each=3)]), each=10)
    assert sample.faces[:10].tolist() == faces[5::10].tolist()
    assert sample.counts == (0, 0, 100, 0, 3, 0, 0, 0)
    mixed = np.random.default_rng(1).permutation(faces)
    assert faces_by_octave(mixed, each=10).faces.tolist() == faces[5::10].tolist()
    assert AnchorTrials(mixed).digest() == AnchorTrials(faces).digest() != AnchorTrials(faces[1:]).digest()


def test_too_few_faces_are_said() -> None:
    with pytest.raises(SettingsError, match=r"no octave of sizes has 20 faces; give more photos or more crops"):
        faces_by_octave(squares(10, 20, 40, each=19))
    with pytest.raises(SettingsError, match=r"no octave of sizes has 20 faces"):
        faces_by_octave(np.zeros((0, 2)))


def test_settings_stand_for_anchors() -> None:
    faces = squares(10, 20, 40) * (1, 1.5)  # sqrt(1.5) times as large, half higher than wide
    estimated = anchors_of({"per_level": 1}, faces)  # three anchors for the six octaves up to 512: the first three
    assert estimated == AnchorConfig(sizes=((12.2,), (24.5,), (49.0,)), ratio=1.5)
    scaled = anchors_of({"per_level": 1, "ratio": 1.2, "scale.0": 1.0, "scale.1": 0.5, "scale.2": 2.0}, faces)
    assert scaled == AnchorConfig(sizes=((12.2,), (12.2,), (98.0,)), ratio=1.2)
    free = {"sizes.0.0": 8.04, "sizes.1.0": 30.0, "sizes.2.0": 99.0}
    assert anchors_of(free, faces) == AnchorConfig(sizes=((8.0,), (30.0,), (99.0,)), ratio=1.5)
    whole = {"sizes": [[8, 16], [32, 64], [128, 256]], "ratio": 1.25}
    assert anchors_of(whole, faces) == AnchorConfig(sizes=((8.0, 16.0), (32.0, 64.0), (128.0, 256.0)), ratio=1.25)


@pytest.mark.parametrize("smallest", [0.0, 4.0, 20.0])
@pytest.mark.parametrize("per_level", [1, 2, 4])
def test_octaves_never_ask_for_more_anchors_than_there_are(per_level: int, smallest: float) -> None:
    faces = np.exp(np.random.default_rng(2).uniform(np.log(5), np.log(300), (500, 1))).repeat(2, axis=1)
    settings = {"per_level": per_level, "smallest": smallest, "every_octave_to": 512.0}
    assert anchors_of(settings, faces).per_cell == per_level


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per_levels = [1, 2]", r"search space: per_levels: there is no such setting; did you mean per_level\?"),
        ('update = ["median", "mean"]', r"search space: update: .*mean"),
        ("per_level = { from = 0, to = 3 }", r"per_level is 0; choose at least 1"),
        ("octave_balance = { from = 0.5, to = 1.5 }", r"octave_balance is 1\.5; choose 0\.\.1"),
        ('"scale.0" = [0.9, 1.1]', r"scale is \(0\.9,\); give 3 numbers above 0, one for each level"),
        ("sizes = [[[8.0], [16.0]]]", r"anchors\.sizes has 2 levels"),
        ('"sizes.0.0" = { from = 4.0, to = 9.0 }\nsmallest = 8.0', "smallest would change nothing; give sizes or"),
    ],
    ids=["unknown", "choice", "count", "balance", "levels", "sizes", "both"],
)
def test_space_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_space(parse_space(text, "test"))


def test_search_begins_with_what_would_be_estimated() -> None:
    faces = squares(10, 20, 40) * (1, 1.25)
    space = parse_space(SPACE, "test")
    check_space(space)
    starts = starts_of(space, faces)
    assert [start["per_level"] for start in starts] == [1, 2, 3, 4]
    assert list(starts[0]) == list(space.searched)
    assert anchors_of(starts[0], faces) == anchors_of({"per_level": 1}, faces)
    fixed = parse_space("per_level = 1\nupdate = 'best'\nratio = [1.0, 1.3]", "test")
    assert starts_of(fixed, faces) == [{"per_level": 1, "update": "best", "ratio": 1.25}]
    choices = parse_space("per_level = [1, 3]", "test")
    assert starts_of(choices, faces) == [{"per_level": 1}, {"per_level": 3}]
    assert starts_of(parse_space('"sizes.0.0" = [8.0, 9.0]', "test"), faces) == []
    # As it is read back from a ledger: the settings of a search must not depend on that.
    whole = starts_of(parse_space("scale = [[1.0, 1.0, 1.0], [0.9, 1.0, 1.1]]\nper_level = 1", "test"), faces)
    assert whole == [{"per_level": 1, "scale": [1.0, 1.0, 1.0]}]
    assert anchors_of(whole[0], faces) == anchors_of({"per_level": 1}, faces)


def trial(number: int, coverage: float, anchors: float) -> Trial:
    return Trial(
        number=number, settings={}, results={"coverage": coverage, "anchors_per_mpx": anchors}, seconds=0.1
    )  # fmt: skip


def test_front_of_sizes_that_were_searched_as_a_whole_can_be_read(tmp_path: Path) -> None:
    asked = Trial(number=0, settings={"sizes": [[8.04], [16], [32]]}, results={"coverage": 0.5}, seconds=0.1)
    found = AnchorConfig(sizes=((8.0,), (16.0,), (32.0,)))
    pq.write_table(_front_table([asked], {0: found}, asked), tmp_path / "front.parquet")
    (row,) = pq.read_table(tmp_path / "front.parquet").to_pylist()
    assert (row["sizes"], row["h_over_w"], row["chosen"]) == ([[8.0], [16.0], [32.0]], 1.0, True)


def test_faces_too_small_for_the_usual_estimate_are_no_hindrance() -> None:
    assert _estimated(2, squares(4, 5, 6)) == {}
    assert list(_estimated(1, squares(10, 20, 40))) == ["estimated"]


def test_what_is_chosen_suits_what_was_asked_for() -> None:
    front = [trial(5, 0.9, 60_000), trial(3, 0.8, 40_000), trial(9, 0.6, 20_000)]
    anchors = {
        number: AnchorConfig(sizes=((8.0,) * count,) * 3) for number, count in {5: 3, 3: 2, 9: 1}.items()
    }  # fmt: skip

    def chosen(preset: int = 2, **asked: Any) -> int:
        return choose(
            front, anchors, AnchorSearchJob(seen=SEEN, output="out", measure="coverage", **asked), preset
        ).number

    assert (chosen(), chosen(preset=7), chosen(max_per_cell=1)) == (3, 5, 9)
    assert (chosen(min_measure=0.5), chosen(min_measure=0.8), chosen(min_measure=0.81)) == (9, 3, 5)
    with pytest.raises(RunError, match=r"no trial has a coverage of 0\.95 or more; the best has 0\.9000"):
        chosen(min_measure=0.95)
    del front[2]
    with pytest.raises(RunError, match=r"no trial has 1 anchors in a cell or fewer; the fewest are 2"):
        chosen(max_per_cell=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"measure": "iou"}, "measure is 'iou'; choose one of mean-overlap, coverage"),
        ({"max_per_cell": 2, "min_measure": 0.5}, "two ways to choose; give one of them"),
        ({"max_per_cell": 0}, "max-per-cell is 0; choose at least 1"),
        ({"min_measure": 1.5}, r"min-measure is 1\.5; choose a share 0\.\.1"),
    ],
    ids=["measure", "both", "count", "share"],
)
def test_what_cannot_be_chosen_is_said(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AnchorSearchJob(seen=SEEN, output="out", **asked)


def test_trainings_are_given_whole_sets_of_anchors(tmp_path: Path) -> None:
    preset = get_preset("mobile025")
    wide = AnchorConfig(sizes=((8.0, 10.5, 12.0), (16.0, 24.0, 32.0), (64.0, 128.0, 256.0)), ratio=1.25)
    sets = measured_sets(squares(10, 20, 40), {"mobile025": preset.anchors, "chosen": wide})
    space = parse_space(training_space(sets, preset.face_range, init=True), "test")
    assert space.fixed == {"model.heads": "new"}
    base = settings_of(TrainConfig, {"model": {"init": "mobile025"}}, "test", named=NAMED)
    made = [config_of(base, space.at([place])).model for place in (0.25, 0.75)]
    assert [model.heads for model in made] == ["new", "new"]
    assert [model.to_preset().anchors for model in made] == [preset.anchors, wide]
    assert [model.to_preset().face_range for model in made] == [preset.face_range] * 2
    # The first trial has the base settings, whose anchors have one more key; the table takes both.
    tried = [base_settings(base, space), space.at([0.75])]
    table = trials_table([Trial(number=n, settings=each, results={}, seconds=0.0) for n, each in enumerate(tried)])
    pq.write_table(table, tmp_path / "trials.parquet")
    kept = pq.read_table(tmp_path / "trials.parquet").column("model.anchors").to_pylist()
    assert kept[1]["sizes"] == [list(level) for level in wide.sizes]
    assert "heads" not in training_space(sets, preset.face_range, init=False)


def test_too_few_faces_stop_a_search_before_ray_starts(
    labels_alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    words = ["tune", "anchor-search", str(labels_alone), "-o", str(tmp_path / "out"), "--draws", "1"]
    assert cli.main(words) == 2
    assert "no octave of sizes has 20 faces" in capsys.readouterr().err
    (tmp_path / "space.toml").write_text("per_level = [0]\n")
    assert cli.main([*words, "--space", str(tmp_path / "space.toml")]) == 2
    assert "per_level is 0" in capsys.readouterr().err
