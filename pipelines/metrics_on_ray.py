"""What operators watch: counters of the workers, which Ray shows to Prometheus on every node.

They count what was looked at: a shard that is done again after its worker died counts twice here, once in the tables.
"""

from __future__ import annotations

from ray.util.metrics import Counter

from pipelines.looking import Looked
from retinafocus.storage import redacted

# Name, as it is given to Ray; meaning; labels beside `run`. Few values each: each makes a series of its own.
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "retinafocus_photos": ("Photos done, failed ones too", ()),
    "retinafocus_failures": ("Photos that could not be looked at, by status", ("status",)),
    "retinafocus_faces": ("Faces found", ()),
    "retinafocus_bytes": ("Bytes of the photos that were read", ()),
    "retinafocus_seconds": ("Seconds of the workers, by stage: read, decode, network, other", ("stage",)),
    "retinafocus_shards": ("Shards committed", ()),
}


def exported_name(name: str) -> str:
    """What Prometheus finds a metric under: Ray's prefix before it, and a counter's ending behind."""
    return f"ray_{name}_total"


class RunMetrics:
    """One worker's counters.

    Args:
        run: which run they are of; the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._counters = {
            name: Counter(name, description=meaning, tag_keys=("run", *labels)).set_default_tags({"run": run})
            for name, (meaning, labels) in METRICS.items()
        }

    def photo(self, looked: Looked) -> None:
        """A photo is done."""
        self._count("retinafocus_photos", 1)
        if looked.faces is None:
            self._count("retinafocus_failures", 1, status=looked.status)
        else:
            self._count("retinafocus_faces", len(looked.faces))
            self._count("retinafocus_bytes", looked.row["bytes"] or 0)
        for stage in ("read", "decode", "network", "other"):
            self._count("retinafocus_seconds", looked.ms[stage] / 1e3, stage=stage)

    def shard(self) -> None:
        """A shard is committed."""
        self._count("retinafocus_shards", 1)

    def _count(self, name: str, amount: float, **labels: str) -> None:
        if amount > 0:  # Ray takes nothing else
            self._counters[name].inc(amount, labels)


def run_name(output: str) -> str:
    """What a run is called in the metrics: the last part of its folder's name, which an operator knows it by."""
    return redacted(output).rstrip("/").rpartition("/")[2] or "run"
