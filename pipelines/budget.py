"""The error budget: how large a share of failed photos a run puts up with before it stops."""

from __future__ import annotations

from typing import Any

from retinafocus.errors import FAILURES

# A share of fewer photos than these says nothing yet: one bad photo among the first three is no third of an archive.
MINIMUM_PHOTOS = 100


def count_failures(statuses: dict[str, int]) -> int:
    """Photos that failed, of a count of statuses."""
    return sum(statuses.get(status, 0) for status in FAILURES)


class ErrorBudget:
    """Counts what is done, shard by shard, earlier attempts at the run included.

    Args:
        share: of the photos done, that may fail; None for any.
        records: of the shards that are done and will not be done again.
        photos: of the whole run.
    """

    def __init__(self, share: float | None, records: list[dict[str, Any]], photos: int) -> None:
        self.share = share
        self._whole = photos
        self.photos: int = sum(record["photos"] for record in records)
        self.failed = sum(count_failures(record["statuses"]) for record in records)

    def add(self, photos: int, failed: int) -> None:
        """A shard is done."""
        self.photos += photos
        self.failed += failed

    @property
    def exceeded(self) -> bool:
        """Whether more failed than may; not before enough photos are done."""
        if self.share is None or self.photos < min(MINIMUM_PHOTOS, self._whole):
            return False
        return bool(self.failed > self.share * self.photos)

    def words(self) -> str:
        """What a person is told when it is exceeded."""
        share = 100 * self.failed / max(self.photos, 1)
        return (
            f"{self.failed:,} of {self.photos:,} photos failed ({share:.1f} %), more than --max-error-rate "
            f"{self.share:g} admits"
        )
