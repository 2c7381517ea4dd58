"""`retinafocus data import|check|focus-study`."""

from __future__ import annotations

import argparse

from pipelines.commands.command import EXIT_ERROR, EXIT_OK, Verbs, add_verb


def add(verbs: Verbs) -> None:
    parser = add_verb(verbs, "data", "bring labelled photos into the form training reads, or check them")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    convert = add_verb(actions, "import", "read labels, look at every picture, write what can be used")
    convert.add_argument("labels", metavar="PATH", help="the file of labels; for yolo and voc the folder")
    convert.add_argument(
        "--from", dest="format", required=True, choices=("coco", "yolo", "voc", "widerface"), help="their form"
    )
    convert.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write; must be new or empty")
    convert.add_argument("--images", metavar="DIR", help="folder of the pictures (default: the usual places)")
    convert.add_argument("--classes", nargs="+", metavar="NAME", help="classes that are faces (default: the only one)")
    convert.add_argument("--source", metavar="NAME", help="name of the collection (default: that of the labels)")
    convert.add_argument(
        "--pictures", choices=("link", "copy"), default="link", help="how pictures get into OUT (default: link)"
    )
    convert.add_argument(
        "--first-pixel", type=int, choices=(0, 1), default=1, help="voc: what pixels are counted from (default: 1)"
    )
    convert.set_defaults(verb=_data_import)
    check = add_verb(actions, "check", "bad rows, unreadable pictures, repeats, leaks between splits, spread of faces")
    check.add_argument("folder", metavar="OUT", help="a folder with images.parquet, labels.parquet and images/")
    check.add_argument("--against", metavar="OTHER", help="another split, which must share no photo with OUT")
    check.add_argument("--plots", metavar="DIR", help="write sizes.png, ratios.png and density.png there")
    check.add_argument("--table", metavar="FILE", help="also write every finding as Parquet")
    check.set_defaults(verb=_data_check)
    _add_focus_study(actions)


def _add_focus_study(actions: Verbs) -> None:
    study = add_verb(actions, "focus-study", "what a detector finds at each face size, and the focus sizes that follow")
    study.add_argument("folder", metavar="FOLDER", help="labelled photos: images.parquet, labels.parquet, images/")
    study.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for tables, plots and the answer")
    study.add_argument("--weights", metavar="FILE", help="weights file (default: the ones that ship)")
    study.add_argument("--sources", nargs="+", metavar="NAME", help="only photos of these sources (default: all)")
    study.add_argument("--limit", type=int, metavar="N", help="at most N photos, drawn at random (default: all)")
    study.add_argument("--seed", type=int, default=0, metavar="N", help="of that draw (default: 0)")
    study.add_argument(
        "--factors", nargs="+", type=float, metavar="F",
        help="factors of a photo's size to look at it (default: 0.25 0.33 0.5 0.75 1 1.5 2)",
    )  # fmt: skip
    study.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs")
    study.set_defaults(verb=_data_focus_study)


def _data_import(options: argparse.Namespace) -> int:
    from pipelines.data import ImportJob, import_labels
    from pipelines.report import Progress

    job = ImportJob(
        format=options.format,
        labels=options.labels,
        output=options.output,
        images=options.images,
        classes=options.classes,
        source=options.source,
        pictures=options.pictures,
        first_pixel=options.first_pixel,
    )
    print(import_labels(job, Progress()))
    return EXIT_OK


def _data_check(options: argparse.Namespace) -> int:
    from pipelines.data_check import check_folder

    report = check_folder(options.folder, options.against, options.plots, options.table)
    print(report.text)
    return EXIT_ERROR if report.has_problems else EXIT_OK


def _data_focus_study(options: argparse.Namespace) -> int:
    from pipelines.focus_study import StudyJob, run_study
    from pipelines.report import Progress
    from retinafocus.evaluation.focus_study import FACTORS

    job = StudyJob(
        folder=options.folder,
        output=options.output,
        weights=options.weights,
        sources=options.sources,
        limit=options.limit,
        seed=options.seed,
        factors=options.factors or FACTORS,
        device=options.device,
    )
    print(run_study(job, Progress()))
    return EXIT_OK
