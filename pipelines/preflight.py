"""What every machine of a run must see, and how to tell: needs no Ray.

Asked on each node of a cluster before the first shard (`pipelines.preflight_on_ray`), and by each worker when it
starts: a node may join, or lose a mount, in the midst of a run. Without it, a wrong mount would be a row `not_found`
for each photo.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from retinafocus.errors import PhotoError, RetinaFocusError, RunError
from retinafocus.reading import read_photo, read_start
from retinafocus.runs import RUN_FILE, read_manifest
from retinafocus.storage import Storage, StorageConfig, open_storage

# Photos that are tried: one may be gone, and is a row then.
SAMPLED_PHOTOS = 8
# Shards that they come from, spread over those that are to be done, and they over each: neighbours go together.
SAMPLED_SHARDS = 4

_Row = TypeVar("_Row")


@dataclass(frozen=True, kw_only=True)
class NodeCheck:
    """What a machine must see to work on a run."""

    version: str
    """Of RetinaFocus where the command was started."""

    output: str
    """The run's folder."""

    mark: str | None
    """Of the command, in `run.json`: another folder of the same name does not have it. None: any `run.json` will do."""

    photos: tuple[str, ...]
    """Some of those to be looked at: a machine must be able to read one of them."""

    storage: StorageConfig | None = None
    """How object stores are reached."""

    def problems(self) -> list[str]:
        """What is wrong on this machine, each with what to do about it; none where it can work on the run."""
        found = [self._version(), self._output(), self._photos()]
        return [problem for problem in found if problem is not None]

    def require(self, machine: str) -> None:
        """Make sure that this machine can work on the run.

        Args:
            machine: its name, for the message.

        Raises:
            RunError: it cannot.
        """
        if problems := self.problems():
            raise RunError(f"node {machine}: {'; '.join(problems)}")

    def _version(self) -> str | None:
        here = metadata.version("retinafocus")
        if here == self.version:
            return None
        return f"has RetinaFocus {here}, the command was started with {self.version}; install the same on all nodes"

    def _output(self) -> str | None:
        run = open_storage(self.output, self.storage)
        mend = f"mount the same folder on every node, or use s3:// or gs:// for -o ({self.output})"
        try:
            mark = json.loads(run.read(RUN_FILE)).get("mark")
        except (FileNotFoundError, NotADirectoryError):
            return f"does not see the run in {self.output}; {mend}"
        except OSError as error:
            return f"cannot read {self.output} ({error.strerror or error}); let it read and write there"
        except (ValueError, AttributeError):  # a file of that name that is no run's
            mark = None
        if self.mark not in (None, mark):
            return f"has another folder under the name {self.output}; {mend}"
        try:
            run.check_writable()
        except RunError as error:
            return f"sees the run and cannot write to it ({error})"
        return None

    def _photos(self) -> str | None:
        reasons = [self._reason(photo) for photo in self.photos]
        if not reasons or None in reasons:
            return None
        return (
            f"can read none of {len(reasons)} photos that were tried, {self.photos[0]} among them ({reasons[0]}); "
            "mount the photos there under the same path, or give the node the keys of their store"
        )

    def _reason(self, photo: str) -> str | None:
        """Why a photo cannot be read here."""
        try:
            read_start(photo, 1, self.storage)
        except OSError:  # for a moment, or else `read_photo` has the word for it
            try:
                read_photo(photo, self.storage)
            except PhotoError as words:
                return words.status
        except RetinaFocusError as error:
            return str(error)
        return None


def node_check(
    shards: list[dict[str, Any]], *, output: str, mark: str | None, storage: StorageConfig | None
) -> NodeCheck:
    """The check for a run that is about to begin or to go on.

    Args:
        shards: those to be done.
        output: the run's folder, with its manifest.
        mark: of the command, in `run.json`.
        storage: how object stores are reached.
    """
    return NodeCheck(
        version=metadata.version("retinafocus"),
        output=output,
        mark=mark,
        photos=tuple(_sample(open_storage(output, storage), shards)),
        storage=storage,
    )


def _sample(run: Storage, shards: list[dict[str, Any]]) -> list[str]:
    """URIs of a few photos that are to be looked at and had not vanished when they were listed."""
    sampled = _spread(shards, SAMPLED_SHARDS)
    photos: list[str] = []
    for row in sampled:
        listed = read_manifest(run, shard=row["shard"], columns=["uri", "vanished"]).to_pylist()
        there = [photo["uri"] for photo in listed if not photo["vanished"]]
        photos += _spread(there, SAMPLED_PHOTOS // len(sampled))
    return photos


def _spread(rows: list[_Row], count: int) -> list[_Row]:
    """So many of them, from the first on and evenly apart; all, where there are fewer."""
    return [rows[place * len(rows) // count] for place in range(count)] if len(rows) > count else rows
