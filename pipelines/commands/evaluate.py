"""`retinafocus eval`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipelines.commands.command import (
    EXIT_OK,
    Verbs,
    add_detector_options,
    add_storage_options,
    add_verb,
    storage_config,
)
from pipelines.commands.detect import add_job_options, add_limit_options, carry_out

if TYPE_CHECKING:
    from pipelines.planning import Plan
    from retinafocus.detector import DetectorConfig

EPILOG = """\
examples:
  retinafocus eval out --labels LABELLED                    a run of `detect --score-threshold 0.02` that is there
  retinafocus eval WIDER --dataset widerface -o out         look at WIDER/WIDER_val/images, then score
  retinafocus eval WIDER --dataset widerface -o test --split test      the files to send in for the test photos
  retinafocus eval LABELLED --dataset labelled -o single --mode single
  retinafocus eval CANVASES --dataset 4k -o 4k              a folder of `retinafocus make-4k`

modes of --dataset, one folder OUT for each:
  cascade     what `detect` does: coarsely whole, then closer where the focus map points; faces from --min-face
  exhaustive  every level of it whole
  original    the photo at its own size
  single      shorter side 1600 px, longer side at most 2150
  flip        the photo and its mirror image at its own size
  multiscale  shorter sides 500, 800, 1100, 1400 and 1700 px, each also mirrored; boxes voted. Some 20 million
              pixels through the network for each photo, however small

With --dataset photos are looked at as by `detect -o OUT`, from score 0.02 on: stopped or killed, the same command goes
on; done, it only scores again. OUT then also holds evaluation/ (report.md, Parquet tables, curves) and predictions/
(EVENT/NAME.txt, as WIDER FACE reads them).

exit codes: as those of `detect`.
"""

MODES = ("cascade", "exhaustive", "original", "single", "flip", "multiscale")


class _Dataset(argparse.Action):
    """Looking at photos, which may kill the process, wants a supervisor; scoring a run does not."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.dataset, namespace.supervised = values, True


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "eval", "score a run, or a detector on a whole data set, against labelled boxes", EPILOG)
    parser.add_argument(
        "path", metavar="PATH", help="a run (the -o folder of `detect`) with --labels, a data set with --dataset"
    )
    parser.add_argument(
        "--labels", metavar="DIR", help="score the run PATH: labelled photos, images.parquet, labels.parquet, images/"
    )
    parser.add_argument(
        "--sources", nargs="+", metavar="NAME", help="score only labelled photos of these sources (default: all)"
    )
    parser.add_argument("--table", metavar="FILE", help="with --labels: also write the scores as Parquet")
    _add_set_options(parser.add_argument_group("looking at a data set"))
    add_detector_options(parser, mode=False)
    add_job_options(parser)
    add_limit_options(parser)
    add_storage_options(parser)
    parser.set_defaults(verb=_eval)


def _add_set_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset", choices=("widerface", "labelled", "4k"), action=_Dataset,
        help="look at the photos in PATH, then score: WIDER FACE as it is unpacked, labelled photos (images.parquet, "
        "labels.parquet, images/), or canvases of `make-4k`",
    )  # fmt: skip
    group.add_argument("-o", "--output", metavar="OUT", help="folder of the run and its results, on this machine")
    group.add_argument("--mode", choices=MODES, help="how photos are looked at (default: cascade)")
    group.add_argument(
        "--split", choices=("val", "test"), default="val",
        help="of WIDER FACE; test has no ground truth, so only prediction files are written (default: val)",
    )  # fmt: skip
    group.add_argument(
        "--ground-truth", metavar="DIR",
        help="folder of wider_face_val.mat and the easy, medium and hard lists (default: where they lie below PATH)",
    )  # fmt: skip


def _eval(options: argparse.Namespace) -> int:
    from retinafocus.errors import SettingsError

    if options.dataset is None:
        return _score_run(options)
    if options.labels is not None or options.table is not None:
        raise SettingsError("--labels and --table score a run that is there; leave them out, or leave --dataset out")
    if options.output is None:
        raise SettingsError("--dataset looks at photos; name the folder of the run with -o OUT")
    return _score_set(options)


def _score_run(options: argparse.Namespace) -> int:
    from pipelines.evaluate import evaluate_run
    from retinafocus.errors import SettingsError

    if options.labels is None:
        raise SettingsError("name what PATH is held against: --labels DIR for a run, --dataset NAME for photos")
    looking = _looking_options(options)
    if looking:
        raise SettingsError(f"--{looking[0].replace('_', '-')} is for --dataset: a run that is there is only scored")
    print(evaluate_run(options.path, options.labels, options.sources, options.table, storage_config(options)))
    return EXIT_OK


def _looking_options(options: argparse.Namespace) -> list[str]:
    """Names of the options given that only looking at photos heeds."""
    bare = argparse.ArgumentParser()
    _add_set_options(bare.add_argument_group())
    add_detector_options(bare, mode=False)
    add_job_options(bare)
    add_limit_options(bare)
    return [name for name, default in vars(bare.parse_args([])).items() if getattr(options, name) != default]


def _score_set(options: argparse.Namespace) -> int:
    from pipelines.evaluate_set import check_listed, check_output, clear_results, evaluate_set
    from pipelines.evaluation_sets import SetOptions, open_set

    asked = SetOptions(
        dataset=options.dataset,
        path=options.path,
        split=options.split,
        ground_truth=options.ground_truth,
        sources=tuple(options.sources or ()),
    )
    mode = options.mode or "cascade"
    detector = _detector(options, mode)
    check_output(options.output)
    chosen = open_set(asked)
    folder = str(chosen.folder)
    looking = argparse.Namespace(
        **{**vars(options), "inputs": [folder], "root": folder, "allow_outside": False, "limit": None}
    )

    def begin(planned: Plan) -> None:
        check_listed(chosen, planned.manifest.column("uri").to_pylist())
        clear_results(options.output)

    code = carry_out(looking, detector, begin)
    if code != EXIT_OK or options.dry_run:
        return code
    print(f"\n{evaluate_set(asked, chosen, options.output, mode)}")
    return EXIT_OK


def _detector(options: argparse.Namespace, mode: str) -> DetectorConfig:
    """What to look for, and how."""
    from dataclasses import replace

    from pipelines.planning import detector_config
    from retinafocus.errors import SettingsError
    from retinafocus.postprocessing import PostConfig
    from retinafocus.whole_looks import PUBLISHED_LOOKS

    looks = PUBLISHED_LOOKS.get(mode)
    if looks is not None and (options.min_face is not None or options.focus_threshold is not None):
        raise SettingsError(
            f"min-face and focus-threshold have no effect with --mode {mode}, which says at which sizes photos are "
            "looked at; leave them out"
        )
    cascade_mode = "exhaustive" if mode == "exhaustive" else None
    settings = {**vars(options), "mode": cascade_mode, "score_threshold": PostConfig().score_floor}
    return replace(detector_config(argparse.Namespace(**settings)), whole_looks=looks)
