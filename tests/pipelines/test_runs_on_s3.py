"""The ledger, and the commands that read and rewrite it, on an object store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from benchmarks.synthetic_run import photo_path, shard_tables, write_run
from pipelines.cli import main
from pipelines.ledger import commit_shard, delete_leftovers
from pipelines.manifest import image_id
from pipelines.status import run_status
from pipelines.validate import validate
from retinafocus.runs import open_run, read_ledger
from retinafocus.storage import open_storage

if TYPE_CHECKING:
    from tests.conftest import S3Server


def test_commands_on_a_run_in_a_bucket(s3_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    location = f"{s3_server.location}/runs/one"
    storage = open_storage(location)
    write_run(storage, 3, 4, failed_every=4)
    late = commit_shard(storage, 1, "late", shard_tables(1, 4), {"worker": "x"}, generation=0, manifest_version=0)
    assert late["attempt"] == "first"
    assert validate(location).problems == {}
    assert (run_status(location).state, run_status(location).done) == ("complete", 12)
    before = os.listdir()
    assert main(["forget", location, photo_path(1, 2)]) == 0
    assert main(["validate", location]) == 0
    assert main(["status", location]) == 0
    assert "photos   11 of 11 done (100 %), 0 remain" in capsys.readouterr().out
    assert image_id(photo_path(1, 2)) not in open_run(location).images().column("image_id").to_pylist()
    assert os.listdir() == before
    storage.put("faces/part-00000007-killed.parquet", b"half")
    assert main(["validate", location, "--quick"]) == 1
    with storage.locked() as hold:
        assert delete_leftovers(storage, read_ledger(storage), hold) == 1
    assert main(["validate", location]) == 0
