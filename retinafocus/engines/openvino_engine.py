"""The network as OpenVINO runs it: the fastest on CPUs."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.engines.graph import onnx_graph
from retinafocus.engines.integers import check_processor
from retinafocus.engines.openvino_import import core, openvino
from retinafocus.engines.protocol import INT8, check_precision, check_ranges, joined, limit_threads, photo_errors
from retinafocus.footprint import KEPT_BYTES
from retinafocus.models import Outputs, RetinaFocus

Request: TypeAlias = Any
"""An `openvino.InferRequest`; the library says nothing of its types."""

# A size of picture that comes often gets a compiled network of its own, which spares 0.2 ms for each picture, and 1 ms
# where sizes alternate. Compiling takes 0.2 s (0.4 in 8-bit integers): what is spared in 100 to 1000 pictures, so that
# a short run does not pay for what only a long one has use of.
OWN_AFTER = 100
OWN_PIXELS = 2**20
OWN_PARAMETERS = 2**22

# Memory of all of them, by what each was measured to take. A busy archive of 4K photos has some 25 sizes of chips and
# levels. With the 12 commonest, which take that much, its photos take 17 % less time in the network; with all 21 %.
OWN_BYTES = KEPT_BYTES["openvino"]
FIXED_BYTES = 9 * 2**20
PIXEL_BYTES = 31

# One that has not been used for so many pictures makes room. Not sooner: where there are more sizes than room, they
# would be compiled in turn for ever.
IDLE_AFTER = 5000

# Sizes counted at once; an archive of photos of a million sizes must not fill the memory with their counts.
MAX_COUNTED = 1000


class OpenVinoEngine:
    """The network as OpenVINO runs it on a CPU, picture after picture.

    The outputs are the same bit for bit whenever the picture, the weights, the number of threads and the machine are
    the same: a size's own network is used only if it gives the same bits as the one for all sizes.
    """

    name = "openvino"
    device = "cpu"
    batch = 1

    def __init__(self, model: RetinaFocus, precision: str = "float32", threads: int | None = None) -> None:
        """Compile the model for pictures of any size.

        Args:
            model: left as it is; has ranges if the precision is "int8".
            precision: "float32", or "int8": convolutions in 8-bit integers, all else and the outputs in float32.
            threads: CPU threads of this engine, and of PyTorch in the whole process; None leaves the libraries'
                choice.

        Raises:
            SettingsError: the precision is another, or not for this processor or model; `threads` is below 1; or the
                network has a step that `engines.graph` does not know.
        """
        check_precision(precision, self.device, self.name)
        check_ranges(precision, model.ranges)
        limit_threads(threads)
        self.precision = precision
        self.preset = model.preset
        # "f32" is for what is not in integers. Told nothing, it computes in bfloat16 where the processor can (this
        # network, on a Xeon with AMX: 0.6 times as fast), and binds the threads of each process to the same cores.
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        if precision == INT8:
            check_processor(self._settings)
        self._core = core()
        graph = onnx_graph(model, ranges=model.ranges if precision == INT8 else None)
        self._network = self._core.read_model(graph.SerializeToString())
        self._any_size: Request | None = self._compiled(-1, -1)
        self._keeps_own = sum(parameter.numel() for parameter in model.parameters()) <= OWN_PARAMETERS
        self._own: OrderedDict[tuple[int, int], _OwnNetwork] = OrderedDict()  # the least recently used first
        self._seen: Counter[tuple[int, int]] = Counter()
        self._looks = 0

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at pictures; see `Engine.run`."""
        with photo_errors():
            return joined([self._look(pixels[index : index + 1]) for index in range(len(pixels))])

    def _look(self, picture: NDArray[np.uint8]) -> Outputs:
        """The outputs of one picture, (1, H, W, 3)."""
        size = (picture.shape[1], picture.shape[2])
        self._looks += 1
        if size in self._own:
            return self._own_answer(size, picture)
        if self._any_size is None:
            self._any_size = self._compiled(-1, -1)
        try:
            outputs = _answer(self._any_size, picture)
        except RuntimeError:
            # After a failed allocation its next answers would be wrong, or end the process.
            self._any_size = None
            raise
        if self._keeps_own and size[0] * size[1] <= OWN_PIXELS:
            self._count(size, picture, outputs)
        return outputs

    def _own_answer(self, size: tuple[int, int], picture: NDArray[np.uint8]) -> Outputs:
        """The same by the network for that size."""
        self._own.move_to_end(size)
        self._own[size].used_at = self._looks
        try:
            return _answer(self._own[size].request, picture)
        except RuntimeError:
            del self._own[size]  # as above
            raise

    def _count(self, size: tuple[int, int], picture: NDArray[np.uint8], outputs: Outputs) -> None:
        """Note that a picture of that size came, and compile a network for it if it came often."""
        if len(self._seen) > MAX_COUNTED:
            self._seen.clear()
        self._seen[size] += 1
        if self._seen[size] < OWN_AFTER:
            return
        del self._seen[size]
        if not self._make_room(size):
            return
        try:
            own = self._compiled(*size)
            same = all(map(_same_bits, _answer(own, picture), outputs))
        except RuntimeError:  # no memory for it
            same = False
        if not same:
            self._keeps_own = False
            return
        self._own[size] = _OwnNetwork(own, self._looks)

    def _make_room(self, size: tuple[int, int]) -> bool:
        """Drop idle networks until one for that size may be kept; whether it may."""
        while sum(map(_own_bytes, [*self._own, size])) > OWN_BYTES:
            if not self._own or self._looks - next(iter(self._own.values())).used_at < IDLE_AFTER:
                return False
            self._own.popitem(last=False)
        return True

    def _compiled(self, height: int, width: int) -> Request:
        """The network ready for pictures of a size; -1 for any."""
        network = self._network.clone()
        network.reshape({network.input(0): openvino.PartialShape([1, height, width, 3])})
        return self._core.compile_model(network, "CPU", self._settings).create_infer_request()


@dataclass
class _OwnNetwork:
    """Compiled for one size."""

    request: Request
    used_at: int
    """Pictures that the engine had looked at by then."""


def _own_bytes(size: tuple[int, int]) -> int:
    """Memory of a network for one size."""
    return FIXED_BYTES + PIXEL_BYTES * size[0] * size[1]


def _answer(request: Request, picture: NDArray[np.uint8]) -> Outputs:
    # Not `infer`: with one thread it returns as if nothing had happened when memory runs out (2026.4).
    request.start_async([picture], share_inputs=True)
    request.wait()
    found = [torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors]
    return Outputs(found[0], found[1], found[2], found[3] if len(found) > 3 else None)


def _same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
