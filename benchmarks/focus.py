"""What the focus branch would have looked at again: share of small faces inside the chips against share of the picture.

    python -m benchmarks.focus FOLDER --weights FILE [--factors 0.5 0.25] [--thresholds 0.05 0.1 0.2 0.3 0.5]

Each labelled photo is shown to the network at each factor of its size, and its focus map becomes chips as in a job
(`ChipConfig`'s defaults). A face counts as found when it lies whole in one of them; the share is that of the cells
of the map in any chip. Photos without faces count for the share of the picture, as they do in an archive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.focus.chips import ChipConfig, chips_around
from retinafocus.photos import decode
from retinafocus.weights import load_model

CHIPS = ChipConfig()

# sqrt(w * h) in network-input pixels of the faces told apart.
SIZES = ((3, 5), (5, 8), (8, 16), (16, 32), (32, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="labelled photos in the Parquet form")
    parser.add_argument("--weights", required=True, help="weights with a focus branch")
    parser.add_argument("--without", nargs="*", default=[], help="sources to leave out")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.05, 0.1, 0.2, 0.3, 0.5])
    options = parser.parse_args()
    model = load_model(options.weights)
    if model.preset.focus is None:
        parser.error(f"{options.weights} has no focus branch")
    stride = model.preset.focus.stride
    photos = [photo for photo in read_parquet_folder(options.folder) if photo.source not in options.without]
    for factor in options.factors:
        maps = [_focus_map(model, photo, factor) for photo in photos]
        print(f"\n{len(photos)} photos at {factor:g} of their size\n")
        print("| threshold | area of chips | " + " | ".join(f"{low}-{high} px" for low, high in SIZES) + " |")
        print("|---:|---:|" + "---:|" * len(SIZES))
        for threshold in options.thresholds:
            chips = [
                chips_around(m, threshold=threshold, dilation=CHIPS.dilation, min_side=round(CHIPS.min_chip / stride))
                for m in maps
            ]
            share = sum(int(_seen(boxes, m.shape).sum()) for boxes, m in zip(chips, maps, strict=True))
            share /= sum(m.size for m in maps)
            covered = _covered(photos, chips, factor, stride)
            print(f"| {threshold:g} | {100 * share:.1f} % | " + " | ".join(covered) + " |")


@torch.inference_mode()
def _focus_map(model: torch.nn.Module, photo: LabelledPhoto, factor: float) -> NDArray[np.float32]:
    pixels = decode(photo.path.read_bytes())
    size = (max(1, round(photo.size[1] * factor)), max(1, round(photo.size[0] * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    logits = model(torch.from_numpy(small).permute(2, 0, 1).unsqueeze(0)).focus_logits
    focus: NDArray[np.float32] = logits[0, 0].sigmoid().numpy()
    return focus


def _seen(chips: NDArray[np.int32], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) which cells of a map are in any chip."""
    seen = np.zeros(size, bool)
    for left, top, right, bottom in chips:
        seen[top:bottom, left:right] = True
    return seen


def _covered(photos: list[LabelledPhoto], chips: list[NDArray[np.int32]], factor: float, stride: int) -> list[str]:
    """For each range of sizes: faces whole inside a chip, of all, as text."""
    found = {size: [0, 0] for size in SIZES}
    for photo, cells in zip(photos, chips, strict=True):
        whole = photo.boxes * factor / stride
        for box, (x1, y1, x2, y2) in zip(whole, photo.boxes * factor, strict=True):
            side = float(np.sqrt((x2 - x1) * (y2 - y1)))
            inside = ((cells[:, :2] <= box[:2]) & (cells[:, 2:] >= box[2:])).all(axis=1).any()
            for size in SIZES:
                if size[0] <= side < size[1]:
                    found[size][0] += int(inside)
                    found[size][1] += 1
    return [f"{100 * hit / total:.0f} % of {total}" if total else "-" for hit, total in found.values()]


if __name__ == "__main__":
    main()
