"""`retinafocus eval --dataset`: score a run that looked at a whole data set, and write what came of it.

Everything here is a function of the run's tables and of the labels, so that two runs of one set with the same settings
leave the same bytes, whatever their workers were.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluate import check_all_there, found_faces
from pipelines.evaluation_sets import EvaluationSet, SetOptions
from pipelines.manifest import photo_uri
from pipelines.protocol_plots import write_landmark_errors, write_precision_recall
from retinafocus.datasets.wider_predictions import write_predictions
from retinafocus.errors import RunError, SettingsError
from retinafocus.evaluation.average_precision import HasBoxesAndScores, Scores, score
from retinafocus.evaluation.landmark_error import LandmarkResult, landmark_error
from retinafocus.evaluation.wider_protocol import ProtocolResult, evaluate_protocol
from retinafocus.faces import LANDMARK_NAMES, Faces
from retinafocus.runs import Run, open_run
from retinafocus.storage import uri_scheme

FOLDER = "evaluation"
"""Of the results, in the run's folder."""

# Says what was evaluated, and that the folders beside it are ours: written first, removed last.
MARK_FILE = "settings.json"

PREDICTIONS = "predictions"
"""Folder of the prediction files, in the run's folder."""

AS_CANVASES, AS_PHOTOS = "canvases", "carried back"
"""How a set of canvases is scored: as the pictures they are, and as the photos they are made of."""


def check_output(out: str) -> None:
    """Refuse, before anything is looked at, a folder that the results cannot go to.

    Raises:
        SettingsError: it is in an object store.
        RunError: it has folders of those names that no evaluation of ours wrote.
    """
    if uri_scheme(out) is not None:
        raise SettingsError(f"{out}: prediction files and results are written to this machine; choose a folder for -o")
    folder = Path(out)
    if not (folder / FOLDER / MARK_FILE).exists():
        for name in (FOLDER, PREDICTIONS):
            if (folder / name).exists() and any((folder / name).iterdir()):
                raise RunError(f"{folder / name}: was not written by `retinafocus eval`; choose another -o folder")


def check_listed(chosen: EvaluationSet, uris: Iterable[str]) -> None:
    """Refuse, before anything is looked at, a run without some of the set's photos.

    Args:
        chosen: the set.
        uris: of the run's photos, as its manifest has them.

    Raises:
        RunError: some are not among them.
    """
    listed, folder = set(uris), os.path.abspath(chosen.folder)
    uris_of_set = {path: photo_uri(os.fsencode(os.path.join(folder, path))) for path in chosen.pictures.values()}
    missing = [path for path, uri in uris_of_set.items() if uri not in listed]
    if missing:
        raise RunError(
            f"{folder}: {len(missing):,} of the {len(chosen.pictures):,} photos of the set are not among those that "
            f"are looked at (the first is {missing[0]}): hidden files, linked folders and names that are not those of "
            "pictures are passed over, and a run that is there keeps to its own list; mend that, or choose another -o"
        )


def clear_results(out: str) -> None:
    """Take away what an earlier evaluation left in the folder: it must not pass for this one's.

    Raises:
        RunError: as `check_output`, or it cannot be removed.
    """
    check_output(out)
    folder = Path(out)
    try:
        if (folder / PREDICTIONS).exists():
            shutil.rmtree(folder / PREDICTIONS)
        mark = folder / FOLDER / MARK_FILE
        if mark.exists():
            for path in (folder / FOLDER).iterdir():
                if path.name != MARK_FILE:
                    path.unlink()
            mark.unlink()
            mark.parent.rmdir()
    except OSError as error:
        raise RunError(
            f"{folder}: an earlier evaluation cannot be removed ({error}); remove it or choose another -o"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the scorers say. All empty or None where no truth is known."""

    protocol: dict[str, dict[str, ProtocolResult]] = field(default_factory=dict)
    """Of the WIDER FACE protocol, by part (the mode of looking; of canvases also how they are scored) and setting."""

    scores: Scores | None = None
    """Of our own scorer."""

    landmarks: LandmarkResult | None = None
    """None where no landmark is labelled."""


def evaluate_set(options: SetOptions, chosen: EvaluationSet, out: str, mode: str) -> str:
    """Score a finished run of a set, and write prediction files and results into its folder.

    Args:
        options: which photos.
        chosen: what is known of them.
        out: the run's folder, cleared of earlier results.
        mode: the way of looking, by name.

    Returns:
        The report, in Markdown.

    Raises:
        RunError: photos of the set are not part of the run, or the folder cannot be written.
    """
    run = open_run(out)
    names = _names(run, chosen, out)
    by_identity = found_faces(run)
    found = {name: by_identity.get(identity, Faces.empty()) for name, identity in names.items()}
    carried = None if chosen.canvases is None else chosen.canvases.carry_back(found)
    evaluation = _evaluated(chosen, found, carried, mode)
    try:
        folder = Path(out) / FOLDER
        folder.mkdir(exist_ok=True)
        (folder / MARK_FILE).write_text(json.dumps(_settings(options, run, mode), indent=2) + "\n", encoding="utf-8")
        words = _write_predictions(found if carried is None else carried, Path(out))
        _write_results(evaluation, folder)
        notes = [*chosen.notes, words]
        report = "\n".join(_report(options, run, evaluation, names, mode, notes))
        # Last, and whole or not at all: where it is, all is there.
        unfinished = folder / "report.md.unfinished"
        unfinished.write_text(report, encoding="utf-8")
        os.replace(unfinished, folder / "report.md")
    except OSError as error:
        raise RunError(f"{out}: the results cannot be written ({error}); run the same command again") from error
    return report


def _names(run: Run, chosen: EvaluationSet, out: str) -> dict[str, str]:
    """The image_id of each photo of the set, in its order."""
    manifest = run.manifest().select(["image_id", "path"]).to_pylist()
    identities = {row["path"]: row["image_id"] for row in manifest}
    check_all_there(out, dict.fromkeys(chosen.pictures.values()), identities)
    return {name: identities[path] for name, path in chosen.pictures.items()}


def _evaluated(
    chosen: EvaluationSet, found: dict[str, Faces], carried: Mapping[str, HasBoxesAndScores] | None, mode: str
) -> Evaluation:
    """Scores of what was found by name in the set's order, and of the same carried back from canvases."""
    if chosen.protocol is None:
        return Evaluation()
    protocol = {mode: evaluate_protocol(chosen.protocol, found)}
    if chosen.canvases is not None and carried is not None:
        as_photos = evaluate_protocol(chosen.canvases.tile_truth(), carried)
        protocol = {f"{mode}, {AS_CANVASES}": protocol[mode], f"{mode}, {AS_PHOTOS}": as_photos}
    landmarks = None
    if chosen.landmarks is not None:
        landmarks = landmark_error(chosen.landmarks, list(found.values()))
        landmarks = landmarks if landmarks.num_labelled else None
    return Evaluation(protocol=protocol, scores=score(chosen.truths, list(found.values())), landmarks=landmarks)


def _settings(options: SetOptions, run: Run, mode: str) -> dict[str, Any]:
    """What the results are a function of, besides photos and labels."""
    settings = run.info["settings"]
    kept = ("detector", "weights_sha256", "preset")
    of_set = {"dataset": options.dataset, "split": options.split, "sources": list(options.sources), "mode": mode}
    return of_set | {name: settings[name] for name in kept}


def _write_predictions(found: Mapping[str, HasBoxesAndScores], out: Path) -> str:
    """Write the prediction files, if these photos can have some; words about them."""
    if any(name.count("/") != 1 for name in found):
        return "Prediction files are for photos named EVENT/NAME; some of these are not, so there are none."
    write_predictions(out / PREDICTIONS, found)
    return f"`{PREDICTIONS}/` holds what was found in each of {len(found):,} photos, as EVENT/NAME.txt."


_PROTOCOL_TABLE = pa.schema(
    [
        ("part", pa.string()), ("setting", pa.string()), ("ap", pa.float64()), ("num_faces", pa.int64()),
        ("num_photos", pa.int64()),
    ]
)  # fmt: skip
_CURVES_TABLE = pa.schema(
    [
        ("part", pa.string()), ("setting", pa.string()), ("threshold", pa.float64()), ("precision", pa.float64()),
        ("recall", pa.float64()),
    ]
)  # fmt: skip
_LANDMARKS_TABLE = pa.schema(
    [
        ("nme", pa.float64()), ("failure_rate", pa.float64()), ("area", pa.float64()), ("num_labelled", pa.int64()),
        ("num_matched", pa.int64()), *((name, pa.float64()) for name in LANDMARK_NAMES),
    ]
)  # fmt: skip


def _write_results(evaluation: Evaluation, folder: Path) -> None:
    """Tables, and pictures where matplotlib is installed."""
    if evaluation.scores is None:
        return
    results = [(part, result) for part, each in evaluation.protocol.items() for result in each.values()]
    rows = [
        {"part": part, "setting": result.setting, "ap": result.ap, "num_faces": result.num_faces,
         "num_photos": result.num_photos}
        for part, result in results
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=_PROTOCOL_TABLE), folder / "protocol.parquet")
    pq.write_table(_curves(results), folder / "curves.parquet")
    pq.write_table(evaluation.scores.to_table(), folder / "sizes.parquet")
    if evaluation.landmarks is not None:
        pq.write_table(_landmarks(evaluation.landmarks), folder / "landmarks.parquet")
    if find_spec("matplotlib") is not None:
        write_precision_recall(evaluation.protocol, folder / "precision_recall.png")
        if evaluation.landmarks is not None:
            write_landmark_errors({next(iter(evaluation.protocol)): evaluation.landmarks}, folder / "landmarks.png")


def _curves(results: Sequence[tuple[str, ProtocolResult]]) -> pa.Table:
    parts = []
    for part, result in results:
        count = len(result.thresholds)
        columns = [[part] * count, [result.setting] * count, result.thresholds, result.precision, result.recall]
        parts.append(pa.Table.from_arrays([pa.array(column) for column in columns], schema=_CURVES_TABLE))
    return pa.concat_tables(parts).combine_chunks()


def _landmarks(result: LandmarkResult) -> pa.Table:
    names = ("nme", "failure_rate", "area", "num_labelled", "num_matched")
    row = {name: getattr(result, name) for name in names} | dict(zip(LANDMARK_NAMES, result.point_errors, strict=True))
    return pa.Table.from_pylist([row], schema=_LANDMARKS_TABLE)


def _report(
    options: SetOptions, run: Run, evaluation: Evaluation, names: dict[str, str], mode: str, notes: Sequence[str]
) -> Iterable[str]:
    """Lines of Markdown: what was evaluated, what came of it, and what it cost."""
    yield f"# Evaluation on {options.dataset}{f', {options.split}' if options.dataset == 'widerface' else ''}"
    yield ""
    yield from _conditions(options, run, names, mode)
    if evaluation.scores is None:
        yield f"- There is no ground truth for the {options.split} photos, so nothing is scored here."
    yield from (f"- {note}" for note in notes)
    yield ""
    if evaluation.scores is None:
        return
    yield from ("## WIDER FACE protocol, AP in percent", "", *_protocol_lines(evaluation.protocol))
    if options.dataset == "labelled":
        yield "Lists by the height of the box: easy from 50 px, medium from 30 px, hard from 10 px."
        yield ""
    yield from ("## By size, our own scorer", "", evaluation.scores.to_markdown())
    if evaluation.landmarks is not None:
        yield from ("## Landmarks", "", *_landmark_lines(evaluation.landmarks))


def _conditions(options: SetOptions, run: Run, names: dict[str, str], mode: str) -> Iterable[str]:
    settings = run.info["settings"]
    detector = settings["detector"]
    images = run.images()
    of_set = set(names.values())
    statuses = [row["status"] for row in images.select(["image_id", "status"]).to_pylist() if row["image_id"] in of_set]
    failed = sum(status != "ok" for status in statuses)
    pixels = np.asarray(images.column("pixels_processed").to_numpy())
    mine = np.isin(images.column("image_id").to_numpy(zero_copy_only=False), list(of_set))
    yield (
        f"- Mode {mode}; preset {settings['preset']['name']}, weights {settings['weights_sha256'][:12]}; "
        f"{detector['engine']} on {detector['device']}, {detector['precision']}."
    )
    sources = f" of {', '.join(options.sources)}" if options.sources else ""
    yield f"- {len(names):,} photos{sources}, {pixels[mine].mean() / 1e6:.2f} Mpx through the network for each."
    if mode in ("cascade", "exhaustive"):
        yield f"- Smallest face looked for: {detector['min_face']:g} px, sqrt(width * height)."
    if failed:
        yield f"- {failed:,} photos could not be looked at; their faces count as missed."
    others = images.num_rows - len(names)
    if others:
        yield f"- {others:,} more photos of the run do not count here."


def _protocol_lines(protocol: dict[str, dict[str, ProtocolResult]]) -> Iterable[str]:
    settings = list(next(iter(protocol.values())))
    counts = [f"{setting} ({result.num_faces:,})" for setting, result in next(iter(protocol.values())).items()]
    yield f"| | {' | '.join(counts)} |"
    yield f"|---|{'---:|' * len(settings)}"
    rows = {part: [each[setting].ap for setting in settings] for part, each in protocol.items()}
    if len(rows) == 2:
        one, other = rows.values()
        rows[f"{AS_CANVASES} - {AS_PHOTOS}"] = [a - b for a, b in zip(one, other, strict=True)]
    for part, aps in rows.items():
        yield f"| {part} | {' | '.join(_percent(ap) for ap in aps)} |"
    yield ""


def _landmark_lines(result: LandmarkResult) -> Iterable[str]:
    yield "| faces with points | found | NME | failures at 10 % | area |"
    yield "|---:|---:|---:|---:|---:|"
    shares = " | ".join(f"{_percent(value)} %" for value in (result.nme, result.failure_rate, result.area))
    yield f"| {result.num_labelled:,} | {result.num_matched:,} | {shares} |"
    yield ""


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
