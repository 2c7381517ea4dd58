"""`retinafocus explain`: one photo looked at as a run does, and a page of pictures that says why a face was missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from html import escape
from pathlib import Path

from pipelines.workers import CPU_THREADS
from retinafocus.cascade import STEPS, PhotoResult, PreparedPhoto
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.draw import save_picture
from retinafocus.errors import PhotoError, RunError
from retinafocus.explain import FLOOR, Explanation
from retinafocus.explain_pictures import draw_close_up, draw_level, draw_overview
from retinafocus.photos import read_bytes
from retinafocus.storage import StorageConfig

PAGE = "explain.html"

# A first look also pays for threads, memory and the engine's preparation for each shape. Of a photo that takes so many
# pixels through the network that is a small part, and nobody wants to wait for a second one.
LOOKED_AT_TWICE = 2**26

TABLE_HEAD = ("", "looked at", "network Mpx", "share", *(f"{step} ms" for step in STEPS))


@dataclass(frozen=True, kw_only=True)
class ExplainJob:
    """Everything `retinafocus explain` was asked for."""

    photo: str
    """Path or URI."""
    output: str
    """Folder for the page and its pictures; made if missing."""
    weights: str | None = None
    """Name or path of the weights; None takes the ones that ship."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """What the run looks for."""
    at: tuple[float, float] | None = None
    """A point in pixels of the upright photo, to be explained in words and a close-up."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """How object stores are reached."""


def explain(job: ExplainJob) -> str:
    """Look at the photo, write the page, and say what a terminal should show.

    Raises:
        PhotoError: the photo cannot be read or looked at; the message names it.
        SettingsError, WeightsError: as `Detector`; or the point lies outside the photo.
        RunError: the folder cannot be written.
    """
    threshold = job.detector.score_threshold
    # One thread, as a run's workers have, so that the scores are theirs.
    config = replace(job.detector, score_threshold=min(FLOOR, threshold), threads=CPU_THREADS)
    detector = Detector.from_pretrained(job.weights, config)
    try:
        prepared, result = _look(detector, read_bytes(job.photo, job.storage))
        explanation = Explanation(result, detector.preset, config.cascade, threshold)
        words = explanation.words_at(*job.at) if job.at else []
        pictures = _draw(explanation, prepared, job)
    except PhotoError as error:
        raise PhotoError(error.status, f"{job.photo}: {error.reason}") from error
    head = _head(job, explanation, detector)
    table = table_rows(explanation, prepared.ms_decode)
    page = Path(job.output) / PAGE
    try:
        page.write_text(_page(Path(job.photo).name, head, words, table, pictures), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{page}: cannot be written ({error.strerror}); choose another folder") from error
    return "\n".join([*head, "", *_aligned(table), "", *words, *([""] if words else []), f"page     {page}"])


def table_rows(explanation: Explanation, ms_prepare: float) -> list[list[str]]:
    """Cost of each step and level: rows of texts, the head first and the sums last.

    Args:
        explanation: of the photo.
        ms_prepare: what decoding took before the first level.
    """
    result = explanation.result
    levels = explanation.rows()
    sums = {"decode": result.ms_decode, "network": result.ms_network, "other": result.ms_other}
    stacking = result.ms_other - sum(row.milliseconds["other"] for row in levels)
    return [
        list(TABLE_HEAD),
        ["before the levels", "", "", "", f"{ms_prepare:.1f}", "", ""],
        *(
            [
                f"level {row.level.index}, scale {Fraction(row.level.scale)}",
                row.how,
                f"{row.network_pixels / 1e6:.2f}",
                f"{100 * row.share:.0f} %",
                *(f"{row.milliseconds[step]:.1f}" for step in STEPS),
            ]
            for row in levels
        ),
        ["stacking", "", "", "", "", "", f"{stacking:.1f}"],
        ["in all", "", f"{result.pixels_processed / 1e6:.2f}", "", *(f"{sums[step]:.1f}" for step in STEPS)],
    ]


def _look(detector: Detector, photo: bytes) -> tuple[PreparedPhoto, PhotoResult]:
    """Looked at, and again where the first time would be slower for reasons of its own."""
    prepared = detector.prepare(photo)
    result = detector.look(prepared)
    if result.pixels_processed > LOOKED_AT_TWICE:
        return prepared, result
    prepared = detector.prepare(photo)
    return prepared, detector.look(prepared)


def _draw(explanation: Explanation, prepared: PreparedPhoto, job: ExplainJob) -> list[tuple[str, str]]:
    """Write the pictures; each one's file name and what it shows."""
    folder = Path(job.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error
    pictures = []
    if job.at:
        save_picture(folder / "at.png", draw_close_up(explanation, prepared.source, *job.at))
        pictures.append(("at.png", f"Around {job.at[0]:g},{job.at[1]:g} on each level"))
    save_picture(folder / "overview.png", draw_overview(explanation, prepared.source, job.at))
    pictures.append(("overview.png", "What the run finds"))
    for level in explanation.levels:
        name = f"level-{level.index}.png"
        save_picture(folder / name, draw_level(explanation, prepared.source, level))
        pictures.append((name, f"Level {level.index}"))
    return pictures


def _head(job: ExplainJob, explanation: Explanation, detector: Detector) -> list[str]:
    """What was looked at and how, in a few lines."""
    plan, cascade, engine = explanation.result.plan, explanation.cascade, detector.engine
    height, width = plan.photo_size
    where = "closer looks where the focus map points" if cascade.uses_focus(detector.preset) else "every level whole"
    return [
        f"photo    {job.photo}, {width} x {height} px",
        f"weights  preset {detector.preset.name}, {engine.name} on {engine.device}, {engine.precision}",
        f"looks    for faces from {plan.min_face:g} px and score {explanation.score_threshold:g}; {where}",
        f"found    {len(explanation.faces)} face{'' if len(explanation.faces) == 1 else 's'}",
        *([f"note     {plan.not_found}"] if plan.not_found else []),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for a terminal: texts to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


STYLE = """
body { background: #202020; color: #e6e6e6; font: 16px/1.45 system-ui, sans-serif; margin: 1.5rem auto;
  max-width: 1920px; padding: 0 1rem; }
img { height: auto; max-width: 100%; }
pre { white-space: pre-wrap; }
.answer { background: #2d2d2d; border-left: 4px solid #00ffff; padding: 0.7rem 1rem; }
td, th { padding: 0.15rem 0.9rem; text-align: right; }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left; }
tr:last-child td { border-top: 1px solid #888; }
table { border-collapse: collapse; }
"""

READING = (
    "A green box was kept. Any other box was dropped, and its colour says why; thin ones have less than half the score "
    "that is needed. Purple is where the focus map expects faces too small for a level; white rectangles are the "
    "chips it chose; what nobody looked at is dark. A face without any box was not seen: where it is dark, because "
    "nobody looked; where it is bright, because the network does not take it for a face."
)


def _page(
    title: str,
    head: Sequence[str],
    words: Sequence[str],
    table: Sequence[Sequence[str]],
    pictures: list[tuple[str, str]],
) -> str:
    """The page; its pictures lie beside it."""
    cells = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in table[0])}</tr>"]
    cells += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table[1:]]
    answer = f'<pre class="answer">{escape(chr(10).join(words))}</pre>\n' if words else ""
    shown = [
        f'<h2>{escape(caption)}</h2>\n<a href="{name}"><img src="{name}" alt="{escape(caption)}"></a>'
        for name, caption in pictures
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n<pre>{escape(chr(10).join(head))}</pre>\n{answer}"
        f"<p>{escape(READING)}</p>\n{chr(10).join(shown)}\n<h2>Time</h2>\n<table>\n{chr(10).join(cells)}\n</table>\n"
        "</html>\n"
    )
