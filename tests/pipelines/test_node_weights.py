"""Weights on machines that do not see their file: fetched once, whole, and the right ones."""

from __future__ import annotations

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.node_weights import NodeWeights, cache_folder, node_weights, weights_here
from retinafocus.errors import WeightsError
from retinafocus.storage import StorageConfig
from retinafocus.weights import find_weights, read_info

if TYPE_CHECKING:
    from tests.conftest import S3Server


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))


def shared(path: Path, fetched: list[int]) -> NodeWeights:
    def share(data: bytes):  # type: ignore[no-untyped-def]
        def fetch() -> bytes:
            fetched.append(len(data))
            return data

        return fetch

    return node_weights(path, share)


def test_workers_of_one_machine_fetch_the_weights_once_between_them(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"x" * 100_000)
    fetched: list[int] = []
    weights = shared(tmp_path / "w.safetensors", fetched)
    with ThreadPoolExecutor(8) as workers:
        paths = set(workers.map(lambda _: weights.path(), range(8)))
    assert fetched == [100_000]
    (path,) = paths
    assert path.read_bytes() == b"x" * 100_000
    assert path.parent.stat().st_mode & 0o077 == 0
    assert sorted(found.suffix for found in path.parent.iterdir()) == [".lock", ".safetensors"]


def test_weights_that_were_damaged_on_the_machine_are_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"whole")
    fetched: list[int] = []
    weights = shared(tmp_path / "w.safetensors", fetched)
    weights.path().write_bytes(b"half")
    assert weights.path().read_bytes() == b"whole"
    assert fetched == [5, 5]


def test_what_a_worker_that_was_killed_had_begun_to_fetch_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"whole")
    weights = shared(tmp_path / "w.safetensors", [])
    folder = weights.path().parent
    mine, of_other_weights = folder / f"{weights.sha256}.k1ll3d.part", folder / f"{'0' * 64}.busy.part"
    mine.write_bytes(b"wh")
    of_other_weights.write_bytes(b"x")
    assert weights.path().read_bytes() == b"whole"
    assert not mine.exists()
    assert of_other_weights.exists()


def test_disk_that_fills_up_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"whole")
    weights = shared(tmp_path / "w.safetensors", [])

    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WeightsError, match=r"cannot be kept there \(No space left on device\); make room"):
        weights.path()
    assert [found.suffix for found in cache_folder().iterdir()] == [".lock"]


def test_what_came_as_something_else_is_not_kept() -> None:
    with pytest.raises(WeightsError, match="the weights came with hash"):
        NodeWeights(sha256="0" * 64, fetch=lambda: b"something else").path()
    assert not list(cache_folder().glob("*.safetensors"))


def test_weights_in_an_object_store_are_fetched_and_others_are_where_they_were(
    s3_server: S3Server, tiny_weights: Path
) -> None:
    config = StorageConfig(attempts=1)
    s3_server.client.put_object(Bucket=s3_server.bucket, Key="my weights/w.safetensors", Body=tiny_weights.read_bytes())
    fetched = weights_here(f"{s3_server.location}/my%20weights/w.safetensors", config)
    assert fetched.parent == cache_folder()
    assert read_info(fetched) == read_info(tiny_weights)
    assert weights_here(str(tiny_weights), config) == tiny_weights
    assert weights_here(None, config) == find_weights(None)
    with pytest.raises(
        WeightsError, match=r"nothing.safetensors: the weights cannot be read \(there is no such object\)"
    ):
        weights_here(f"{s3_server.location}/nothing.safetensors", config)


def test_machine_without_room_for_the_weights_says_where(tmp_path: Path) -> None:
    (tmp_path / "machine").write_text("a file where the folder should be")
    with pytest.raises(
        WeightsError, match=r"the weights cannot be kept there \(Not a directory\); make room, or set TMPDIR"
    ):
        NodeWeights(sha256="0" * 64, fetch=lambda: b"").path()
