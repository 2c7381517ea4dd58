"""Running the network: folded, in the right type, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retinafocus.engines import TorchEngine, available_engines, fold_batch_norms, resolve_device
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, RetinaFocus, get_preset

PRESET = get_preset("mobile025")


def random_model(name: str = "mobile025") -> RetinaFocus:
    """A model whose batch norms do something: a new one's are identities, and folding those proves nothing."""
    torch.manual_seed(3)
    model = RetinaFocus(get_preset(name)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                assert tensor is not None
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def picture(height: int, width: int, seed: int = 0, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_bytes(outputs: Outputs) -> list[bytes]:
    return [output.cpu().numpy().tobytes() for output in outputs if output is not None]


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(random_model())


@pytest.mark.parametrize("name", ["mobilenet025-biubug6", "mobile025", "resnet18", "resnet50-biubug6"])
def test_folded_network_says_the_same(name: str) -> None:
    model = random_model(name)
    pixels = picture(70, 90)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    got = TorchEngine(model).run(pixels)
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == torch.float32
            scale = other.abs().max().clamp(min=1)
            assert ((one - other) / scale).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["mobile025", "resnet18", "resnet50-biubug6"])
def test_every_batch_norm_is_folded(name: str) -> None:
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


def test_given_model_is_left_as_it_is() -> None:
    model = random_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    TorchEngine(model).run(picture(20, 20))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_answer_is_the_same_bit_for_bit_whatever_was_looked_at_before(engine: TorchEngine) -> None:
    pixels = picture(97, 131)
    first = as_bytes(engine.run(pixels))
    engine.run(picture(33, 500, seed=1))
    engine.run(picture(1, 1))
    assert as_bytes(engine.run(pixels)) == first
    assert as_bytes(TorchEngine(random_model()).run(pixels)) == first


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (8, 8), (33, 65)], ids=str)
def test_any_size_runs(engine: TorchEngine, size: tuple[int, int]) -> None:
    height, width = size
    outputs = engine.run(picture(height, width))
    cells = sum(-(-height // stride) * -(-width // stride) for stride in (8, 16, 32))
    assert outputs.class_logits.shape == (1, 2 * cells, 2)
    assert outputs.focus_logits is not None
    assert outputs.focus_logits.shape == (1, 1, -(-height // 8), -(-width // 8))


def test_read_only_pixels_are_looked_at_without_a_warning(engine: TorchEngine) -> None:
    pixels = picture(40, 40)
    wanted = as_bytes(engine.run(pixels))
    pixels.flags.writeable = False
    assert as_bytes(engine.run(pixels)) == wanted


def test_outputs_need_no_gradient(engine: TorchEngine) -> None:
    assert not any(output.requires_grad for output in engine.run(picture(20, 20)) if output is not None)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        pytest.param(MemoryError(), "out_of_memory", "needs more memory for it than there is", id="python"),
        pytest.param(
            torch.OutOfMemoryError("CUDA 0x7f"), "out_of_memory", "larger min_face or a smaller max", id="cuda"
        ),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "memory", id="cpu"),
        pytest.param(RuntimeError("at 0x7f00"), "model_error", "^the network failed with a RuntimeError$", id="other"),
    ],
)
def test_failure_of_the_network_is_an_error_of_the_photo(error: Exception, status: str, text: str) -> None:
    class Failing(RetinaFocus):
        def forward(self, pixels: Tensor) -> Outputs:
            raise error

    with pytest.raises(PhotoError, match=text) as caught:
        TorchEngine(Failing(PRESET)).run(picture(4, 4))
    assert caught.value.status == status
    assert "0x7f" not in caught.value.reason


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
def test_wrong_settings_say_the_rule_and_the_value(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        TorchEngine(random_model(), **arguments)


def test_threads_are_set_when_asked_for_and_only_then(engine: TorchEngine) -> None:
    before = torch.get_num_threads()
    try:
        TorchEngine(random_model())
        assert torch.get_num_threads() == before
        TorchEngine(random_model(), threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_every_engine_is_reported_with_what_stands_in_its_way() -> None:
    reports = available_engines()
    assert (reports[0].name, reports[0].device, reports[0].usable) == ("torch", "cpu", True)
    assert any(report.device.startswith("cuda") for report in reports)
    assert all(torch.__version__ in report.detail for report in reports)


def test_auto_is_cuda_where_it_can_be_used() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cuda:3") == "cuda:3"


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float16", 0.05), ("bfloat16", 0.3)])
def test_cuda_says_about_the_same(engine: TorchEngine, precision: str, tolerance: float) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pixels = picture(200, 300)
    wanted, got = engine.run(pixels), TorchEngine(random_model(), "cuda", precision).run(pixels)
    for one, other in zip(got, wanted, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == torch.float32
        assert ((one.cpu() - other) / other.abs().max().clamp(min=1)).abs().max() < tolerance
