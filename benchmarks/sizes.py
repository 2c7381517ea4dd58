"""Time and peak memory over the size of the photo: 4K, 8K and 15360 x 8640.

    python -m benchmarks.sizes FACES --backgrounds FACES MORE -o OUT [--sizes 4k 8k 16k] [--ways exhaustive focus]

On the pictures of `benchmarks.mosaics`, each way in a process of its own for each size: its peak memory is that of
the way alone (some of it is the process with its libraries, see the row of the bare decode). How times are taken: see
`benchmarks.cascade`.
"""

from __future__ import annotations

import argparse

from benchmarks.cascade import add_settings, floor_of, machine, mean_of, measured, peak_memory, settings_of
from benchmarks.mosaics import SIZES, add_arguments, made_sets
from benchmarks.ways import DECODERS, make_way, usable_ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_settings(parser)
    parser.set_defaults(photos=2)
    parser.add_argument("--min-face", type=float, default=20.0, help="default: 20")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all three")
    parser.add_argument("--ways", nargs="+", choices=usable_ways(), default=["exhaustive", "tiles", "focus"])
    options = parser.parse_args()
    settings = settings_of(options, options.min_face)
    print(f"{machine()}\n", flush=True)
    print("| set | size | way | core-s | s | of a decode | network Mpx | of the finest level | peak MiB |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for size in options.sizes:
        options.size = size
        for name, photos in made_sets(options).items():
            rows = measured({way: make_way(way, settings) for way in (*DECODERS, *options.ways)}, photos, options)
            floor = floor_of(rows)
            for way in (floor, *options.ways):
                core, wall, pixels, finest = (
                    mean_of(rows, way, column) for column in ("core_seconds", "seconds", "pixels", "finest_pixels")
                )
                cells = [
                    name,
                    f"{photos[0].size[1]} x {photos[0].size[0]}",
                    way,
                    f"{core:.3f}",
                    f"{wall:.3f}",
                    f"{core / mean_of(rows, floor, 'core_seconds'):.1f}",
                    f"{pixels / 1e6:.1f}" if pixels else "-",
                    f"{100 * pixels / finest:.0f} %" if pixels else "-",
                    f"{peak_memory(way, settings, photos) / 2**20:,.0f}",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
