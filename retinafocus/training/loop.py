"""The training loop: one step, the averaged weights, checkpoints, and the run from the first step to the last.

The loop knows nothing of clusters, progress bars or loggers: it calls `report`. It draws no random numbers, so a run
that stops and resumes ends with the same weights as one that does not, bit for bit on one processor.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from retinafocus.engines import PRECISIONS
from retinafocus.errors import SettingsError, WeightsError
from retinafocus.models.retinafocus import RetinaFocus
from retinafocus.training.freezing import FreezeMode, NormMode, freeze, set_training
from retinafocus.training.losses import LossConfig, Losses, detection_losses
from retinafocus.training.samples import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How the weights are changed."""

    steps: int = 4000
    """Batches from start to end; the schedule ends there."""

    learning_rate: float = 0.01
    """Highest learning rate."""

    warmup_steps: int = 200
    """Steps over which the learning rate rises in a line from a hundredth of it."""

    schedule: Literal["cosine", "steps"] = "cosine"
    """After the warm-up: half a cosine down to 0, or a tenth at each milestone."""

    milestones: tuple[float, ...] = (0.7, 0.9)
    """Shares of `steps` at which the schedule "steps" goes down (70 and 90 of 100 epochs in Pytorch_Retinaface)."""

    momentum: float = 0.9
    """Of stochastic gradient descent."""

    weight_decay: float = 5e-4
    """On the weights of convolutions; batch norm and biases have none."""

    backbone_factor: float = 1.0
    """Learning rate of the backbone as a multiple of that of the rest."""

    largest_gradient: float = 10.0
    """Norm of all gradients together above which they are shortened to it."""

    average_decay: float = 0.999
    """How much the averaged weights keep of themselves in each step; less at the start, (1 + step) / (10 + step)."""

    freeze: FreezeMode = "none"
    """Which part stays as it is."""

    batch_norm: NormMode = "train"
    """What batch norm does: train, frozen-body, frozen or synchronised (over all workers, on CUDA only)."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise SettingsError(
                f"loop.steps is {self.steps} and loop.warmup_steps {self.warmup_steps}; "
                "choose at least 1 step and no more warm-up than steps"
            )
        if self.learning_rate <= 0 or self.largest_gradient <= 0:
            raise SettingsError("loop.learning_rate and loop.largest_gradient must be more than 0")
        if min(self.weight_decay, self.backbone_factor) < 0 or not 0 <= self.momentum < 1:
            raise SettingsError(
                "loop.weight_decay and loop.backbone_factor must be 0 or more, loop.momentum 0 up to, not including, 1"
            )
        if not 0 <= self.average_decay < 1:
            raise SettingsError(f"loop.average_decay is {self.average_decay}; choose 0 up to, not including, 1")


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """Learning rate of a step, counted from 0; the first step has a hundredth (or less, without warm-up: all) of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (0.01 + 0.99 * step / config.warmup_steps)
    if config.schedule == "steps":
        passed = sum(step >= round(milestone * config.steps) for milestone in config.milestones)
        return config.learning_rate * 0.1**passed
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def build_optimizer(model: RetinaFocus, config: LoopConfig) -> torch.optim.SGD:
    """Stochastic gradient descent over the parameters that are not frozen.

    Groups carry `factor`, their multiple of the learning rate; vectors (batch norm, biases) have no weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.backbone_factor if name.startswith("backbone.") else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise SettingsError(f"loop.freeze is {config.freeze!r} and leaves nothing to train")
    listed = [
        {"params": parameters, "factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    return torch.optim.SGD(listed, lr=config.learning_rate, momentum=config.momentum)


class AveragedModel:
    """A copy of the model whose weights are a running mean over the steps: less noisy, and the one to keep.

    Buffers (the statistics of batch norm) are averaged like weights; counters are copied.
    """

    def __init__(self, model: RetinaFocus, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: RetinaFocus, step: int) -> None:
        """Move towards the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        kept, new = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in kept.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([kept[name] for name in floats], [new[name] for name in floats], 1 - decay)
        for name, tensor in kept.items():
            if not tensor.is_floating_point():
                tensor.copy_(new[name])


class Training:
    """The state of one training: model, averaged model, optimizer, and the number of steps done.

    Args:
        model: changed in place; on the device it is to be trained on.
        config: how the weights are changed.
        loss: weights of the losses.
        precision: one of `engines.PRECISIONS`: what the network computes in; the half ones on CUDA only. Weights and
            losses stay float32.
        wrap: gives the module that is called in place of the model, such as one that averages gradients over workers.
    """

    def __init__(
        self,
        model: RetinaFocus,
        config: LoopConfig,
        loss: LossConfig,
        *,
        precision: str = "float32",
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.loss = loss
        self.precision = precision
        self.steps_done = 0
        freeze(model, config.freeze, config.batch_norm)
        self.averaged = AveragedModel(model, config.average_decay)
        if config.batch_norm == "synchronised":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # as below
        self.optimizer = build_optimizer(model, config)
        set_training(model, config.freeze, config.batch_norm)
        # float16 gradients of small losses would vanish, so they are enlarged first; the other types need nothing.
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16")
        self._network = model if wrap is None else wrap(model)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch on the model's device.

        Returns:
            The losses by name, before this step, and `gradient`, the norm of all gradients before it is bounded;
            scalars without gradient. A loss or gradient that is not finite changes no weight.
        """
        rate = learning_rate_at(self.steps_done, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        with self._arithmetic():
            outputs = self._network(batch.pixels)
        losses: Losses = detection_losses(outputs, batch, self.loss)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]  # torch's annotations leave it out
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradient = nn.utils.clip_grad_norm_(trained, self.config.largest_gradient)
        if _finite_everywhere(gradient, losses.total):
            self.scaler.step(self.optimizer)
            self.averaged.update(self.model, self.steps_done)
        self.scaler.update()
        self.steps_done += 1
        return {name: value.detach() for name, value in losses._asdict().items()} | {"gradient": gradient}

    def _arithmetic(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cuda", dtype=PRECISIONS[self.precision])

    def save(self, path: Path) -> None:
        """Write a checkpoint; the file is whole or the previous one at any moment."""
        state = {
            "steps_done": self.steps_done,
            "model": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        temporary = path.with_name(path.name + ".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            WeightsError: the file is no checkpoint of this network and these frozen parts.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location=self._device(), weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.model.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.steps_done = int(state["steps_done"])
        except (KeyError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raise WeightsError(f"{path}: no checkpoint of this training ({reason}); start in another folder") from error

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _finite_everywhere(gradient: Tensor, total: Tensor) -> bool:
    """Whether the step may be taken; the same answer in each worker, or their weights would part for good."""
    finite = torch.isfinite(gradient) & torch.isfinite(total)
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        agreed = finite.to(torch.int32)
        distributed.all_reduce(agreed, op=distributed.ReduceOp.MIN)
        finite = agreed > 0
    return bool(finite)


def fit(
    training: Training,
    batches: Iterable[Batch],
    *,
    report: Callable[[int, dict[str, float]], None],
    report_every: int = 50,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
) -> None:
    """Take steps until the configured number is done or the batches end.

    Args:
        training: goes on from where it stands; see `Training.load`.
        batches: from batch number `training.steps_done` on, on the model's device.
        report: called with the number of steps done and the mean of each loss over the last `report_every` steps, and
            `learning_rate`.
        report_every: steps between two reports.
        checkpoint: where checkpoints go; None writes none.
        checkpoint_every: steps between two checkpoints; one is also written at the end.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        if training.steps_done >= training.config.steps:
            break
        for name, value in training.step(batch).items():
            sums[name] = sums[name] + value if name in sums else value
        count += 1
        done = training.steps_done
        if count >= report_every or done == training.config.steps:
            means = {name: float(value) / count for name, value in sums.items()}
            report(done, means | {"learning_rate": learning_rate_at(done - 1, training.config)})
            sums, count = {}, 0
        if checkpoint is not None and done % checkpoint_every == 0:
            training.save(checkpoint)
    if checkpoint is not None:
        training.save(checkpoint)
