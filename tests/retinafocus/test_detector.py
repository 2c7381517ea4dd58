"""The front door: what it takes, what it refuses, and what it promises."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision

from retinafocus import Detector, DetectorConfig, Faces, PhotoError, PostConfig, SettingsError, WeightsError
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.photos import decode
from retinafocus.weights import import_published, load_model, save_model


def random_model(seed: int = 5) -> RetinaFocus:
    torch.manual_seed(seed)
    # The band is fixed here, because it decides the levels that the tests count.
    return RetinaFocus(dataclasses.replace(get_preset("mobile025"), face_range=(12.0, 400.0))).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(height: int, width: int, seed: int = 0) -> bytes:
    return cv2.imencode(".jpg", picture(height, width, seed)[:, :, ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Random weights say "perhaps" everywhere: thousands of candidates on any photo, nearly all above 0.3."""
    return Detector(random_model())


def test_random_weights_find_something_to_compare(detector: Detector) -> None:
    assert len(detector.detect(jpeg(300, 420))) > 50


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda path: path, id="path"),
        pytest.param(str, id="text"),
        pytest.param(lambda path: path.as_uri(), id="uri"),
        pytest.param(lambda path: path.read_bytes(), id="bytes"),
        pytest.param(lambda path: bytearray(path.read_bytes()), id="bytearray"),
        pytest.param(lambda path: memoryview(path.read_bytes()), id="memoryview"),
        pytest.param(lambda path: decode(path.read_bytes()), id="pixels"),
    ],
)
def test_a_photo_may_be_given_in_any_form(detector: Detector, tmp_path: Path, given: Callable[[Path], Any]) -> None:
    path = tmp_path / "a photo.jpg"
    path.write_bytes(jpeg(120, 90))
    assert detector.detect(given(path)) == detector.detect(path.read_bytes())


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        pytest.param(np.zeros((4, 4, 3)), "a photo of dtype float64; give uint8", id="floats"),
        pytest.param(
            np.zeros((4, 4), np.uint8), r"a photo of shape \(4, 4\); give \(height, width, 3\) in RGB", id="grey"
        ),
        pytest.param(
            np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\); .*from cv2: pixels\[:, :, ::-1\]", id="planes"
        ),
        pytest.param(np.zeros((4, 4, 4), np.uint8), r"a photo of shape \(4, 4, 4\)", id="with alpha"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "height and width must be at least 1", id="no rows"),
        pytest.param(np.zeros((4, 0, 3), np.uint8), "height and width must be at least 1", id="no columns"),
        pytest.param(
            17, "a photo of type int; give a path, a URI, the encoded bytes, or a uint8 RGB array", id="number"
        ),
        pytest.param(None, "a photo of type NoneType", id="nothing"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(detector: Detector, photo: Any, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        detector.detect(photo)


def test_error_of_a_file_names_it_and_that_of_bytes_cannot(detector: Detector, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.jpg"
    with pytest.raises(PhotoError) as caught:
        detector.detect(missing)
    assert caught.value.status == "not_found"
    assert caught.value.reason.startswith(f"{missing}: ")
    with pytest.raises(PhotoError, match=r"^the file is empty; copy it again$"):
        detector.detect(b"")


def test_prepare_and_look_are_detect(detector: Detector) -> None:
    data = jpeg(300, 420)
    result = detector.look(detector.prepare(data))
    assert result.faces == detector.detect(data)
    assert result.pixels_processed == result.plan.pixels == 300 * 420
    assert result.header is not None
    assert (result.header.height, result.header.width) == (300, 420)


def test_answer_is_the_same_bit_for_bit_in_any_company(detector: Detector) -> None:
    photos = [jpeg(300, 420), jpeg(33, 57, 1), jpeg(1, 1, 2), jpeg(901, 503, 3)]
    alone = [detector.detect(photo) for photo in photos]
    assert len({faces.boxes.tobytes() for faces in alone}) == 4
    for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 7):
        assert detector.detect_batch(photos[index] for index in order) == [alone[index] for index in order]
    assert Detector(random_model()).detect(photos[0]) == alone[0]


def test_no_photos_are_no_answers(detector: Detector) -> None:
    assert detector.detect_batch([]) == []


def test_batch_stops_at_the_photo_that_cannot_be_looked_at(detector: Detector, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(jpeg(300, 300)[:1500])
    with pytest.raises(PhotoError, match=r"broken\.jpg: the JPEG data ends before the picture does"):
        detector.detect_batch([jpeg(20, 20), broken, jpeg(20, 20)])


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (7, 9)], ids=str)
def test_tiny_photos_have_their_faces_inside(detector: Detector, size: tuple[int, int]) -> None:
    height, width = size
    boxes = detector.detect(picture(height, width)).boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_threshold_only_removes_what_is_below_it() -> None:
    low = Detector(random_model(), DetectorConfig(score_threshold=0.02)).detect(jpeg(300, 420))
    middle = float(np.median(low.scores))
    high = Detector(random_model(), DetectorConfig(score_threshold=middle)).detect(jpeg(300, 420))
    assert 0 < len(high) < len(low)
    assert high == low.above(middle)


def test_candidate_floor_above_the_threshold_wins() -> None:
    config = DetectorConfig(score_threshold=0.02, post=PostConfig(score_floor=0.6))
    assert (Detector(random_model(), config).detect(jpeg(300, 420)).scores >= np.float32(0.6)).all()


def test_half_the_smallest_face_is_four_times_the_pixels() -> None:
    pixels = [
        Detector(random_model(), DetectorConfig(min_face=min_face)).look(
            Detector(random_model(), DetectorConfig(min_face=min_face)).prepare(picture(64, 96))
        )
        for min_face in (20, 10)
    ]
    assert pixels[1].pixels_processed == 4 * pixels[0].pixels_processed


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(PhotoError, match="raise max_pixels") as caught:
        Detector(random_model(), DetectorConfig(max_pixels=99)).detect(jpeg(10, 10))
    assert caught.value.status == "too_large"


def test_threads_are_set_for_network_and_resizing() -> None:
    before = (torch.get_num_threads(), cv2.getNumThreads())
    try:
        Detector(random_model(), DetectorConfig(threads=1))
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        pytest.param("min_face", 0, "min_face is 0 px; choose a size above 0", id="min_face"),
        pytest.param("min_face", math.nan, "min_face is nan px", id="min_face nan"),
        pytest.param(
            "score_threshold", 1, "score_threshold is 1; choose a probability of 0 or more, below 1", id="score"
        ),
        pytest.param("max_pixels", 0, "max_pixels is 0; choose at least 1", id="max_pixels"),
        pytest.param("precision", "float8", "precision is 'float8'; choose one of float32", id="precision"),
        pytest.param("threads", 0, "threads is 0; choose at least 1", id="threads"),
    ],
)
def test_wrong_settings_say_the_rule_and_the_value(field: str, value: Any, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        DetectorConfig(**{field: value})


def test_band_that_no_plan_can_use_stops_before_the_first_photo() -> None:
    model = random_model()
    model.preset = dataclasses.replace(model.preset, face_range=(20.0, 30.0))
    with pytest.raises(SettingsError, match=r"face_range is \(20.0, 30.0\) px; .* at least 2 x low"):
        Detector(model)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "random.safetensors"
    save_model(random_model(), path, licence="test", source="test")
    wanted = Detector(random_model()).detect(jpeg(100, 100))
    assert Detector.from_pretrained(path).detect(jpeg(100, 100)) == wanted
    assert Detector.from_pretrained(str(path), DetectorConfig(min_face=40)).config.min_face == 40


def test_missing_weights_are_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        Detector.from_pretrained(tmp_path / "none.safetensors")


@pytest.fixture(scope="session")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "published.safetensors"
    import_published(shared_data / "models" / "mobilenet0.25_Final.pth", "mobilenet025-1mb", path)
    return path


@pytest.mark.shared
def test_real_photo_gives_what_a_plain_decode_of_the_raw_outputs_gives(shared_data: Path, published: Path) -> None:
    compared = 0
    model = load_model(published)
    model.preset = dataclasses.replace(model.preset, face_range=(20.0, 1000.0))  # one level for any of these
    detector = Detector(model, DetectorConfig(score_threshold=0.02))
    for path in sorted((shared_data / "faces" / "val" / "images" / "maksssksksss").glob("*.jpg"))[:6]:
        pixels = decode(path.read_bytes())
        faces = detector.detect(path)
        assert faces.levels.tolist() == [0] * len(faces)
        wanted = plain_detect(model, pixels)
        assert len(faces) == len(wanted)
        assert faces.scores == pytest.approx(wanted.scores, abs=1e-4)
        assert faces.boxes == pytest.approx(wanted.boxes, abs=0.02)
        assert faces.landmarks == pytest.approx(wanted.landmarks, abs=0.02)
        compared += len(faces.above(0.5))
    assert compared >= 5


def plain_detect(model: RetinaFocus, pixels: np.ndarray) -> Faces:
    """One scale, written out by hand from the published description: anchors 10/20, 32/64, 128/256."""
    height, width = pixels.shape[:2]
    with torch.inference_mode():
        logits, deltas, points, _ = model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    scores = torch.softmax(logits[0], dim=1)[:, 1].tolist()
    boxes, landmarks, kept = [], [], []
    number = 0
    for stride, sizes in ((8, (10, 20)), (16, (32, 64)), (32, (128, 256))):
        cells = itertools.product(range(math.ceil(height / stride)), range(math.ceil(width / stride)), sizes)
        for row, column, side in cells:
            if scores[number] >= 0.02:
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                dx, dy, dw, dh = deltas[0, number].tolist()
                x_mid, y_mid = x + 0.1 * dx * side, y + 0.1 * dy * side
                w, h = side * math.exp(0.2 * dw), side * math.exp(0.2 * dh)
                box = [x_mid - w / 2, y_mid - h / 2, x_mid + w / 2, y_mid + h / 2]
                boxes.append(np.clip(box, 0, [width, height, width, height]))
                offsets = np.array(points[0, number].tolist()).reshape(5, 2)
                landmarks.append(np.array([x, y]) + 0.1 * side * offsets)
                kept.append(scores[number])
            number += 1
    table = np.array(boxes, np.float32)
    best = torchvision.ops.nms(torch.from_numpy(table), torch.tensor(kept), 0.4).numpy()
    return Faces(table[best], np.array(kept)[best], np.array(landmarks)[best], np.zeros(len(best)))


@pytest.mark.shared
def test_faces_of_a_real_photo_are_found_at_any_size(shared_data: Path, published: Path) -> None:
    """A photo enlarged four times has the same faces when those of four times the size are wanted."""
    path = sorted((shared_data / "faces" / "val" / "images" / "maksssksksss").glob("*.jpg"))[0]
    pixels = decode(path.read_bytes())
    large = cv2.resize(pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    small_faces = Detector.from_pretrained(published, DetectorConfig(score_threshold=0.8)).detect(pixels)
    large_faces = Detector.from_pretrained(published, DetectorConfig(score_threshold=0.5, min_face=80)).detect(large)
    assert len(small_faces) > 0
    overlaps = torchvision.ops.box_iou(torch.from_numpy(small_faces.boxes * 4), torch.from_numpy(large_faces.boxes))
    assert (overlaps.max(dim=1).values > 0.6).all()
