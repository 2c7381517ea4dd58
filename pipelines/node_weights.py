"""A run's weights on a machine that need not see the file: fetched once for each machine, kept by their hash.

From an object store to the machine of the command, and from there to the nodes of a cluster.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retinafocus.errors import WeightsError
from retinafocus.storage import OBJECT_SCHEMES, StorageConfig, open_storage, split_uri, uri_scheme
from retinafocus.weights import find_weights


@dataclass(frozen=True, kw_only=True)
class NodeWeights:
    """Where a machine's workers get the weights; travels to every worker."""

    sha256: str
    """Of the file's bytes: the same tensors with another preset in their metadata are other weights."""

    fetch: Callable[[], bytes]
    """Brings the file's bytes from wherever the command put them."""

    def path(self) -> Path:
        """The file on this machine, fetched if no worker did so before.

        Raises:
            WeightsError: it cannot be kept here, or what came is something else.
        """
        try:
            return self._path()
        except OSError as error:
            raise WeightsError(
                f"{cache_folder()}: the weights cannot be kept there ({error.strerror or error}); make room, or set "
                "TMPDIR where Ray is started on that machine"
            ) from error

    def _path(self) -> Path:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = folder / f"{self.sha256}.safetensors"
        with open(folder / f"{self.sha256}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the machine's other workers wait for this one instead of fetching too
            for left in folder.glob(f"{self.sha256}.*.part"):  # by workers that were killed: nobody else is at it now
                left.unlink()
            if not kept.is_file() or _sha256(kept.read_bytes()) != self.sha256:
                data = self.fetch()
                if _sha256(data) != self.sha256:
                    raise WeightsError(f"the weights came with hash {_sha256(data)[:12]}, {self.sha256[:12]} were sent")
                _put(kept, data)
        return kept


def weights_here(name: str | None, config: StorageConfig) -> Path:
    """The weights of a command as a file on this machine.

    Args:
        name: of weights that ship, a path, or the URI of an object, which is fetched; None takes those that ship.
        config: how object stores are reached.

    Raises:
        WeightsError: there is no such file or object, or it cannot be read.
    """
    if name is None or uri_scheme(name) not in OBJECT_SCHEMES:
        return find_weights(name)
    scheme, bucket, key = split_uri(name)
    try:
        data = open_storage(f"{scheme}://{bucket}", config).read(key)
    except OSError as error:
        reason = "there is no such object" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise WeightsError(f"{name}: the weights cannot be read ({reason}); check the address and the keys") from error
    return NodeWeights(sha256=_sha256(data), fetch=lambda: data).path()


def node_weights(path: str | os.PathLike[str], share: Callable[[bytes], Callable[[], bytes]]) -> NodeWeights:
    """Weights for other machines, from their file on this one.

    Args:
        path: of the file.
        share: puts the bytes where all machines get at them; returns what fetches them.
    """
    data = Path(path).read_bytes()
    return NodeWeights(sha256=_sha256(data), fetch=share(data))


def cache_folder() -> Path:
    """Where this machine keeps the weights of runs: the user's own, in the folder for temporary files. A home folder
    may be missing in a container, and be one for all machines elsewhere."""
    return Path(tempfile.gettempdir()) / f"retinafocus-weights-{os.getuid()}"


def _put(final: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=final.parent, prefix=f"{final.stem}.", suffix=".part", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.replace(file.name, final)
        except BaseException:
            os.unlink(file.name)
            raise


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
