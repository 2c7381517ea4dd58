"""START READING HERE: from a photo to its faces."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from retinafocus import cascade
from retinafocus.cascade import CascadeConfig, PhotoResult, PreparedPhoto
from retinafocus.engines import check_engine, check_precision, make_engine
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.faces import Faces
from retinafocus.focus.chips import tile_side
from retinafocus.models import RetinaFocus
from retinafocus.photos import MAX_PIXELS, read_bytes
from retinafocus.postprocessing import PostConfig
from retinafocus.weights import find_weights, load_model
from retinafocus.whole_looks import WholeLooks

Photo: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8]"
"""A path or URI, the encoded photo, or (H, W, 3) uint8 RGB pixels, upright."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """What to look for, and with what."""

    min_face: float = 20.0
    """The smallest face to find, sqrt(width * height) in pixels of the upright original photo. Halving it makes a
    photo four times as expensive."""

    score_threshold: float = 0.3
    """Faces from this probability on are kept. Show people those above the preset's display threshold; for
    evaluation use 0.02."""

    post: PostConfig = field(default_factory=PostConfig)
    """How candidates become faces."""

    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    """Where to look more closely."""

    whole_looks: WholeLooks | None = None
    """Look at each photo whole at chosen sizes, instead of the cascade: for results that can be compared with published
    ones. `min_face` then decides nothing; of `cascade` only `network_pixels` and `border` count."""

    max_pixels: int = MAX_PIXELS
    """Most pixels decoded at once. A larger photo is read in strips, where its format allows that in 16 bytes for each
    of these, and else refused as too_large."""

    device: str = "auto"
    """auto (cuda if usable, else cpu), cpu, cuda or cuda:N."""

    engine: str = "auto"
    """The library that runs the network: torch, openvino or onnx; auto takes openvino on a CPU where it is installed,
    else torch. The engines differ in the last digits of a score, so a run keeps to one."""

    precision: str = "float32"
    """Of weights and activations: float32; float16 and bfloat16 on CUDA only; int8 with OpenVINO on a CPU only, and
    with weights that say which numbers to expect (`retinafocus weights calibrate`)."""

    threads: int | None = None
    """CPU threads of the network and of resizing, for the whole process; None leaves the libraries' choice. Results
    are compared bit for bit only at one number of threads."""

    def __post_init__(self) -> None:
        if not 0 < self.min_face < float("inf"):
            raise SettingsError(f"min_face is {self.min_face} px; choose a size above 0")
        if not 0 <= self.score_threshold < 1:
            raise SettingsError(
                f"score_threshold is {self.score_threshold}; choose a probability of 0 or more, below 1"
            )
        if self.max_pixels < 1:
            raise SettingsError(f"max_pixels is {self.max_pixels}; choose at least 1")
        if self.whole_looks is not None:
            self._check_whole_looks(self.whole_looks)
        check_engine(self.engine)
        check_precision(self.precision, engine=self.engine)
        if self.threads is not None and self.threads < 1:
            raise SettingsError(f"threads is {self.threads}; choose at least 1, or None for the libraries' choice")

    def _check_whole_looks(self, looks: WholeLooks) -> None:
        if self.cascade.mode != "auto" or any(chips.threshold is not None for chips in self.cascade.chips):
            raise SettingsError("cascade.mode and cascade.chips have no effect beside whole_looks; leave them out")
        if looks.most_pixels > self.max_pixels:
            raise SettingsError(
                f"whole_looks.sides has a look of {looks.most_pixels} px, more than max_pixels ({self.max_pixels}); "
                "choose smaller sides or raise max_pixels"
            )


class Detector:
    """Finds every face in a photo.

        from retinafocus import Detector

        detector = Detector.from_pretrained("weights.safetensors")
        faces = detector.detect("holiday.jpg")

    `faces.boxes` are pixels of the upright original photo, best first. For many photos see `detect_batch`; to read
    ahead yourself, call `prepare` in threads and `look_many` where the network is.
    """

    def __init__(self, model: RetinaFocus, config: DetectorConfig | None = None) -> None:
        """Get ready to look.

        Args:
            model: from `weights.load_model`; it is copied.
            config: None for the defaults.

        Raises:
            SettingsError: the device is not usable here, or the settings contradict each other or the model.
        """
        self.config = DetectorConfig() if config is None else config
        self.engine = make_engine(
            model,
            name=self.config.engine,
            device=self.config.device,
            precision=self.config.precision,
            threads=self.config.threads,
        )
        self.preset = model.preset
        if self.config.threads is not None:
            cv2.setNumThreads(self.config.threads)
        # Settings that no photo can be planned with must stop a job before its first photo.
        self.config.cascade.plan((1, 1), self.config.min_face, self.preset)
        tile_side(self.config.cascade.network_pixels, self.config.cascade.tile_overlap(self.preset))
        floor = max(self.config.post.score_floor, self.config.score_threshold)
        self._post = dataclasses.replace(self.config.post, score_floor=floor)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str] | None = None, config: DetectorConfig | None = None
    ) -> Detector:
        """A detector with weights from a file.

        Args:
            name_or_path: a weights file, or a name `find_weights` knows; None for the default weights.
            config: None for the defaults.

        Raises:
            WeightsError: there is no such file, or it does not fit.
            SettingsError: as for `Detector`.
        """
        return cls(load_model(find_weights(None if name_or_path is None else os.fspath(name_or_path))), config)

    def detect(self, photo: Photo) -> Faces:
        """Find the faces of one photo.

        Args:
            photo: a path or URI, the encoded photo, or (H, W, 3) uint8 RGB pixels, upright.

        Raises:
            PhotoError: the photo cannot be read, decoded or looked at.
            SettingsError: it is of another kind.
        """
        try:
            return self.look(self.prepare(photo)).faces
        except PhotoError as error:
            raise _named(error, photo) from error

    def detect_batch(self, photos: Iterable[Photo]) -> list[Faces]:
        """Find the faces of many photos; the same as `detect` of each, but the next photo is decoded meanwhile.

        Args:
            photos: each as for `detect`; taken one by one, never more than two in memory.

        Returns:
            One `Faces` per photo, in order.

        Raises:
            PhotoError: of the first photo that cannot be looked at. A job that must go on calls `prepare` and `look`.
            SettingsError: a photo is of another kind.
        """
        found: list[Faces] = []
        with ThreadPoolExecutor(max_workers=1) as ahead:
            waiting: list[tuple[Photo, Future[PreparedPhoto]]] = []
            for photo in photos:
                waiting.append((photo, ahead.submit(self.prepare, photo)))
                if len(waiting) > 1:
                    found.append(self._finish(*waiting.pop(0)))
            found.extend(self._finish(*last) for last in waiting)
        return found

    def prepare(self, photo: Photo) -> PreparedPhoto:
        """Read, plan and decode one photo; needs no network, so many threads may call it.

        Raises:
            PhotoError: the photo cannot be read or decoded.
            SettingsError: it is of another kind.
        """
        return cascade.prepare(
            _encoded_or_pixels(photo),
            min_face=self.config.min_face,
            preset=self.preset,
            config=self.config.cascade,
            max_pixels=self.config.max_pixels,
            looks=self.config.whole_looks,
        )

    def look(self, prepared: PreparedPhoto) -> PhotoResult:
        """Find the faces of a prepared photo. One thread at a time.

        Raises:
            PhotoError: out_of_memory or model_error, or what decoding for a finer look met.
        """
        return cascade.look(prepared, self.engine, self.config.cascade, self._post)

    def look_many(self, prepared: Sequence[PreparedPhoto]) -> list[PhotoResult | PhotoError]:
        """The same for several photos side by side, for an engine that gains from batches: in order, each photo's
        result or what kept it from being looked at. One thread at a time."""
        return cascade.look_many(prepared, self.engine, self.config.cascade, self._post)

    def exhaustive_pixels(self, photo_size: tuple[int, int]) -> int:
        """What looking at every level of a photo of that (height, width) whole would cost, in pixels."""
        if self.config.whole_looks is not None:
            return self.config.whole_looks.plan(photo_size).pixels
        return self.config.cascade.exhaustive_pixels(photo_size, self.config.min_face, self.preset)

    def _finish(self, photo: Photo, prepared: Future[PreparedPhoto]) -> Faces:
        """The faces of a photo that is being prepared."""
        try:
            return self.look(prepared.result()).faces
        except PhotoError as error:
            raise _named(error, photo) from error


def _encoded_or_pixels(photo: Photo) -> bytes | NDArray[np.uint8]:
    """What a caller gave, as one of the two kinds the cascade takes."""
    if isinstance(photo, np.ndarray):
        return _checked_pixels(photo)
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return bytes(photo)
    if isinstance(photo, (str, os.PathLike)):
        return read_bytes(photo)
    raise SettingsError(
        f"a photo of type {type(photo).__name__}; give a path, a URI, the encoded bytes, or a uint8 RGB array (H, W, 3)"
    )


def _checked_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same array, if it is a picture."""
    if pixels.dtype != np.uint8:
        raise SettingsError(f"a photo of dtype {pixels.dtype}; give uint8, 0..255 (floats 0..1: multiply by 255 first)")
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SettingsError(
            f"a photo of shape {pixels.shape}; give (height, width, 3) in RGB order (from cv2: pixels[:, :, ::-1])"
        )
    if 0 in pixels.shape:
        raise SettingsError(f"a photo of shape {pixels.shape}; height and width must be at least 1")
    return pixels


def _named(error: PhotoError, photo: Photo) -> PhotoError:
    """The error with the photo's name before the reason, where it has a name."""
    if not isinstance(photo, (str, os.PathLike)):
        return error
    return PhotoError(error.status, f"{os.fspath(photo)}: {error.reason}")
