"""Tables that are made once: kept as Parquet with the settings they were made with, and shown as Markdown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retinafocus.errors import SettingsError

SETTINGS_KEY = b"settings"
"""Of a table's metadata: JSON of what it depends on."""

Row = dict[str, Any]
Rows = list[Row]


def made_once(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], make: Callable[[], Mapping[str, Rows]]
) -> dict[str, Rows]:
    """The tables of one part: read where all of them are there, else made and written.

    Args:
        folder: gets NAME.parquet for each.
        names: of the tables.
        settings: all that the numbers depend on, in JSON types.
        make: gives the rows of each table, at least one for each.

    Raises:
        SettingsError: a table is there that was made with other settings.
    """
    paths = {name: folder / f"{name}.parquet" for name in names}
    if all(path.exists() for path in paths.values()):
        return {name: _read(path, settings) for name, path in paths.items()}
    rows = make()
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        table = pa.Table.from_pylist(rows[name]).replace_schema_metadata({SETTINGS_KEY: json.dumps(settings)})
        temporary = path.with_name(path.name + ".part")
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    return dict(rows)


def _read(path: Path, settings: Mapping[str, Any]) -> Rows:
    table = pq.read_table(path)
    then = json.loads((table.schema.metadata or {}).get(SETTINGS_KEY, b"{}"))
    now = json.loads(json.dumps(settings))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise SettingsError(
                f"{path}: made with {key} {then.get(key)}, now it is {now.get(key)}; choose another output, or remove "
                "the file to make it again"
            )
    rows: Rows = table.to_pylist()
    return rows


def markdown(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], texts: int = 1) -> str:
    """A Markdown table.

    Args:
        rows: one line each.
        columns: by heading, what a row has there.
        texts: so many columns, from the left, are texts; the others numbers, to the right.
    """
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * texts + "---:|" * (len(columns) - texts)]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float | None, digits: int = 1) -> str:
    """A share 0..1 in percent; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def with_interval(row: Row) -> str:
    """AP of a row in percent with its 95 % interval, where it has one."""
    if math.isnan(row["ap_low"]):
        return percent(row["ap"])
    return f"{percent(row['ap'])} [{percent(row['ap_low'])}, {percent(row['ap_high'])}]"


def megapixels(row: Row) -> str:
    return f"{row['network_pixels'] / 1e6:.2f}"
