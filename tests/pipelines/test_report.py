"""What people read: counts that are right, once."""

from __future__ import annotations

import io

from pipelines.report import Progress, summary

TOTALS = {
    "photos": 10, "faces": 1234, "photos_with_faces": 6, "pixels_processed": 8_000_000, "pixels_planned": 80_000_000,
    "photos_looked_closer": 2, "chips": 30, "chip_pixels": 1000, "chip_pixels_asked": 400,
    "statuses": {"corrupt": 2, "ok": 8},
    "seconds": {"decode": 1.0, "network": 3.0}, "wall_seconds": 4.0, "photos_this_time": 8,
}  # fmt: skip


def test_photos_reported_one_by_one_are_not_counted_again_with_their_shard() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start(4, done=1)
    progress.photo(3)
    progress.photo(None)
    progress.shard({"shard": 0, "photos": 2, "looked_at": 2, "faces": 3, "failed": 1, "error": None})
    progress.stop()
    assert "1 of 4 photos are done already" in stream.getvalue()
    assert "photos 3 of 4: " in stream.getvalue()
    assert "3 faces, 1 failed" in stream.getvalue()


def test_run_with_nothing_left_to_do_says_that_its_numbers_are_old() -> None:
    stream = io.StringIO()
    Progress(stream).nothing_to_do()
    assert stream.getvalue().startswith("every photo is done already, nothing was looked at")


def test_shards_alone_are_counted() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start(4, done=0)
    progress.shard({"shard": 0, "photos": 2, "looked_at": 2, "faces": 3, "failed": 1, "error": None})
    progress.stop()
    assert "photos 2 of 4: " in stream.getvalue()


def test_work_that_finds_nothing_on_the_way_counts_no_faces() -> None:
    stream = io.StringIO()
    progress = Progress(stream, counted="crops", finds=False)
    progress.start(2, done=0)
    progress.photo(0)
    progress.stop()
    assert "crops 1 of 2: " in stream.getvalue()
    assert "faces" not in stream.getvalue()


def test_summary_says_what_was_found_what_failed_and_where_the_time_went() -> None:
    lines = summary("OUT", {"totals": TOTALS}).splitlines()
    assert lines[0] == "photos   10: 8 looked at, 2 failed (2 corrupt)"
    assert lines[1] == "faces    1,234 in 6 photos"
    assert lines[2] == "time     4.0 s, 2.0 photos/s; workers spent 75 % network, 25 % decode"
    assert lines[3].startswith(
        "network  1.00 Mpx a photo, 10 % of looking at everything; 25 % of photos looked at closer"
    )
    assert lines[3].endswith(", 30 chips (40 % filled)")
    assert lines[-2].startswith("failures SELECT uri, status, error FROM 'OUT/images/*.parquet'")


def test_summary_of_a_run_without_failures_has_no_line_for_them() -> None:
    words = summary("OUT", {"totals": {**TOTALS, "statuses": {"ok": 10}}})
    assert "10 looked at, 0 failed\n" in words
    assert "failures" not in words


def test_photos_that_vanished_are_counted_apart() -> None:
    words = summary("OUT", {"totals": {**TOTALS, "statuses": {"ok": 7, "timeout": 1, "vanished": 2}}})
    assert words.splitlines()[0] == "photos   10: 7 looked at, 1 failed (1 timeout), 2 vanished"
