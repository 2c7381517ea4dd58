"""What every engine on a CPU promises: what eager PyTorch says, and the same bits every time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import util

import numpy as np
import pytest
import torch

from retinafocus.engines import ENGINES, Engine, make_engine
from retinafocus.errors import PhotoError, SettingsError
from retinafocus.models import Outputs, RetinaFocus
from retinafocus.weights import find_weights, load_model

Maker = Callable[..., RetinaFocus]
Pictures = Callable[..., np.ndarray]

# Largest difference from eager float32, as a share of the output's largest value (at least 1).
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(f"retinafocus.engines.{request.param}_engine")
    return str(request.param)


@pytest.fixture(scope="module")
def engine(name: str, model: RetinaFocus) -> Engine:
    return make_engine(model, name=name, device="cpu")


def as_bytes(outputs: Outputs) -> list[bytes]:
    return [output.cpu().numpy().tobytes() for output in outputs if output is not None]


def assert_about_equal(got: Outputs, wanted: Outputs) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == torch.float32
            assert one.shape == other.shape
            assert ((one - other).abs().max() / other.abs().max().clamp(min=1)) < TOLERANCE


def eager(model: RetinaFocus, pixels: np.ndarray) -> Outputs:
    with torch.inference_mode():
        outputs: Outputs = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return outputs


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (1, 300), (300, 1), (64, 96), (200, 301)], ids=str)
def test_says_what_eager_float32_says(
    engine: Engine, model: RetinaFocus, pictures: Pictures, size: tuple[int, int]
) -> None:
    pixels = pictures(*size)
    assert_about_equal(engine.run(pixels), eager(model, pixels))


@pytest.mark.parametrize("preset", ["mobilenet025-biubug6", "resnet18"])
def test_every_kind_of_network_runs(name: str, random_model: Maker, pictures: Pictures, preset: str) -> None:
    model, pixels = random_model(preset), pictures(70, 90)
    assert_about_equal(make_engine(model, name=name, device="cpu").run(pixels), eager(model, pixels))


def test_weights_that_ship_give_the_scores_of_eager_float32(name: str, pictures: Pictures) -> None:
    model, pixels = load_model(find_weights(None)), pictures(120, 160)
    got, wanted = make_engine(model, name=name, device="cpu").run(pixels), eager(model, pixels)
    assert (got.class_logits.softmax(-1) - wanted.class_logits.softmax(-1)).abs().max() < 1e-5


def test_batch_is_the_pictures_one_by_one_bit_for_bit(engine: Engine, pictures: Pictures) -> None:
    assert engine.batch == 1
    many = pictures(61, 90, count=3)
    together = engine.run(many)
    assert together.class_logits.shape[0] == 3
    for index in range(3):
        alone = engine.run(many[index : index + 1])
        assert [part[index : index + 1].numpy().tobytes() for part in together if part is not None] == as_bytes(alone)


def test_same_bits_whatever_was_looked_at_before(
    engine: Engine, name: str, model: RetinaFocus, pictures: Pictures
) -> None:
    pixels = pictures(97, 131)
    first = as_bytes(engine.run(pixels))
    for size in ((33, 500), (1, 1), (400, 300), (97, 131), (64, 64)):
        engine.run(pictures(*size, seed=1))
        assert as_bytes(engine.run(pixels)) == first
    assert as_bytes(make_engine(model, name=name, device="cpu").run(pixels)) == first


def test_outputs_stay_when_the_next_picture_comes(engine: Engine, pictures: Pictures) -> None:
    outputs = engine.run(pictures(40, 50))
    kept = as_bytes(outputs)
    engine.run(pictures(40, 50, seed=1))
    assert as_bytes(outputs) == kept


def test_read_only_pixels_are_looked_at_without_a_warning(engine: Engine, pictures: Pictures) -> None:
    pixels = pictures(40, 40)
    wanted = as_bytes(engine.run(pixels))
    pixels.flags.writeable = False
    assert as_bytes(engine.run(pixels)) == wanted


def test_outputs_need_no_gradient(engine: Engine, pictures: Pictures) -> None:
    assert not any(output.requires_grad for output in engine.run(pictures(20, 20)) if output is not None)


def test_given_model_is_left_as_it_is(name: str, random_model: Maker, pictures: Pictures) -> None:
    model = random_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_engine(model, name=name, device="cpu").run(pictures(20, 20))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_threads_are_set_when_asked_for_and_only_then(
    name: str, model: RetinaFocus, pictures: Pictures, threads_as_before: int
) -> None:
    pixels = pictures(64, 64)
    wanted = make_engine(model, name=name, device="cpu").run(pixels)
    assert torch.get_num_threads() == threads_as_before
    engine = make_engine(model, name=name, device="cpu", threads=threads_as_before + 1)
    assert torch.get_num_threads() == threads_as_before + 1
    assert_about_equal(engine.run(pixels), wanted)


def test_no_threads_are_refused(name: str, model: RetinaFocus) -> None:
    with pytest.raises(SettingsError, match="threads is 0; choose at least 1"):
        make_engine(model, name=name, device="cpu", threads=0)


class Broken:
    """Stands for a session of ONNX Runtime."""

    def run(self, *arguments: object) -> None:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail

        raise Fail("at 0x7f00")


def test_other_failures_are_the_photos_without_their_text(
    model: RetinaFocus, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    engine = make_engine(model, name="onnx", device="cpu")
    monkeypatch.setattr(engine, "_session", Broken())
    with pytest.raises(PhotoError, match=r"^the network failed with a Fail$") as caught:
        engine.run(pictures(40, 40))
    assert caught.value.status == "model_error"


# Run by itself: a limit on memory is the whole process's.
LOW_MEMORY = """
import resource, sys
import numpy as np
from retinafocus.engines import make_engine
from retinafocus.errors import PhotoError
from retinafocus.weights import find_weights, load_model

assert not {"openvino", "onnxruntime", "onnx"} & set(sys.modules), "loaded before it was asked for"
model = load_model(find_weights(None))
small = np.random.default_rng(0).integers(0, 256, (1, 90, 121, 3), dtype=np.uint8)
large = np.random.default_rng(1).integers(0, 256, (1, 2000, 2000, 3), dtype=np.uint8)
for name, threads in (("onnx", 1), ("openvino", 1), ("openvino", 2)):
    engine = make_engine(model, name=name, device="cpu", threads=threads)
    wanted = [part.clone() for part in engine.run(small)]
    for megabytes in (4, 24):
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, -1))
        try:
            engine.run(large)
            print("answered")
        except PhotoError as error:
            print(error.status)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert all(one.equal(other) for one, other in zip(engine.run(small), wanted))
"""


def test_photo_that_memory_is_too_small_for_says_so_and_harms_no_other() -> None:
    for name in ENGINES:
        pytest.importorskip(f"retinafocus.engines.{name}_engine")
    if sys.platform != "linux":
        pytest.skip("limits memory as Linux does")
    run = subprocess.run([sys.executable, "-c", LOW_MEMORY], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["out_of_memory"] * 6, run.stderr


# Run by itself: what is loaded stays loaded. Where nothing may leave the machine, a look-up of a name is a leak too.
NOTHING_LEAVES = """
import socket, sys, threading

def fail(*arguments, **named):
    sys.exit(f"wants to reach {arguments}")

socket.getaddrinfo = socket.socket.connect = fail
from retinafocus.engines import make_engine
from retinafocus.weights import find_weights, load_model

make_engine(load_model(find_weights(None)), name="openvino", device="cpu")
assert "openvino" in sys.modules
print([name for name in sys.modules if "openvino_telemetry" in name], threading.active_count())
"""


def test_openvino_is_loaded_without_its_telemetry() -> None:
    if util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    run = subprocess.run([sys.executable, "-c", NOTHING_LEAVES], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[] 1", "")
