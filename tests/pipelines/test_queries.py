"""The tables in the hands of the tools people query them with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retinafocus.runs import Run


@pytest.fixture(scope="module")
def run(
    run_job: Callable[..., Run], archive: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return run_job(archive, tmp_path_factory.mktemp("queries"), tiny_weights)


def test_duckdb_counts_what_the_run_says(run: Run) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"SELECT sum(faces), count(*) FROM '{run.folder}/images/*.parquet' WHERE status = 'ok'"
    assert duckdb.sql(query).fetchall() == [(run.info["totals"]["faces"], 24)]


def test_polars_counts_what_the_run_says(run: Run) -> None:
    polars = pytest.importorskip("polars")
    faces = polars.read_parquet(f"{run.folder}/faces/*.parquet")
    assert faces.height == run.info["totals"]["faces"]
    assert faces["landmarks"].dtype == polars.Array(polars.Float32, 10)


def test_pandas_reads_the_folder_as_one_table(run: Run) -> None:
    pandas = pytest.importorskip("pandas")
    images = pandas.read_parquet(run.folder / "images")
    assert images["faces"].sum() == run.info["totals"]["faces"]
