"""Labelled pictures of 4K and more, made of small photographs: sparse, medium and dense with faces, or plain.

    python -m benchmarks.mosaics FACES --backgrounds FACES MORE -o OUT [--photos 16] [--size 4k]

FACES and MORE are folders of labelled photos in the Parquet form. The ground of each picture are many different photos
of sources without any face, side by side at their own size; on it lie photos whose faces people labelled, only ever
shrunk. Nothing is enlarged, so every pixel has the detail of a photograph; the seams stay.

* sparse: every second picture holds 1 to 5 faces, all of 20 to 40 px; the others hold none;
* medium: 8 to 16 shrunk photos on a 4K canvas, their typical face 16 to 96 px;
* dense: rows of shrunk photos cover nearly all of the picture;
* plain: the faces of sparse on a soft gradient with a little noise, as sky or a wall, where the focus map asks for
  nothing but them.

OUT gets one folder in the Parquet form for each density, so `retinafocus data` and `retinafocus eval` read it. Ignore
regions are carried along, and faces under 8 px become such regions. The same arguments give the same bytes.

Without FACES, or where it does not exist, the pictures of `retinafocus demo` are made instead: two faces, often pasted,
on two enlarged landscapes. They show that the command works, and no more.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.demo import make_archive
from retinafocus.datasets.labelled import BOX_COLUMNS, LabelledPhoto, read_parquet_folder
from retinafocus.datasets.parquet_writer import write_parquet_folder
from retinafocus.errors import SettingsError
from retinafocus.evaluation.average_precision import SIZE_BUCKETS
from retinafocus.photos import decode, read_header

SIZES = {"4k": (2160, 3840), "8k": (4320, 7680), "16k": (8640, 15360)}
"""(height, width) by name."""

DENSITIES = ("sparse", "medium", "dense", "plain")

SMALLEST_FACE = 8.0
"""sqrt(w * h) in pixels; smaller ones are ignored, because shrinking left too little of them to judge."""

SPARSE_FACES = (1, 5)
SPARSE_SIZES = (20.0, 40.0)
MEDIUM_PHOTOS = (8, 16)
"""On a 4K canvas; in proportion to the area of larger ones."""
MEDIUM_SIZES = (16.0, 96.0)
DENSE_ROWS = (140, 360)
"""Height of a row of photos, in pixels."""
PLAIN_NOISE = 2.0
"""Standard deviation of the noise of a plain picture, in grey levels."""

LOWEST_GROUND = 300
"""Height in pixels of the lowest photo of the ground: a row is cut to its lowest, and slivers look like nothing."""

QUALITY = 88
"""JPEG quality, 4:2:0: gives what cameras and archives spend, 0.15 to 0.5 bytes a pixel."""

Pixels = NDArray[np.uint8]
Place = tuple[int, int, int, int]
"""(left, top, width, height) on the canvas, in pixels."""


@dataclass(frozen=True)
class Pasted:
    """A photo of faces and where it lies on the canvas, never larger than it is."""

    photo: LabelledPhoto
    place: Place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args()
    sets = made_sets(options)
    print(describe(sets))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the pictures; the same for every benchmark that uses them."""
    parser.add_argument("faces", type=Path, nargs="?", help="labelled photos in the Parquet form (default: the demo's)")
    parser.add_argument(
        "--backgrounds", type=Path, nargs="+", help="folders with photos without faces (default: FACES)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pictures; made once, then read")
    parser.add_argument("--photos", type=int, default=16, help="pictures of each density (default: 16)")
    parser.add_argument("--densities", nargs="+", choices=DENSITIES, default=DENSITIES, help="default: all")
    parser.add_argument("--size", choices=SIZES, default="4k", help="of the pictures (default: 4k)")
    parser.add_argument("--seed", type=int, default=0, help="decides every place and size (default: 0)")
    parser.add_argument("--quality", type=int, default=QUALITY, help=f"of the JPEGs (default: {QUALITY})")


def made_sets(options: argparse.Namespace) -> dict[str, list[LabelledPhoto]]:
    """The sets that `add_arguments` describes, by density; what is there already is read, not made again."""
    if options.faces is None or not options.faces.is_dir():
        folder = options.output / f"demo-{options.photos}"
        if not folder.is_dir():
            write_demo(folder, options.photos)
        return {"demo": read_parquet_folder(folder)}
    sets = {}
    for density in options.densities:
        folder = options.output / f"{options.size}-{density}-{options.photos}-{options.seed}-{options.quality}"
        if not folder.is_dir():
            faces = read_parquet_folder(options.faces)
            more = [photo for other in options.backgrounds or [options.faces] for photo in read_parquet_folder(other)]
            mosaics = make_mosaics(density, labelled_by_people(faces), without_faces(more), options)
            write_set(folder, density, mosaics, options.quality)
        sets[density] = read_parquet_folder(folder)
    return sets


def labelled_by_people(photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """Those with at least one face and no face that only detectors saw."""
    return [photo for photo in photos if photo.kinds and set(photo.kinds) == {"human"}]


def without_faces(photos: Sequence[LabelledPhoto]) -> list[LabelledPhoto]:
    """The photos of sources without any region: where others have some, a photo without may be one nobody labelled."""
    sources = {photo.source for photo in photos if len(photo.boxes) or len(photo.ignore)}
    return [photo for photo in photos if photo.source not in sources]


def make_mosaics(
    density: str, faces: Sequence[LabelledPhoto], grounds: Sequence[LabelledPhoto], options: argparse.Namespace
) -> Iterator[tuple[Pixels, LabelledPhoto]]:
    """The pictures of one density, each with what is known about it; paths are left empty.

    Args:
        density: one of `DENSITIES`.
        faces: photos to paste, each with a face.
        grounds: photos without faces.
        options: photos, size and seed, as in `add_arguments`.

    Raises:
        SettingsError: there are no faces or no grounds.
    """
    if not faces or not grounds:
        raise SettingsError(
            f"{len(faces)} photos of faces that people labelled and {len(grounds)} of sources without faces; at least "
            "one of each is needed, see --backgrounds"
        )
    size = SIZES[options.size]
    high = [photo for photo in grounds if photo.size[0] >= LOWEST_GROUND] or grounds
    for number in range(options.photos):
        random = np.random.default_rng([options.seed, DENSITIES.index(density), number])
        pasted = lay_out(density, number, faces, size, random)
        if density == "plain":
            pixels = gradient(size, random)
        else:
            pixels = paved((high[index] for index in itertools.cycle(random.permutation(len(high)))), size)
        for item in pasted:
            left, top, width, height = item.place
            pixels[top : top + height, left : left + width] = shrunk(item)
        yield pixels, united(pasted, size, density, SMALLEST_FACE)


def gradient(size: tuple[int, int], random: np.random.Generator) -> Pixels:
    """(height, width, 3) uint8: from one random, muted colour at the top to another at the bottom, with noise."""
    colours = (random.uniform(90, 200, (2, 1)) + random.uniform(-25, 25, (2, 3))).astype(np.float32)
    column = np.linspace(colours[0], colours[1], size[0], dtype=np.float32)[:, None]
    noise = random.standard_normal((*size, 1), dtype=np.float32) * PLAIN_NOISE
    return np.clip(column + noise, 0, 255).astype(np.uint8)


def lay_out(
    density: str, number: int, faces: Sequence[LabelledPhoto], size: tuple[int, int], random: np.random.Generator
) -> list[Pasted]:
    """Which photos lie where on picture `number` of a set."""
    if density == "dense":
        return _rows(faces, size, random)
    if density == "medium":
        share = size[0] * size[1] / (SIZES["4k"][0] * SIZES["4k"][1])
        count = round(share * random.integers(MEDIUM_PHOTOS[0], MEDIUM_PHOTOS[1] + 1))
        chosen = [faces[index] for index in random.integers(len(faces), size=count)]
        factors = [_typical_factor(photo, random) for photo in chosen]
    elif number % 2 == 0:
        chosen, factors = _few(faces, random)
    else:
        return []
    return _scattered(chosen, factors, size, random)


def _few(faces: Sequence[LabelledPhoto], random: np.random.Generator) -> tuple[list[LabelledPhoto], list[float]]:
    """Photos with 1 to 5 faces together, and factors that bring every one of them to 20 to 40 px."""
    wanted = int(random.integers(SPARSE_FACES[0], SPARSE_FACES[1] + 1))
    low, high = SPARSE_SIZES[0] * 1.02, SPARSE_SIZES[1] / 1.02  # whole pixels change a side by up to 2 %
    chosen: list[LabelledPhoto] = []
    factors: list[float] = []
    for index in random.permutation(len(faces)):
        sides = face_sides(faces[index].boxes)
        smallest, largest = low / sides.min(), min(1.0, high / sides.max())
        if smallest <= largest and len(sides) <= wanted:
            chosen.append(faces[index])
            factors.append(float(random.uniform(smallest, largest)))
            wanted -= len(sides)
        if wanted == 0:
            break
    return chosen, factors


def _typical_factor(photo: LabelledPhoto, random: np.random.Generator) -> float:
    """At most 1; brings the photo's median face to a size of the medium density, small ones as likely as large."""
    low, high = np.log(MEDIUM_SIZES)
    wanted = float(np.exp(random.uniform(low, high)))
    return min(1.0, wanted / float(np.median(face_sides(photo.boxes))))


def _scattered(
    photos: Sequence[LabelledPhoto], factors: Sequence[float], size: tuple[int, int], random: np.random.Generator
) -> list[Pasted]:
    """Anywhere, but not over one another; a photo that finds no room in 200 tries is left out."""
    pasted: list[Pasted] = []
    for photo, factor in zip(photos, factors, strict=True):
        height, width = (max(1, round(side * factor)) for side in photo.size)
        for _ in range(200):
            left, top = int(random.integers(size[1] - width + 1)), int(random.integers(size[0] - height + 1))
            if not any(_overlap((left, top, width, height), other.place) for other in pasted):
                pasted.append(Pasted(photo, (left, top, width, height)))
                break
    return pasted


def _overlap(one: Place, other: Place) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def _rows(faces: Sequence[LabelledPhoto], size: tuple[int, int], random: np.random.Generator) -> list[Pasted]:
    """Rows of random height, each filled from the left with photos at least that high, until the next does not fit.

    No photo comes again before all others had their turn.
    """
    order = itertools.cycle(random.permutation(len(faces)))
    pasted: list[Pasted] = []
    top = 0
    while (height := min(int(random.integers(*DENSE_ROWS, endpoint=True)), size[0] - top)) >= DENSE_ROWS[0]:
        left = 0
        for index in itertools.islice(order, len(faces)):
            photo = faces[index]
            if photo.size[0] < height:
                continue
            width = max(1, round(photo.size[1] * height / photo.size[0]))
            if left + width > size[1]:
                break
            pasted.append(Pasted(photo, (left, top, width, height)))
            left += width
        top += height
    return pasted


def shrunk(pasted: Pasted) -> Pixels:
    """The photo's pixels at the size it has on the canvas."""
    _, _, width, height = pasted.place
    pixels = decode(pasted.photo.path.read_bytes())
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def paved(grounds: Iterator[LabelledPhoto], size: tuple[int, int]) -> Pixels:
    """A canvas covered with rows of photos at their own size, cut to the height of each row's lowest.

    Args:
        grounds: as many photos as it takes.
        size: (height, width) of the canvas.
    """
    canvas = np.empty((*size, 3), np.uint8)
    top = 0
    while top < size[0]:
        row = [decode(next(grounds).path.read_bytes())]
        while sum(tile.shape[1] for tile in row) < size[1]:
            row.append(decode(next(grounds).path.read_bytes()))
        height = min(tile.shape[0] for tile in row)
        strip = np.concatenate([tile[:height] for tile in row], axis=1)[: size[0] - top, : size[1]]
        canvas[top : top + strip.shape[0]] = strip
        top += height
    return canvas


def moved(pasted: Pasted, smallest_face: float) -> LabelledPhoto:
    """A pasted photo's labels in pixels of the canvas; its faces under `smallest_face` become ignore regions."""
    left, top, width, height = pasted.place
    photo = pasted.photo
    scale = np.array([width / photo.size[1], height / photo.size[0]] * 2, np.float32)
    shift = np.array([left, top] * 2, np.float32)
    boxes = photo.boxes * scale + shift
    large = face_sides(boxes) >= smallest_face
    return replace(
        photo,
        boxes=boxes[large],
        landmarks=(photo.landmarks * scale[:2] + shift[:2])[large],
        ignore=np.concatenate([boxes[~large], photo.ignore * scale + shift]),
        kinds=tuple(kind for kind, kept in zip(photo.kinds, large, strict=True) if kept),
    )


def united(pasted: Sequence[Pasted], size: tuple[int, int], source: str, smallest_face: float) -> LabelledPhoto:
    """What is known about a whole picture; it has no path yet."""
    parts = [moved(item, smallest_face) for item in pasted]
    return LabelledPhoto(
        path=Path(),
        size=size,
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in parts)]),
        landmarks=np.concatenate([np.zeros((0, 5, 2), np.float32), *(part.landmarks for part in parts)]),
        ignore=np.concatenate([np.zeros((0, 4), np.float32), *(part.ignore for part in parts)]),
        source=source,
        kinds=tuple(kind for part in parts for kind in part.kinds),
    )


def face_sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) sqrt(width * height) of (N, 4) xyxy boxes."""
    sides: NDArray[np.float32] = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return sides


def write_set(folder: Path, name: str, mosaics: Iterator[tuple[Pixels, LabelledPhoto]], quality: int) -> None:
    """Write pictures and labels in the Parquet form; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        photos = {}
        for number, (pixels, known) in enumerate(mosaics):
            path = Path(unfinished) / f"{name}-{number:03d}.jpg"
            encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
            path.write_bytes(encoded[1].tobytes())
            photos[path.name] = replace(known, path=path)
        write_parquet_folder(photos, folder, pictures="copy")


def write_demo(folder: Path, count: int) -> None:
    """The pictures of `retinafocus demo` in the Parquet form."""
    with tempfile.TemporaryDirectory() as unfinished:
        planted = make_archive(Path(unfinished) / "photos", count).to_pandas()
        photos = {}
        for path in sorted((Path(unfinished) / "photos").glob("*.jpg")):
            header = read_header(path.read_bytes())
            boxes = planted.loc[planted["image"] == path.name, list(BOX_COLUMNS)].to_numpy(np.float32)
            photos[path.name] = LabelledPhoto(
                path=path,
                size=(header.height, header.width),
                boxes=boxes,
                landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
                ignore=np.zeros((0, 4), np.float32),
                source="demo",
                kinds=("human",) * len(boxes),
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_parquet_folder(photos, folder, pictures="copy")


def describe(sets: Mapping[str, Sequence[LabelledPhoto]]) -> str:
    """A table: what the sets hold."""
    ranges = " | ".join(f"{low:g}-{high:g} px" for low, high in SIZE_BUCKETS)
    lines = [
        f"| set | photos (with faces) | size | faces | {ranges} | ignore | faces' area | bytes per pixel |",
        "|---|---:|---:|---:|" + "---:|" * (len(SIZE_BUCKETS) + 3),
    ]
    for name, photos in sets.items():
        boxes = np.concatenate([photo.boxes for photo in photos])
        sides = face_sides(boxes)
        counts = [int(((low <= sides) & (sides < high)).sum()) for low, high in SIZE_BUCKETS]
        area = sum(photo.size[0] * photo.size[1] for photo in photos)
        weights = [photo.path.stat().st_size / (photo.size[0] * photo.size[1]) for photo in photos]
        cells = [
            name,
            f"{len(photos)} ({sum(len(photo.boxes) > 0 for photo in photos)})",
            f"{photos[0].size[1]} x {photos[0].size[0]}",
            f"{len(boxes):,}",
            *(f"{count:,}" for count in counts),
            f"{sum(len(photo.ignore) for photo in photos):,}",
            f"{100 * float((sides**2).sum()) / area:.2f} %",
            f"{min(weights):.2f}-{max(weights):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
