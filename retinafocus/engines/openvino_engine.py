"""The network as OpenVINO runs it: the fastest on CPUs."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from retinafocus.engines.graph import onnx_graph
from retinafocus.engines.openvino_import import openvino
from retinafocus.engines.protocol import joined, limit_threads, photo_errors
from retinafocus.models import Outputs, RetinaFocus

Request: TypeAlias = Any
"""An `openvino.InferRequest`; the library says nothing of its types."""

# A size of picture that comes often gets a compiled network of its own, which is 10 to 20 % faster and spares 2 ms
# where sizes alternate; compiling takes some 150 ms. Each takes 12 MB and 31 bytes for each pixel, so at most 0.4 GB.
OWN_AFTER = 100
OWN_NETWORKS = 8
OWN_PIXELS = 2**20
OWN_PARAMETERS = 2**22

# Sizes counted at once; an archive of photos of a million sizes must not fill the memory with their counts.
MAX_COUNTED = 1000


class OpenVinoEngine:
    """The network as OpenVINO runs it on a CPU, picture after picture, in float32.

    The outputs are the same bit for bit whenever the picture, the weights, the number of threads and the machine are
    the same: a size's own network is used only if it gives the same bits as the one for all sizes.
    """

    name = "openvino"
    device = "cpu"
    precision = "float32"
    batch = 1

    def __init__(self, model: RetinaFocus, threads: int | None = None) -> None:
        """Compile the model for pictures of any size.

        Args:
            model: left as it is.
            threads: CPU threads of this engine, and of PyTorch in the whole process; None leaves the libraries'
                choice.

        Raises:
            SettingsError: `threads` is below 1, or the network has a step that `engines.graph` does not know.
        """
        limit_threads(threads)
        self.preset = model.preset
        # Told nothing, it computes in bfloat16 where the processor can, and binds the threads of each process to the
        # same first cores.
        self._settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._core = openvino.Core()
        self._network = self._core.read_model(onnx_graph(model).SerializeToString())
        self._any_size: Request | None = self._compiled(-1, -1)
        self._keeps_own = sum(parameter.numel() for parameter in model.parameters()) <= OWN_PARAMETERS
        self._own: OrderedDict[tuple[int, int], Request] = OrderedDict()
        self._seen: Counter[tuple[int, int]] = Counter()

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at pictures; see `Engine.run`."""
        with photo_errors():
            return joined([self._look(pixels[index : index + 1]) for index in range(len(pixels))])

    def _look(self, picture: NDArray[np.uint8]) -> Outputs:
        """The outputs of one picture, (1, H, W, 3)."""
        size = (picture.shape[1], picture.shape[2])
        if size in self._own:
            self._own.move_to_end(size)
            return _answer(self._own[size], picture)
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

    def _count(self, size: tuple[int, int], picture: NDArray[np.uint8], outputs: Outputs) -> None:
        """Note that a picture of that size came, and compile a network for it if it came often."""
        if len(self._seen) > MAX_COUNTED:
            self._seen.clear()
        self._seen[size] += 1
        if self._seen[size] < OWN_AFTER:
            return
        del self._seen[size]
        try:
            own = self._compiled(*size)
            same = all(map(_same_bits, _answer(own, picture), outputs))
        except RuntimeError:  # no memory for it
            same = False
        if not same:
            self._keeps_own = False
            return
        self._own[size] = own
        if len(self._own) > OWN_NETWORKS:
            self._own.popitem(last=False)

    def _compiled(self, height: int, width: int) -> Request:
        """The network ready for pictures of a size; -1 for any."""
        network = self._network.clone()
        network.reshape({network.input(0): openvino.PartialShape([1, height, width, 3])})
        return self._core.compile_model(network, "CPU", self._settings).create_infer_request()


def _answer(request: Request, picture: NDArray[np.uint8]) -> Outputs:
    # Not `infer`: with one thread it returns as if nothing had happened when memory runs out (2026.4).
    request.start_async([picture], share_inputs=True)
    request.wait()
    found = [torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors]
    return Outputs(found[0], found[1], found[2], found[3] if len(found) > 3 else None)


def _same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
