"""Lists, manifests and settings from untrusted hands: data, whatever they pretend to be."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.photo_lists import read_list
from pipelines.train_config import read_train_config
from retinafocus.errors import RunError, SettingsError
from retinafocus.runs import read_manifest
from retinafocus.storage import StorageConfig, open_storage


class Attack:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def write_with_attack(path: Path, owned: Path) -> None:
    """A Parquet file whose columns ask to be unpickled, as Arrow did for its extension types up to version 14."""
    payload = pickle.dumps(Attack(owned))
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    fields = [pa.field(name, pa.string(), metadata=kind) for name in ("uri", "image_id", "path")]
    table = pa.table([["a.jpg"]] * 3, schema=pa.schema(fields, metadata={"pandas": "{}", "pickle": payload}))
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


@pytest.mark.filterwarnings("ignore:pyarrow.PyExtensionType")
def test_a_list_whose_columns_are_pickles_is_read_as_text_or_refused(tmp_path: Path) -> None:
    path, owned = tmp_path / "list.parquet", tmp_path / "owned"
    write_with_attack(path, owned)
    with suppress(SettingsError):  # a release of Arrow may refuse it
        assert [name for name, _ in read_list(str(path), StorageConfig())] == [os.fsencode(tmp_path / "a.jpg")]
    assert not owned.exists()


@pytest.mark.filterwarnings("ignore:pyarrow.PyExtensionType")
def test_a_manifest_whose_columns_are_pickles_is_read_as_text_or_refused(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    write_with_attack(tmp_path / "manifest" / "photos.parquet", owned)
    with suppress(RunError):
        read_manifest(open_storage(tmp_path))
    assert not owned.exists()


@pytest.mark.parametrize("text", ["output = '''{attack}'''", "'''{attack}''' = 1", "batch = '{attack}'"])
def test_code_in_settings_is_text(text: str, tmp_path: Path) -> None:
    path, owned = tmp_path / "train.toml", tmp_path / "owned"
    path.write_text(text.replace("{attack}", f'__import__("os").mkdir("{owned}")'))
    with suppress(SettingsError):
        assert "__import__" in read_train_config(path).output
    assert not owned.exists()


def test_code_in_an_override_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("")
    owned = tmp_path / "owned"
    with pytest.raises(SettingsError):
        read_train_config(tmp_path / "train.toml", [f'batch=__import__("os").mkdir("{owned}")'])
    assert not owned.exists()


def test_deeply_nested_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("batch = " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(SettingsError, match=r"train\.toml"):
        read_train_config(tmp_path / "train.toml")
