"""What `retinafocus train` can be told: one frozen dataclass, composed of the library's own settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.settings import Named, read_settings
from retinafocus.errors import SettingsError
from retinafocus.models import Preset, get_preset
from retinafocus.training.loop import LoopConfig
from retinafocus.training.losses import LossConfig
from retinafocus.training.samples import SampleConfig
from retinafocus.training.start import Heads, check_heads, preset_with_anchors, preset_with_focus
from retinafocus.training.targets import MATCH_PRESETS, MatchConfig

NAMED: Named = {MatchConfig: MATCH_PRESETS}

MAY_CHANGE = ("workers", "loaders", "threads", "device", "max_failures", "data.cache_gib")
"""Settings that may differ when a training goes on: they decide where it runs, not what it learns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSettings:
    """Other anchors than the preset's, in network-input pixels; `retinafocus tune anchors` estimates some."""

    sizes: tuple[tuple[float, ...], ...] = ()
    """sqrt(width * height) of the anchors: a list for each of the strides 8, 16 and 32, equally many in each. Empty:
    the preset's."""

    ratio: float = 0.0
    """Their height over width. 0: the preset's."""

    face_range: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest face found reliably, on which the levels of the cascade rest. 0 and 0: the preset's, moved
    in the proportion in which the smallest and the largest anchor change. `retinafocus data focus-study` tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network and what it starts from. Paths are relative to the current folder."""

    preset: str = "mobile025"
    """Name of the network: backbone, channels, anchors, focus branch."""

    focus: str = "preset"
    """Focus branch: preset (as the preset has it), none, or the map it reads: C2, C3, C4, P2, P3 or P4."""

    init: str = ""
    """Weights file, or name of bundled weights, to go on from (fine-tuning). Empty: start from `backbone`."""

    backbone: str = ""
    """Classification checkpoint for the backbone: a file, or imagenet for torchvision's ResNet weights, which
    torchvision downloads unless its cache has them. Empty: random weights."""

    heads: Heads = "keep"
    """Detection heads of `init` where the anchors are others: keep refuses, for boxes are offsets from anchors. adapt
    takes them over for equally many anchors of other sizes, which a short training mends. new starts them anew."""

    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    """Anchors other than the preset's."""

    def __post_init__(self) -> None:
        self.to_preset()
        check_heads(self.init, self.heads)
        if self.init and self.backbone:
            raise SettingsError("init and backbone are both set; a detector brings its own backbone: keep one")

    def to_preset(self) -> Preset:
        """The preset with the chosen focus branch and anchors."""
        anchors = self.anchors
        preset = preset_with_anchors(get_preset(self.preset), anchors.sizes, anchors.ratio, anchors.face_range)
        return preset_with_focus(preset, self.focus)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The labelled photos to learn from."""

    folders: tuple[str, ...] = ()
    """Folders of labelled photos; all of them together are one set."""

    source_weights: Mapping[str, float] = field(default_factory=dict)
    """How much likelier than 1 the photos of a source are drawn, by its name in the labels; others have 1."""

    largest_mpx: float = 4.0
    """Photos of more millions of pixels are decoded at 1/2, 1/4 or 1/8, as far as their smallest face allows."""

    cache_gib: float = 2.0
    """Decoded photos kept in memory, in GiB for each loader process. What does not fit is decoded again."""

    def __post_init__(self) -> None:
        if self.largest_mpx <= 0 or self.cache_gib < 0:
            raise SettingsError("largest_mpx must be more than 0 and cache_gib 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """The photos to be judged on while training. They must not be among those learned from."""

    folder: str = ""
    """Folder of labelled photos. Empty: no evaluation, and no best checkpoint."""

    sources: tuple[str, ...] = ()
    """Only photos of these sources. Empty: all."""

    photos: int = 0
    """At most so many, spread evenly over the folder. 0: all."""

    every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""

    min_face: float = 10.0
    """The smallest face looked for, sqrt(width * height) in photo pixels. Halving it makes it four times as long."""

    protocol: Literal["ap", "widerface"] = "ap"
    """What is told: the AP of our own scorer, or beside it that of WIDER FACE's easy, medium and hard faces, here those
    of at least 50, 30 and 10 px height. The best weights are those of the highest AP of our own scorer either way."""

    def __post_init__(self) -> None:
        if self.photos < 0 or self.every < 1 or self.min_face <= 0:
            raise SettingsError("photos must be 0 or more, every at least 1, min_face more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything about one training."""

    output: str = ""
    """Folder for checkpoints, weights, metrics and curves. With several machines: a path that all of them see."""

    seed: int = 0
    """Decides the random weights at the start and, with their numbers, all samples."""

    batch: int = 32
    """Crops per step, over all workers together: a multiple of `workers`."""

    epoch_steps: int = 100
    """Steps of an epoch: after each one, a line of metrics and a checkpoint. Samples are drawn at random without end,
    so an epoch is a stretch of time and not a pass through the photos."""

    workers: int = 1
    """Processes that train together, each on one GPU or on `loaders` + 1 processors."""

    loaders: int = 1
    """Processes that make samples for each worker; 0 makes them in the worker itself."""

    threads: int = 0
    """CPU threads of the network in each worker; 0 shares the processors among the workers. The last bit of a sum
    depends on how many threads share it: weights are equal bit for bit only at one number of threads and workers."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto is cuda if it can be used."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in, on CUDA; weights and losses stay float32. bfloat16 needs a card of 2020 or later;
    float16 takes older ones, with scaled gradients. On the CPU only float32 (the others were no faster)."""

    max_failures: int = 3
    """How often Ray starts dead workers again before the training ends with an error."""

    licence: str = "unknown; depends on the photos it was trained on"
    """Written into the weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network and what it starts from."""

    data: DataConfig = field(default_factory=DataConfig)
    """What it learns from."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What it is judged on."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    """How crops are cut, changed and labelled; its seed is added to the seed above."""

    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the terms."""

    loop: LoopConfig = field(default_factory=LoopConfig)
    """Steps, learning rate, averaging, what is frozen."""

    def __post_init__(self) -> None:
        for name in ("batch", "epoch_steps", "workers"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; choose at least 1")
        for name in ("seed", "loaders", "threads", "max_failures"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; choose 0 or more")
        if self.batch % self.workers:
            raise SettingsError(f"batch is {self.batch}, which {self.workers} workers cannot share equally")
        if self.device == "cpu" and self.precision != "float32":
            raise SettingsError(f"precision is {self.precision} on the CPU; choose float32, or device = cuda")
        if self.device == "cpu" and self.loop.batch_norm == "synchronised":
            raise SettingsError("loop.batch_norm is synchronised, which works on CUDA only; choose train")
        if self.loop.batch_norm == "frozen" and not self.model.init:
            raise SettingsError("loop.batch_norm is frozen, but the network has learned no statistics; set model.init")
        if self.loop.batch_norm == "frozen-body" and not (self.model.init or self.model.backbone):
            raise SettingsError("loop.batch_norm is frozen-body, but the backbone is random; set model.backbone")
        if self.loop.freeze == "all-but-focus" and self.model.to_preset().focus is None:
            raise SettingsError(
                f"loop.freeze is all-but-focus, but preset {self.model.preset} has no focus branch; set model.focus"
            )


def read_train_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The settings of a TOML file with `--set` overrides; see `read_settings`."""
    return read_settings(TrainConfig, path, overrides, NAMED)


def with_absolute_paths(config: TrainConfig, home: Path) -> TrainConfig:
    """The same settings for a process whose current folder is another one, as is that of every process of Ray's.

    Args:
        config: its paths are relative to `home`, or absolute.
        home: an absolute path.
    """

    def folder(path: str) -> str:
        return str(home / path) if path else ""

    def file(name: str) -> str:  # or a name of ours, such as that of weights that ship
        return str(home / name) if name and (home / name).is_file() else name

    return dataclasses.replace(
        config,
        output=folder(config.output),
        data=dataclasses.replace(config.data, folders=tuple(map(folder, config.data.folders))),
        evaluation=dataclasses.replace(config.evaluation, folder=folder(config.evaluation.folder)),
        model=dataclasses.replace(config.model, init=file(config.model.init), backbone=file(config.model.backbone)),
    )


def first_difference(before: Any, after: Any) -> str:
    """The first setting that a training may not change when it goes on, in words; "" if it may go on."""
    old, new = flat_settings(before), flat_settings(after)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key not in (*MAY_CHANGE, "output"):
            return f"{key} was {old.get(key)!r} and is now {new.get(key)!r}"
    return ""


def flat_settings(config: Any, key: str = "") -> dict[str, Any]:
    """All values by their dotted names, which begin with `key`."""
    values: dict[str, Any] = {}
    for name in config.__dataclass_fields__:
        value, inner = getattr(config, name), f"{key}.{name}" if key else name
        values |= flat_settings(value, inner) if hasattr(value, "__dataclass_fields__") else {inner: value}
    return values
