"""PyTorch's engine: folded, in the right type, on the right device."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retinafocus.engines import TorchEngine, fold_batch_norms
from retinafocus.engines.torch_engine import pictures_at_once
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, RetinaFocus, get_preset

Maker = Callable[..., RetinaFocus]
Pictures = Callable[..., np.ndarray]


@pytest.mark.parametrize("name", ["mobile025", "resnet18", "resnet50-biubug6"])
def test_every_batch_norm_is_folded(random_model: Maker, name: str) -> None:
    folded = fold_batch_norms(random_model(name))
    assert not [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_batch_norm_without_a_convolution_before_it_stays() -> None:
    sequence = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert [type(module).__name__ for module in fold_batch_norms(sequence).children()] == [
        "BatchNorm2d",
        "Conv2d",
        "ReLU",
        "BatchNorm2d",
    ]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        pytest.param(MemoryError(), "out_of_memory", "not enough memory to look at it", id="python"),
        pytest.param(torch.OutOfMemoryError("CUDA 0x7f"), "out_of_memory", "fewer workers or a smaller", id="cuda"),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "memory", id="cpu"),
        pytest.param(RuntimeError("at 0x7f00"), "model_error", "^the network failed with a RuntimeError$", id="other"),
    ],
)
def test_failure_of_the_network_is_an_error_of_the_photo(
    pictures: Pictures, error: Exception, status: str, text: str
) -> None:
    class Failing(RetinaFocus):
        def forward(self, pixels: Tensor) -> Outputs:
            raise error

    with pytest.raises(PhotoError, match=text) as caught:
        TorchEngine(Failing(get_preset("mobile025"))).run(pictures(4, 4))
    assert caught.value.status == status
    assert "0x7f" not in caught.value.reason


class SmallMemory(TorchEngine):
    """As on a GPU: always full batches, and memory for so many pictures."""

    room = 2

    def _run(self, pixels: np.ndarray, together: int) -> Outputs:
        self.tried = [*getattr(self, "tried", []), together]
        if together > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._run(pixels, together)


def test_batch_that_does_not_fit_is_tried_in_halves(random_model: Maker, pictures: Pictures) -> None:
    pixels = np.concatenate([pictures(32, 32), pictures(32, 32)[:, ::-1], pictures(32, 32)[:, :, ::-1]])[:5]
    model = random_model("mobile025")
    engine = SmallMemory(model)
    engine.batch = 8
    outputs = engine.run(np.ascontiguousarray(pixels))
    assert engine.tried == [8, 4, *[2] * -(-len(pixels) // 2)]
    expected = TorchEngine(model).run(np.ascontiguousarray(pixels))
    torch.testing.assert_close(outputs.class_logits, expected.class_logits)


def test_picture_that_never_fits_is_an_error_of_the_photo(random_model: Maker, pictures: Pictures) -> None:
    engine = SmallMemory(random_model("mobile025"))
    engine.batch, engine.room = 4, 0
    with pytest.raises(PhotoError) as caught:
        engine.run(pictures(32, 32))
    assert caught.value.status == "out_of_memory"
    assert engine.tried == [4, 2, 1]


def test_what_ran_out_of_memory_lets_go_of_what_it_held(pictures: Pictures) -> None:
    class Held:
        """Counts as held until the garbage collector has it."""

    held = []

    class Failing(RetinaFocus):
        def forward(self, pixels: Tensor) -> Outputs:
            activations = Held()
            held.append(weakref.ref(activations))
            raise MemoryError

    with pytest.raises(PhotoError) as caught:
        TorchEngine(Failing(get_preset("mobile025"))).run(pictures(4, 4))
    assert caught.value.__cause__ is not None  # which still has the frame that held them
    assert [reference() for reference in held] == [None]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param({"device": "tpu"}, "device is 'tpu'; choose auto, cpu, cuda or cuda:N", id="device"),
        pytest.param({"device": "cuda:77"}, "device is 'cuda:77'; usable here: cpu", id="no such device"),
        pytest.param(
            {"precision": "int4"}, "precision is 'int4'; choose one of float32, float16, bfloat16", id="precision"
        ),
        pytest.param({"precision": "float16"}, "precision is 'float16' on the CPU; choose float32", id="half on a CPU"),
        pytest.param({"threads": 0}, "threads is 0; choose at least 1", id="threads"),
    ],
)
def test_wrong_settings_say_the_rule_and_the_value(model: RetinaFocus, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        TorchEngine(model, **arguments)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        pytest.param((1, 1), 16, id="one pixel"),
        pytest.param((256, 256), 16, id="a megapixel is sixteen of them"),
        pytest.param((256, 257), 8, id="rounded down to a power of two"),
        pytest.param((512, 512), 4, id="four"),
        pytest.param((800, 1312), 1, id="larger than half the budget"),
        pytest.param((4000, 6000), 1, id="larger than the budget"),
    ],
)
def test_gpu_batch_is_a_function_of_the_size_of_a_picture(size: tuple[int, int], count: int) -> None:
    assert pictures_at_once(*size, 16) == count
    assert pictures_at_once(*size, 1) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float16", 0.05), ("bfloat16", 0.3)])
def test_cuda_says_about_the_same(model: RetinaFocus, pictures: Pictures, precision: str, tolerance: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pixels = pictures(200, 300)
    wanted, got = TorchEngine(model).run(pixels), TorchEngine(model, "cuda", precision).run(pixels)
    for one, other in zip(got, wanted, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == torch.float32
        assert ((one.cpu() - other) / other.abs().max().clamp(min=1)).abs().max() < tolerance


@pytest.mark.gpu
def test_answer_on_cuda_does_not_depend_on_the_company(model: RetinaFocus, pictures: Pictures) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engine, many = TorchEngine(model, "cuda"), pictures(96, 128, count=16)
    together = engine.run(many)
    for first, count in ((0, 1), (3, 5), (15, 1)):
        some = engine.run(many[first : first + count])
        for one, other in zip(some, together, strict=True):
            assert one is not None
            assert other is not None
            assert ((one - other[first : first + count]).abs().max() / other.abs().max().clamp(min=1)) < 1e-5
