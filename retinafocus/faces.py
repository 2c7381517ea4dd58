"""What one photo's answer looks like: the faces in memory, and the columns of the tables a job writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Raised by one whenever a column is added, removed, or changes its type or meaning.
SCHEMA_VERSION = 2

# As seen in the picture: "left" is the side with the smaller x. The order of the published weights.
LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")

# Their order in a mirrored picture: left and right are as seen, so they swap.
MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)

# Each column of each table, said once; the documentation prints this. A name means the same in every table.
FIELD_MEANINGS = {
    "image_id": "stable hash of the photo's path below the archive's root; joins the three tables",
    "uri": "where the photo was read from",
    "face": "number of the face within its photo, from 0, best score first",
    "score": "the network's probability that this is a face, 0..1",
    "x1": "left edge of the box, in pixels of the upright original photo",
    "y1": "top edge of the box, in pixels of the upright original photo",
    "x2": "right edge of the box (exclusive), in pixels of the upright original photo",
    "y2": "bottom edge of the box (exclusive), in pixels of the upright original photo",
    "landmarks": (
        "five points as x,y pairs in pixels of the upright original photo: left eye, right eye, nose, left mouth "
        "corner, right mouth corner, left and right as seen in the picture; a point of a face that is cut by the "
        "photo's border may lie outside the photo"
    ),
    "level": "the scale the face was found at: 0 is the coarsest that was looked at",
    "shard": "the part of the inventory the photo belongs to",
    "status": "ok: looked at; any other value: not looked at, and why",
    "error": "what is wrong with the photo and what to do; null where status is ok",
    "width": "width of the upright original photo in pixels; null where the header could not be read",
    "height": "height of the upright original photo in pixels; null where the header could not be read",
    "orientation": "EXIF orientation 1..8 as stored (1 where the photo has none); null where the header was not read",
    "taken_at": "when the photo was taken, as the camera wrote it, without a time zone; null where it does not say",
    "bytes": "size of the encoded photo; null where it is not known",
    "modified": "when the storage says the photo was last changed; null where it does not say",
    "faces": "how many faces were found; 0: looked, there is none; null: not looked",
    "pixels_processed": "pixels that went through the network, over all scales",
    "attempt": "the attempt at the shard that produced this row",
    "worker": "the process that looked at the photo",
    "ms_read": "milliseconds spent reading the encoded photo",
    "ms_decode": "milliseconds spent turning it into pixels at every scale",
    "ms_network": "milliseconds spent in the network",
    "ms_other": "milliseconds spent on the rest: candidates to boxes, merging of scales",
    "pixels_planned": "pixels the network would have seen if every scale had been looked at whole",
    "chips": "chips of finer scales that were looked at",
    "chip_pixels": "pixels of those chips",
    "chip_pixels_asked": "how many of those pixels the focus map had asked for",
}


def _schema(**fields: pa.DataType) -> pa.Schema:
    """A schema of columns that are never null, with the schema version in its metadata."""
    columns = [pa.field(name, kind, nullable=False) for name, kind in fields.items()]
    return pa.schema(columns, metadata={"retinafocus.schema_version": str(SCHEMA_VERSION)})


def _with_nullable(schema: pa.Schema, *names: str) -> pa.Schema:
    """The same schema, with the named columns allowed to be null."""
    for name in names:
        position = schema.get_field_index(name)
        schema = schema.set(position, schema.field(position).with_nullable(True))
    return schema


FACES_SCHEMA: pa.Schema = _schema(
    image_id=pa.string(),
    uri=pa.string(),
    face=pa.int32(),
    score=pa.float32(),
    x1=pa.float32(),
    y1=pa.float32(),
    x2=pa.float32(),
    y2=pa.float32(),
    landmarks=pa.list_(pa.float32(), 2 * len(LANDMARK_NAMES)),
    level=pa.int16(),
    shard=pa.int32(),
)
"""One row per face."""

IMAGES_SCHEMA: pa.Schema = _with_nullable(
    _schema(
        image_id=pa.string(),
        uri=pa.string(),
        status=pa.string(),
        error=pa.string(),
        width=pa.int32(),
        height=pa.int32(),
        orientation=pa.int8(),
        taken_at=pa.timestamp("ms"),  # cameras write whole seconds, but Parquet has no type for those
        bytes=pa.int64(),
        modified=pa.timestamp("us", tz="UTC"),
        faces=pa.int32(),
        pixels_processed=pa.int64(),
        shard=pa.int32(),
    ),
    "error",
    "width",
    "height",
    "orientation",
    "taken_at",
    "bytes",
    "modified",
    "faces",
)
"""One row per listed photo, looked at or not."""

TIMING_SCHEMA: pa.Schema = _schema(
    image_id=pa.string(),
    shard=pa.int32(),
    attempt=pa.string(),
    worker=pa.string(),
    ms_read=pa.float32(),
    ms_decode=pa.float32(),
    ms_network=pa.float32(),
    ms_other=pa.float32(),
    pixels_planned=pa.int64(),
    chips=pa.int32(),
    chip_pixels=pa.int64(),
    chip_pixels_asked=pa.int64(),
)
"""One row per photo; a step that was not reached took 0 ms. Differs from run to run and is never compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The faces of one photo, best score first; N may be 0.

    All coordinates are pixels of the upright original photo. Arrays of another float type are converted.

    Raises:
        ValueError: the arrays do not belong together.
    """

    boxes: NDArray[np.float32]
    """(N, 4) float32; xyxy, x2 and y2 exclusive, inside the photo."""

    scores: NDArray[np.float32]
    """(N,) float32; probability that this is a face, 0..1, never rising."""

    landmarks: NDArray[np.float32]
    """(N, 5, 2) float32; x,y of `LANDMARK_NAMES`. Points of a face cut by the border may lie outside the photo."""

    levels: NDArray[np.int16]
    """(N,) int16; the scale each face was found at, 0 is the coarsest."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("boxes", np.float32),
            ("scores", np.float32),
            ("landmarks", np.float32),
            ("levels", np.int16),
        ):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        shapes = (self.boxes.shape, self.scores.shape, self.landmarks.shape, self.levels.shape)
        count = self.scores.size
        if shapes != ((count, 4), (count,), (count, len(LANDMARK_NAMES), 2), (count,)):
            raise ValueError(f"boxes, scores, landmarks, levels are {shapes}; want (N, 4), (N,), (N, 5, 2), (N,)")

    @classmethod
    def empty(cls) -> Faces:
        """No faces."""
        none = np.zeros(0, np.float32)
        return cls(none.reshape(0, 4), none, none.reshape(0, len(LANDMARK_NAMES), 2), np.zeros(0, np.int16))

    def __len__(self) -> int:
        return int(self.scores.size)

    def __getitem__(self, chosen: int | slice | NDArray[Any]) -> Faces:
        """The chosen faces, as Faces: one (by number), a slice, a mask of N booleans, or an array of numbers.

        Raises:
            IndexError: there is no such face.
        """
        if isinstance(chosen, (int, np.integer)):
            chosen = np.array([chosen])
        return Faces(self.boxes[chosen], self.scores[chosen], self.landmarks[chosen], self.levels[chosen])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One dict of plain numbers per face: box [x1, y1, x2, y2], score, landmarks {name: [x, y]}, level."""
        for box, score, points, level in zip(self.boxes, self.scores, self.landmarks, self.levels, strict=True):
            landmarks = dict(zip(LANDMARK_NAMES, points.tolist(), strict=True))
            yield {"box": box.tolist(), "score": float(score), "landmarks": landmarks, "level": int(level)}

    def __eq__(self, other: object) -> bool:
        """Equal bit for bit: the promise between two runs."""
        if not isinstance(other, Faces):
            return NotImplemented
        return all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes()
            for name in ("boxes", "scores", "landmarks", "levels")
        )

    __hash__ = None  # type: ignore[assignment]  # the arrays can be written to

    def __repr__(self) -> str:
        best = f", best score {self.scores[0]:.2f}" if len(self) else ""
        return f"Faces({len(self)}{best})"

    def above(self, threshold: float) -> Faces:
        """The faces with a score of at least `threshold`."""
        return self[self.scores >= np.float32(threshold)]

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Faces:
        """Rows of one photo in the faces table, as Faces; the inverse of `to_arrow`.

        Args:
            table: rows of FACES_SCHEMA with one `image_id`, in the order of `face`.
        """
        boxes = np.stack([table.column(edge).to_numpy() for edge in ("x1", "y1", "x2", "y2")], axis=1)
        points: Any = table.column("landmarks").combine_chunks()
        landmarks = points.flatten().to_numpy().reshape(-1, len(LANDMARK_NAMES), 2)
        return cls(boxes, table.column("score").to_numpy(), landmarks, table.column("level").to_numpy())

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, ready for JSON: {"faces": [one dict as in iteration, ...]}."""
        return {"faces": list(self)}

    def to_arrow(self, *, image_id: str = "", uri: str = "", shard: int = 0) -> pa.Table:
        """The rows of the faces table, always in FACES_SCHEMA, also for no faces.

        Args:
            image_id: the photo's identity.
            uri: where the photo was read from.
            shard: the part of the inventory it belongs to.
        """
        count = len(self)
        edges = [pa.array(np.ascontiguousarray(self.boxes[:, edge])) for edge in range(4)]
        columns: list[Any] = [
            pa.array([image_id] * count, pa.string()),
            pa.array([uri] * count, pa.string()),
            pa.array(np.arange(count, dtype=np.int32)),
            pa.array(self.scores),
            *edges,
            pa.FixedSizeListArray.from_arrays(pa.array(self.landmarks.reshape(-1)), 2 * len(LANDMARK_NAMES)),
            pa.array(self.levels),
            pa.array(np.full(count, shard, np.int32)),
        ]
        return pa.Table.from_arrays(columns, schema=FACES_SCHEMA)
