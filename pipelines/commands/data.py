"""`retinafocus data import|check`."""

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
