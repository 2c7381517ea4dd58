"""Looking at whole photos at chosen sizes, with a network of random numbers, against the same worked out in steps."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from retinafocus import cascade
from retinafocus.boxes import clip_boxes
from retinafocus.cascade import CascadeConfig
from retinafocus.detector import Detector, DetectorConfig
from retinafocus.engines import TorchEngine
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.faces import Faces
from retinafocus.focus.chips import ChipConfig
from retinafocus.models import RetinaFocus, get_preset
from retinafocus.nms import nms
from retinafocus.postprocessing import Candidates, PostConfig, find_candidates
from retinafocus.sources import ResizedPhoto
from retinafocus.streams import StreamedPhoto
from retinafocus.voting import Voting
from retinafocus.whole_looks import PUBLISHED_LOOKS, WholeLooks

SIZE = (150, 201)
# The network of random numbers takes one anchor in ten for a face from here on.
FLOOR = 0.94
SWAPPED = [1, 0, 2, 4, 3]


@pytest.fixture(scope="module")
def model() -> RetinaFocus:
    """Random numbers that are large enough for the answer to depend on the picture."""
    torch.manual_seed(7)
    model = RetinaFocus(get_preset("mobilenet025-1mb"))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for heads, share in ((model.class_heads, 0.03), (model.box_heads, 0.05), (model.landmark_heads, 0.05)):
        for head in heads:
            head.weight.data.mul_(share)
    return model


def detector(model: RetinaFocus, looks: WholeLooks, **settings: object) -> Detector:
    config = DetectorConfig(whole_looks=looks, device="cpu", engine="torch", score_threshold=FLOOR, **settings)  # type: ignore[arg-type]
    return Detector(model, config)


def photo(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95, subsampling=0)
    return file.getvalue()


def mirrored(faces: Faces, width: int) -> Faces:
    boxes, landmarks = faces.boxes[:, [2, 1, 0, 3]].copy(), faces.landmarks[:, SWAPPED].copy()
    boxes[:, ::2] = width - boxes[:, ::2]
    landmarks[..., 0] = width - landmarks[..., 0]
    return Faces(boxes, faces.scores, landmarks, faces.levels)


class TestPlan:
    @pytest.mark.parametrize(
        ("size", "wanted"),
        [
            pytest.param((600, 800), (1600, 2133), id="small: the shorter side decides"),
            pytest.param((1080, 1920), (1209, 2150), id="wide: the longer side decides"),
            pytest.param((1920, 1080), (2150, 1209), id="high"),
            pytest.param((4000, 6000), (1433, 2150), id="large photos shrink"),
            pytest.param((1, 1), (1600, 1600), id="one pixel"),
            pytest.param((1, 60_000), (1, 2150), id="thread"),
        ],
    )
    def test_single_look_has_the_published_size(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        (level,) = PUBLISHED_LOOKS["single"].plan(size).levels
        assert level.size == wanted
        assert level.ratio == pytest.approx((size[0] / wanted[0], size[1] / wanted[1]))

    def test_published_sizes_of_the_pyramid_are_looked_at_plain_and_mirrored(self) -> None:
        plan = PUBLISHED_LOOKS["multiscale"].plan((600, 800))
        assert [level.size for level in plan.levels[::2]] == [
            (500, 667), (800, 1067), (1100, 1467), (1400, 1867), (1700, 2267)
        ]  # fmt: skip
        assert [level.size for level in plan.levels[1::2]] == [level.size for level in plan.levels[::2]]
        assert [level.mirrored for level in plan.levels] == [False, True] * 5
        assert [level.index for level in plan.levels] == list(range(10))
        assert plan.whole == 10

    def test_pyramid_of_a_wide_photo_is_capped_at_every_size(self) -> None:
        longest = [max(level.size) for level in PUBLISHED_LOOKS["multiscale"].plan((500, 2000)).levels[::2]]
        assert longest == [750, 1200, 1650, 2100, 2550]

    def test_sizes_are_taken_from_coarse_to_fine(self) -> None:
        plan = WholeLooks(sides=((300, 400), (100, 200))).plan((100, 100))
        assert [level.scale for level in plan.levels] == [1, 3]

    @pytest.mark.parametrize("name", ["original", "flip"])
    def test_without_sizes_the_photo_is_looked_at_as_it_is(self, name: str) -> None:
        levels = PUBLISHED_LOOKS[name].plan((31, 5000)).levels
        assert [(level.size, level.scale) for level in levels] == [((31, 5000), 1)] * (2 if name == "flip" else 1)


class TestSettings:
    @pytest.mark.parametrize("sides", [((0, 10),), ((20, 10),)], ids=str)
    def test_impossible_sides_are_refused(self, sides: tuple[tuple[int, int], ...]) -> None:
        with pytest.raises(SettingsError, match="choose a shorter side of at least 1 px"):
            WholeLooks(sides=sides)

    def test_size_named_twice_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="name each size once"):
            WholeLooks(sides=((10, 20), (10, 20)))

    @pytest.mark.parametrize(
        "config",
        [CascadeConfig(mode="exhaustive"), CascadeConfig(chips=(ChipConfig(threshold=0.5),))],
        ids=["mode", "chips"],
    )
    def test_settings_of_the_cascade_beside_it_are_refused(self, config: CascadeConfig) -> None:
        with pytest.raises(SettingsError, match="no effect beside whole_looks"):
            DetectorConfig(whole_looks=WholeLooks(), cascade=config)

    def test_looks_of_more_pixels_than_are_decoded_at_once_are_refused(self) -> None:
        with pytest.raises(SettingsError, match="raise max_pixels"):
            DetectorConfig(whole_looks=WholeLooks(sides=((1000, 1001),)), max_pixels=1_000_000)

    def test_words_say_what_is_looked_at(self) -> None:
        assert str(PUBLISHED_LOOKS["flip"]) == "whole photos at their own size, each also mirrored"
        assert str(PUBLISHED_LOOKS["single"]) == "whole photos, shorter side 1600 px (at most 2150)"
        assert str(PUBLISHED_LOOKS["multiscale"]).endswith("1700 px (at most 2550), each also mirrored, voted")


class TestAnswer:
    @pytest.mark.parametrize("sides", [(), ((150, 300),), ((97, 400),), ((330, 340),)], ids=str)
    def test_one_size_gives_what_looking_at_the_resized_photo_gives(
        self, model: RetinaFocus, sides: tuple[tuple[int, int], ...]
    ) -> None:
        scale = min(sides[0][0] / SIZE[0], sides[0][1] / SIZE[1]) if sides else 1
        size = round(SIZE[0] * scale), round(SIZE[1] * scale)
        method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        pixels = np.asarray(cv2.resize(photo(), size[::-1], interpolation=method), np.uint8)
        post = PostConfig(score_floor=FLOOR)
        found = find_candidates(TorchEngine(model).run(pixels[None]), size, model.preset, post)
        ratio = np.array([SIZE[1] / size[1], SIZE[0] / size[0]] * 2, np.float32)
        boxes = clip_boxes(torch.from_numpy(found.boxes * ratio), SIZE)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, scores = boxes[inside], torch.from_numpy(found.scores)[inside]
        kept = nms(boxes, scores, post.nms_iou)
        faces = detector(model, WholeLooks(sides=sides)).detect(photo())
        assert len(faces) == len(kept) > 10
        assert faces.scores.tolist() == scores[kept].tolist()
        assert faces.boxes == pytest.approx(boxes[kept].numpy(), abs=1e-3)

    @pytest.mark.parametrize("voting", [None, Voting(), Voting(keep_alone=True)], ids=["best", "voted", "all voted"])
    def test_mirrored_photo_gives_the_mirrored_answer(self, model: RetinaFocus, voting: Voting | None) -> None:
        looking = detector(model, WholeLooks(mirrored=True, voting=voting))
        faces, again = looking.detect(photo()), looking.detect(np.ascontiguousarray(photo()[:, ::-1]))
        turned = mirrored(again, SIZE[1])
        assert len(faces) > 20
        assert turned.scores.tolist() == faces.scores.tolist()
        assert turned.boxes == pytest.approx(faces.boxes, abs=1e-2)
        assert turned.landmarks == pytest.approx(faces.landmarks, abs=1e-2)

    def test_faces_of_the_mirrored_look_are_those_of_the_mirror_turned_back(self, model: RetinaFocus) -> None:
        reflected = np.ascontiguousarray(photo()[:, ::-1])
        found = find_candidates(TorchEngine(model).run(reflected[None]), SIZE, model.preset, PostConfig())
        faces = detector(model, PUBLISHED_LOOKS["flip"]).detect(photo())
        of_mirror = faces[faces.levels == 1]
        assert 0 < len(of_mirror) < len(faces)
        for score, box, landmarks in zip(of_mirror.scores, of_mirror.boxes, of_mirror.landmarks, strict=True):
            (number,) = np.flatnonzero(found.scores == score)
            left, top, right, bottom = found.boxes[number]
            turned = np.clip([SIZE[1] - right, top, SIZE[1] - left, bottom], 0, [SIZE[1], SIZE[0]] * 2)
            assert box == pytest.approx(turned, abs=1e-3)
            # The eye that is left in the mirror is right in the photo.
            assert landmarks[1] == pytest.approx(
                np.array([SIZE[1], 0]) + [-1, 1] * found.landmarks[number, 0], abs=1e-3
            )
            assert landmarks[3] == pytest.approx(
                np.array([SIZE[1], 0]) + [-1, 1] * found.landmarks[number, 4], abs=1e-3
            )

    def test_voting_on_one_look_unites_its_candidates(self, model: RetinaFocus) -> None:
        alone = detector(model, WholeLooks(voting=Voting(keep_alone=True))).detect(photo())
        published = detector(model, WholeLooks(voting=Voting())).detect(photo())
        assert 0 < len(published) < len(alone)
        assert set(published.scores.tolist()) < set(alone.scores.tolist())
        assert (published.boxes >= 0).all()
        assert (published.boxes <= np.array([SIZE[1], SIZE[0]] * 2)).all()

    def test_boxes_below_the_score_threshold_have_no_vote(self, model: RetinaFocus) -> None:
        looks = WholeLooks(voting=Voting())
        every = detector(model, looks).detect(photo())
        config = DetectorConfig(whole_looks=looks, device="cpu", engine="torch", score_threshold=0.97)
        sure = Detector(model, config).detect(photo())
        assert len(sure) > 0
        assert set(sure.scores.tolist()) < set(every.above(0.97).scores.tolist())

    def test_most_faces_kept_holds_for_voting_too(self, model: RetinaFocus) -> None:
        looks = WholeLooks(voting=Voting())
        every = detector(model, looks).detect(photo())
        assert detector(model, looks, post=PostConfig(keep_top_k=3)).detect(photo()) == every[:3]

    def test_photo_does_not_depend_on_those_beside_it(self, model: RetinaFocus) -> None:
        looking = detector(model, WholeLooks(sides=((90, 120), (180, 240)), mirrored=True, voting=Voting()))
        photos = [photo(seed, (100 + 20 * seed, 140)) for seed in range(3)]
        together = looking.look_many([looking.prepare(each) for each in [*photos, photos[0]]])
        for each, result in zip([*photos, photos[0]], together, strict=True):
            assert not isinstance(result, PhotoError)
            assert result.faces == looking.detect(each)

    def test_levels_of_the_faces_count_the_looks(self, model: RetinaFocus) -> None:
        result = detector(model, WholeLooks(sides=((75, 500), (150, 500)), mirrored=True))
        answer = result.look(result.prepare(photo()))
        assert set(answer.faces.levels.tolist()) == {0, 1, 2, 3}
        assert answer.pixels_processed == 2 * (75 * 100 + 150 * 201) == result.exhaustive_pixels(SIZE)
        assert (answer.chips, answer.focus_share) == (0, 1)

    def test_one_pixel_and_nothing_found(self, model: RetinaFocus) -> None:
        for looks in (WholeLooks(mirrored=True), WholeLooks(voting=Voting())):
            faces = detector(model, looks, post=PostConfig(score_floor=0.99)).detect(np.zeros((1, 1, 3), np.uint8))
            assert len(faces) == 0


class TestPixels:
    @pytest.mark.parametrize("kind", ["png", "jpeg"])
    def test_file_and_its_pixels_give_the_same_faces(self, model: RetinaFocus, kind: str) -> None:
        data = encoded(photo(), kind)
        looking = detector(model, WholeLooks(sides=((200, 300),), mirrored=True))
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert looking.detect(data) == looking.detect(pixels)

    def test_jpeg_is_decoded_only_as_far_as_the_finest_look_goes(self, model: RetinaFocus) -> None:
        data = encoded(photo(size=(803, 1001)), "jpeg")
        ready = detector(model, WholeLooks(sides=((150, 500), (200, 500)))).prepare(data)
        # A quarter of 803 x 1001 px, in whole blocks: 201 x 251 px that show 804 x 1004.
        assert ready.plan.finest.size == (200, 249)
        assert ready.plan.finest.covered == (0, 0, 1004, 804)
        corner = ready.plan.finest.to_photo(np.array([[249, 200]], np.float32))
        assert corner == pytest.approx(np.array([[1004, 804]]))

    def test_large_photo_is_read_in_strips_and_shows_the_same(
        self, model: RetinaFocus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cascade, "STREAM_BYTES", 4096)  # for what libraries take, whatever the photo
        data = encoded(photo(size=(603, 804)), "png")
        looks = WholeLooks(sides=((250, 420),), mirrored=True)
        whole = detector(model, looks).prepare(data)
        strips = detector(model, looks, max_pixels=400_000).prepare(data)
        assert isinstance(whole.source, ResizedPhoto)
        assert isinstance(strips.source, StreamedPhoto)
        for level in whole.plan.levels:
            box = np.array([[0, 0, *level.size[::-1]]], np.int32)
            ((_, one),), ((_, other),) = whole.source.read(level, box), strips.source.read(level, box)
            assert one.shape == other.shape == (250, 333, 3)
            assert np.abs(one.astype(int) - other).max() <= 1

    def test_photo_that_takes_too_much_memory_in_strips_is_too_large(self, model: RetinaFocus) -> None:
        with pytest.raises(PhotoError, match="raise max_pixels") as caught:
            detector(model, WholeLooks(), max_pixels=9_999).prepare(encoded(photo(size=(104, 100)), "png"))
        assert caught.value.status == "too_large"

    def test_look_above_the_network_pixels_is_cut_into_tiles(self, model: RetinaFocus) -> None:
        class Recording(TorchEngine):
            def run(self, pixels: np.ndarray) -> object:  # type: ignore[override]
                sizes.append(pixels.shape[1:3])
                return super().run(pixels)

        sizes: list[tuple[int, ...]] = []
        preset = dataclasses.replace(model.preset, face_range=(10.0, 60.0))
        config = CascadeConfig(network_pixels=160**2)
        ready = cascade.prepare(photo(size=(200, 300)), min_face=20, preset=preset, config=config, looks=WholeLooks())
        engine = Recording(model)
        engine.preset = preset
        result = cascade.look(ready, engine, config, PostConfig())
        assert len(sizes) > 2
        assert max(height * width for height, width in sizes) <= 160**2
        assert result.focus_share == 1
        assert len(result.faces) > 0

    def test_each_tile_of_a_mirrored_look_is_turned_back_by_its_own_width(self, model: RetinaFocus) -> None:
        pixels = photo(size=(203, 301))
        preset = dataclasses.replace(model.preset, face_range=(10.0, 60.0))
        config, post = CascadeConfig(network_pixels=160**2), PostConfig(score_floor=FLOOR)
        looks = WholeLooks(sides=((203, 350),), mirrored=True)
        ready = cascade.prepare(pixels, min_face=20, preset=preset, config=config, looks=looks)
        engine = TorchEngine(model)
        engine.preset = preset
        tiles = [look for look in cascade.look(ready, engine, config, post).trace.looks if look.level.mirrored]
        assert len({look.box for look in tiles}) > 2
        assert sum(len(look.candidates) for look in tiles) > 20
        for look in tiles:
            left, top, right, bottom = look.box
            turned = np.ascontiguousarray(pixels[top:bottom, left:right][:, ::-1])
            found = find_candidates(engine.run(turned[None]), turned.shape[:2], preset, post)
            assert look.candidates.boxes[:, 0].tolist() == (right - left - found.boxes[:, 2]).tolist()
            assert look.candidates.boxes[:, [1, 3]].tolist() == found.boxes[:, [1, 3]].tolist()
            assert look.candidates.landmarks[:, 0, 0].tolist() == (right - left - found.landmarks[:, 1, 0]).tolist()


def test_candidates_turned_in_a_mirror() -> None:
    points = [[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]]
    candidates = Candidates(*(np.array(part, np.float32) for part in ([[1, 2, 9, 12]], [0.5], points)))
    turned = candidates.mirrored(100)
    assert turned.boxes.tolist() == [[91, 2, 99, 12]]
    # The right eye of the picture is the left one in the mirror.
    assert turned.landmarks.tolist() == [[[97, 4], [99, 2], [95, 6], [91, 10], [93, 8]]]
    assert candidates.boxes.tolist() == [[1, 2, 9, 12]]
    assert turned.mirrored(100).landmarks.tolist() == points
