"""`detect --retry`: which shards to do again for their failed photos, also after the retry itself was cut short."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.ledger import pending_shards


def shards_to_do(
    records: list[dict[str, Any]], manifest: pa.Table, retry: tuple[str, ...], earlier: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What a command at a run has to do.

    A photo is tried again once by a retry. When one is cut short, the same command goes on with what it had not yet
    tried: shards whose record is of the generation that the retry was to make are done, though some photos of them
    failed again.

    Args:
        records: of the run's ledger.
        manifest: the run's.
        retry: statuses to look at again.
        earlier: `run.json` as the last command left it; None for a new run.

    Returns:
        Rows for the workers (see `pending_shards`); and what `run.json` keeps of the retry (`retry`), None without one.
    """
    if not retry:
        return pending_shards(records, manifest), None
    rows = pending_shards(records, manifest, retry)
    begun = (earlier or {}).get("retry")
    if begun is None or begun["statuses"] != list(retry):
        targets = {str(row["shard"]): row["generation"] for row in rows if row["generation"]}
        return rows, {"statuses": list(retry), "shards": targets}
    targets, unfinished = begun["shards"], {row["shard"] for row in pending_shards(records, manifest)}
    rows = [
        row for row in rows if row["shard"] in unfinished or row["generation"] <= targets.get(str(row["shard"]), -1)
    ]
    return rows, begun
