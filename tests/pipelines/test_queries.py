"""The tables in the hands of the tools people query them with: every block of docs/queries.md, run."""

from __future__ import annotations

import ast
import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinafocus import DetectorConfig
from retinafocus.runs import Run
from retinafocus.weights import find_weights

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"
TOOLS = ("DuckDB", "Polars", "pyarrow", "pandas")


def read_page() -> tuple[str, dict[str, dict[str, str]]]:
    """The block that the others begin with; by question, then tool, the blocks that answer it."""
    start, *sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (imports,) = re.findall(r"```python\n(.*?)```", start, re.DOTALL)
    answers = {}
    for section in sections:
        blocks = re.findall(r"```(?:sql|python)\n(?:--|#) (\w+)\n(.*?)```", section, re.DOTALL)
        answers[section.partition("\n")[0]] = dict(blocks)
        assert len(blocks) == section.count("```") / 2
    return imports, answers


IMPORTS, QUESTIONS = read_page()


@pytest.fixture(scope="module")
def run(run_job: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over nine photos: of one face, at four sizes and in three months; of three; of none; copies; a cut one."""
    astronaut = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    root = tmp_path_factory.mktemp("queries")
    (root / "photos" / "2020").mkdir(parents=True)
    for number, side in enumerate((0, 200, 300, 512)):
        exif = Image.Exif()
        if number:
            exif[0x0132] = f"2021:0{number}:02 10:11:12"
        canvas = astronaut.crop((112, 0, 336, 240))  # the face nearly fills it
        if number:
            canvas = Image.new("RGB", (640, 512), "grey")
            canvas.paste(astronaut.resize((side, side)), (5, 0))
        canvas.save(root / "photos" / f"astronaut {number}.jpg", exif=exif)
    three = Image.new("RGB", (900, 300))
    for left in (0, 300, 600):
        three.paste(astronaut.resize((300, 300)), (left, 0))
    three.save(root / "photos" / "2020" / "three.png")
    Image.new("RGB", (320, 240), "grey").save(root / "photos" / "2020" / "none.jpg")
    shutil.copy(root / "photos" / "astronaut 3.jpg", root / "photos" / "2020" / "copy.jpg")
    for number in range(2):
        whole = (root / "photos" / "astronaut 3.jpg").read_bytes()
        (root / "photos" / "2020" / f"cut {number}.jpg").write_bytes(whole[: 4000 + number])
    result = run_job(
        root / "photos",
        root / "out",
        find_weights(None),
        detector=DetectorConfig(device="cpu", engine="torch", score_threshold=0.8),
    )
    uris = result.images().column("uri").to_pylist()
    with open(root / "albums.csv", "w", newline="") as file:
        csv.writer(file).writerows([("uri", "album"), *((uri, "odd" if "1" in uri else "even") for uri in uris[1:])])
    return result


@pytest.fixture
def inside(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder where `out` and `albums.csv` lie."""
    monkeypatch.chdir(Path(run.storage.location).parent)


def answer(tool: str, block: str) -> list[tuple[Any, ...]]:
    """The rows that a block gives."""
    if tool == "DuckDB":
        import duckdb

        return [tuple(map(plain, row)) for row in duckdb.sql(block).fetchall()]
    names: dict[str, Any] = {}
    exec(IMPORTS, names)
    *statements, last = ast.parse(block).body
    assert isinstance(last, ast.Expr), "the last line of a block is its answer"
    exec(compile(ast.Module(statements, []), "block", "exec"), names)
    table = eval(compile(ast.Expression(last.value), "block", "eval"), names)
    if tool == "Polars":
        rows = table.rows()
    elif tool == "pyarrow":
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    else:
        rows = table.itertuples(index=False, name=None)
    return [tuple(map(plain, row)) for row in rows]


def plain(value: Any) -> Any:
    """Each tool's own number or text as Python's, floats to six digits."""
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.6g}") if isinstance(value, (int, float)) else str(value)


def test_the_page_has_ten_questions_answered_by_four_tools() -> None:
    assert len(QUESTIONS) == 10
    assert all(tuple(blocks) == TOOLS for blocks in QUESTIONS.values())


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_four_answers_agree(question: str) -> None:
    for name in ("duckdb", "polars", "pandas"):
        pytest.importorskip(name)
    answers = {tool: answer(tool, block) for tool, block in QUESTIONS[question].items()}
    assert answers["DuckDB"]
    for tool in TOOLS[1:]:
        assert answers[tool] == answers["DuckDB"], tool


@pytest.mark.usefixtures("inside")
def test_the_answers_are_what_the_photos_hold(run: Run) -> None:
    pytest.importorskip("duckdb")
    answers = [answer("DuckDB", blocks["DuckDB"]) for blocks in QUESTIONS.values()]
    most, none, failed, sizes, months, crops, large, slow, copies, albums = answers
    folder = Path(run.storage.location).parent / "photos"
    assert most[0] == (str(folder / "2020" / "three.png"), 3)
    assert none == [(str(folder / "2020" / "none.jpg"),)]
    assert failed == [(str(folder / "2020"), "truncated", 2)]
    assert sum(count for _, count, _ in sizes) == sum(faces for _, faces in most) == run.info["totals"]["faces"]
    assert months == [("2021-01", 1, 1), ("2021-02", 1, 1), ("2021-03", 2, 2)]
    # The face is 94 x 119 px in the portrait of 512 px, so 37 px wide in that of 200, and a fifth of its cut-out.
    assert {Path(uri).stem for uri, *_ in crops} == {"astronaut 0", "astronaut 2", "astronaut 3", "copy", "three"}
    assert [(uri, faces) for uri, faces, _ in large] == [(str(folder / "astronaut 0.jpg"), 1)]
    assert len(slow) == 9
    assert [row[3:] for row in copies] == [(2, str(folder / "2020" / "copy.jpg"))]
    assert sum(photos for _, photos, _ in albums) == 6


def test_each_tool_reads_a_whole_table(run: Run) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    faces = run.info["totals"]["faces"]
    query = f"SELECT sum(faces), count(*) FROM '{run.storage.location}/images/*.parquet' WHERE status = 'ok'"
    assert duckdb.sql(query).fetchall() == [(faces, 7)]
    table = polars.read_parquet(f"{run.storage.location}/faces/*.parquet")
    assert table.height == faces
    assert table["landmarks"].dtype == polars.Array(polars.Float32, 10)
    assert pandas.read_parquet(Path(run.storage.location) / "images")["faces"].sum() == faces
