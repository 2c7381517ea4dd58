"""What random zoom crops and SNIPER-style chips teach: two trainings that differ in nothing else, judged side by side.

    python -m benchmarks.sampling --config FILE --judge FOLDER [--crops 9600] [--seeds 0] [--crowd SOURCE ...]
        [--min-face 20] [--set a.b=c ...] [-o OUT]

FILE holds the settings of a training (`configs/`); `--set` changes them as `retinafocus train` does. For each seed one
training learns from `sample.kind` crops and one from chips: the same start, number of samples, side, schedule and loop.
FOLDER holds labelled photos in the Parquet form that none of them learns from. Prints a Markdown table: AP at IoU 0.5
by face size with its 95 % interval over the photos, on all sources but the crowd ones, photos without faces included,
and how fast the samples were made and learned. Killed, the same command with the same OUT goes on where it was.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from pipelines.train import train
from pipelines.train_config import TrainConfig, read_train_config
from pipelines.train_log import read_metrics
from pipelines.train_worker import LAST_FILE, build_samples
from retinafocus.datasets.labelled import LabelledPhoto, read_parquet_folder
from retinafocus.evaluation.average_precision import PhotoDetections, PhotoTruth, ScoreRow, score
from retinafocus.training.validation import detect_labelled
from retinafocus.weights import load_model

KINDS = ("crops", "chips")
TIMED_SAMPLES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="settings of the training, in TOML")
    parser.add_argument(
        "--judge", type=Path, required=True, help="labelled photos to be judged on, in the Parquet form"
    )
    parser.add_argument("--crops", type=int, default=9600, help="samples each training learns from (default: 9600)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one pair of trainings each (default: 0)")
    parser.add_argument("--crowd", nargs="*", default=[], help="sources to leave out of the judging")
    parser.add_argument("--min-face", type=float, default=20.0, help="smallest face to look for (default: 20)")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="a.b=c, another value for a setting"
    )
    parser.add_argument("-o", "--output", type=Path, help="keep the trainings here (default: a temporary folder)")
    options = parser.parse_args()
    photos = [photo for photo in read_parquet_folder(options.judge) if photo.source not in options.crowd]
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            configs = {kind: _config(options, kind, seed, options.output or Path(temporary)) for kind in KINDS}
            for config in configs.values():
                train(config, resume=True)
            _print_table(configs, photos, options.min_face)


def _config(options: argparse.Namespace, kind: str, seed: int, output: Path) -> TrainConfig:
    batch = read_train_config(options.config, options.overrides).batch
    steps = max(1, options.crops // batch)
    own = [f"sample.kind={kind}", f"seed={seed}", f"loop.steps={steps}", f"loop.warmup_steps={min(200, steps // 5)}"]
    own += [f"epoch_steps={max(1, steps // 10)}", "evaluation.folder=", f"output={output / f'{kind}-{seed}'}"]
    return read_train_config(options.config, [*options.overrides, *own])


def _print_table(configs: dict[str, TrainConfig], photos: Sequence[LabelledPhoto], min_face: float) -> None:
    first = configs[KINDS[0]]
    start = first.model.init or first.model.backbone or "random weights"
    print(
        f"\n{first.model.preset} from {Path(start).name}, {first.loop.steps * first.batch:,} samples of "
        f"{first.sample.crop.side} px in batches of {first.batch}, seed {first.seed}; AP on {len(photos)} photos, "
        f"min_face {min_face:g}\n"
    )
    judged = {kind: _judge(config, photos, min_face) for kind, config in configs.items()}
    print(f"| | faces | {' | '.join(KINDS)} |")
    print(f"|---|---:|{'---:|' * len(KINDS)}")
    for number, row in enumerate(judged[KINDS[0]]):
        cells = (judged[kind][number].ap50 for kind in KINDS)
        shown = (f"{100 * one.ap:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in cells)
        print(f"| AP, {row.name} | {row.ap50.num_faces:,} | {' | '.join(shown)} |")
    print(f"| learned a second | | {' | '.join(f'{_speed(config):.1f}' for config in configs.values())} |")
    print(
        f"| CPU ms to make one | | {' | '.join(f'{_sample_ms(config):.1f}' for config in configs.values())} |",
        flush=True,
    )


def _judge(config: TrainConfig, photos: Sequence[LabelledPhoto], min_face: float) -> tuple[ScoreRow, ...]:
    model = load_model(Path(config.output) / LAST_FILE)
    found = detect_labelled(model, photos, min_face=min_face, device=config.device)
    truths = [PhotoTruth(photo.boxes, photo.ignore) for photo in photos]
    return score(truths, [one or PhotoDetections() for one in found]).rows


def _speed(config: TrainConfig) -> float:
    """Samples a second, without the first epoch, if there are others: it decodes what later ones find decoded."""
    rates = [row["crops_per_s"] for row in read_metrics(Path(config.output))]
    return statistics.harmonic_mean(rates[1:] or rates)


def _sample_ms(config: TrainConfig) -> float:
    """CPU milliseconds of one thread for a sample with its targets, decoding included, the mean of some."""
    cv2.setNumThreads(0)
    samples = build_samples(config, lambda _: None)
    start = time.thread_time()
    for number in range(TIMED_SAMPLES):
        samples[number]
    return (time.thread_time() - start) * 1000 / TIMED_SAMPLES


if __name__ == "__main__":
    main()
