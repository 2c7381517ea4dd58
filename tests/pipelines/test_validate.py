"""The check of a run by somebody else: a whole one passes, and each kind of damage is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.synthetic_run import write_run
from pipelines.cli import main
from pipelines.ledger import committed_tables
from pipelines.shard_tables import part_bytes, statistics
from pipelines.validate import FULL_CHECKS, QUICK_CHECKS, validate
from retinafocus.errors import RunError
from retinafocus.local_storage import LocalStorage
from retinafocus.runs import RUN_FILE, ledger_name, read_ledger

Tables = dict[str, pa.Table]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 shards of 4 photos, one of each shard failed."""
    folder = tmp_path_factory.mktemp("whole")
    write_run(LocalStorage(folder), 3, 4, failed_every=4)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> LocalStorage:
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "copy")
    return LocalStorage(tmp_path / "copy")


def _rewrite(storage: LocalStorage, change: Callable[[Tables], None], *, recount: bool = True) -> None:
    """Change the tables of shard 1 and put hashes (and counts) right, as a faulty worker would."""
    record = read_ledger(storage)[1]
    tables = committed_tables(storage, record)
    change(tables)
    for name, rows in tables.items():
        data = part_bytes(rows)
        storage.put(record["files"][name]["name"], data)
        record["files"][name] |= {"rows": rows.num_rows, "sha256": hashlib.sha256(data).hexdigest()}
    if recount:
        record |= statistics(tables)
    storage.put(ledger_name(1), json.dumps(record).encode())


def _set(table: str, column: str, value: Any, row: int = 0) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        rows = tables[table]
        position = rows.schema.get_field_index(column)
        field = rows.schema.field(position)
        values = [value if number == row else old for number, old in enumerate(rows.column(column).to_pylist())]
        tables[table] = rows.set_column(position, field, pa.array(values, field.type))

    return change


def _first_ok(tables: Tables) -> int:
    return tables["images"].column("status").to_pylist().index("ok")


def _drop(table: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table] = tables[table].slice(1)

    return change


def _double(tables: Tables) -> None:
    tables["images"] = pa.concat_tables([tables["images"].slice(0, 1), tables["images"]])


def _other_type(tables: Tables) -> None:
    position = tables["faces"].schema.get_field_index("score")
    scores = pc.cast(tables["faces"].column("score"), pa.float64())
    tables["faces"] = tables["faces"].set_column(position, pa.field("score", pa.float64(), nullable=False), scores)


def _other_version(tables: Tables) -> None:
    tables["faces"] = tables["faces"].replace_schema_metadata({"retinafocus.schema_version": "99"})


def _ok_without_faces(tables: Tables) -> None:
    _set("images", "faces", None, _first_ok(tables))(tables)


def test_whole_run_and_a_copy_of_it_pass(whole: Path, run: LocalStorage) -> None:
    for location in (str(whole), run.location):
        findings = validate(location)
        assert findings.problems == {}
        assert list(findings.checks) == list(FULL_CHECKS)
        assert (findings.photos, findings.faces) == (12, 9)
        assert findings.report().endswith("result   all checks passed")
    assert main(["validate", str(whole)]) == 0


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        pytest.param(_other_type, "schema", "faces.score is double, documented is float", id="type"),
        pytest.param(_other_version, "schema", "of schema version 99", id="version"),
        pytest.param(_drop("images"), "accounting", "1 photos .* listed, without a row of images", id="no row"),
        pytest.param(_drop("timing"), "accounting", "1 photos .* listed, without a row of timing", id="no timing"),
        pytest.param(_double, "accounting", "1 rows of images too many", id="row twice"),
        pytest.param(_set("images", "image_id", "0" * 24), "accounting", r"\(0{24}\) in images, not in", id="stray"),
        pytest.param(_set("images", "status", "lost"), "images", "1 statuses that are not documented", id="status"),
        pytest.param(_set("images", "shard", 7), "images", "1 rows of another shard", id="shard"),
        pytest.param(_ok_without_faces, "images", "1 photos that are ok without a number of faces", id="null faces"),
        pytest.param(_drop("faces"), "references", "have another number of faces than images says", id="face lost"),
        pytest.param(_set("faces", "image_id", "0" * 24), "references", "were not looked at", id="face of nobody"),
        pytest.param(_set("faces", "face", 1), "references", "are not numbered 0..n-1", id="face number"),
        pytest.param(_set("faces", "uri", "/else"), "references", "have another uri", id="uri"),
        pytest.param(_set("faces", "x2", 65.0), "ranges", "1 boxes that are empty, outside", id="outside"),
        pytest.param(_set("faces", "y1", float("nan")), "ranges", "1 boxes that are empty, outside", id="no number"),
        pytest.param(_set("faces", "score", 1.5), "ranges", "1 scores outside 0..1", id="score"),
        pytest.param(_set("timing", "ms_read", -1.0), "ranges", "1 ms_read below 0", id="time"),
    ],
)  # fmt: skip
def test_what_a_faulty_worker_wrote_is_found(
    run: LocalStorage, change: Callable[[Tables], None], check: str, words: str
) -> None:
    _rewrite(run, change)
    problems = validate(run.location).problems
    assert check in problems
    assert any(re.search(words, line) for line in problems[check]), problems
    assert main(["validate", run.location]) == 1


def test_counts_of_a_record_are_not_believed(run: LocalStorage) -> None:
    _rewrite(run, lambda tables: _set("images", "pixels_processed", 7)(tables), recount=False)
    (line,) = validate(run.location).problems["counts"]
    assert line.startswith("shard 1: pixels_processed is 9216 in the record, ")


def test_damage_to_files_is_found(run: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (record["files"] for record in read_ledger(run))
    data = bytearray(run.read(first["faces"]["name"]))
    data[len(data) // 2] ^= 1
    run.put(first["faces"]["name"], bytes(data))
    run.delete(second["images"]["name"])
    run.put("faces/part-00000009-killed.parquet", b"half")
    run.put("images/copy.parquet", run.read(third["images"]["name"]))
    problems = validate(run.location).problems
    assert {check: len(lines) for check, lines in problems.items()} == {"files": 1, "leftovers": 2, "hashes": 1}
    assert set(validate(run.location, quick=True).problems) == {"files", "leftovers"}
    assert main(["validate", run.location, "--quick"]) == 1
    report = capsys.readouterr().out
    assert f"- {second['images']['name']} is missing" in report
    assert f"result   2 of {len(QUICK_CHECKS)} checks failed" in report


def test_unfinished_run_says_what_remains(run: LocalStorage) -> None:
    run.delete(ledger_name(2))
    problems = validate(run.location).problems
    assert problems["ledger"] == ["shard 2: 4 of its photos are still to be done"]
    assert problems["totals"][0] == "photos is 12, the records say 8"
    assert len(problems["leftovers"]) == 3
    run.put(RUN_FILE, json.dumps({**json.loads(run.read(RUN_FILE)), "status": "running"}).encode())
    assert validate(run.location).problems["run"] == ["its status is running; finish it with `retinafocus detect`"]


def test_run_of_another_schema_is_not_opened(run: LocalStorage) -> None:
    run.put(RUN_FILE, json.dumps({**json.loads(run.read(RUN_FILE)), "settings": {"schema_version": 99}}).encode())
    with pytest.raises(RunError, match="its tables are of schema version 99, this RetinaFocus reads"):
        validate(run.location)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    assert main(["validate", str(tmp_path)]) == 1
