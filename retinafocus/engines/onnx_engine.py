"""The network as ONNX Runtime runs it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from retinafocus.engines.graph import INPUT, onnx_graph
from retinafocus.engines.protocol import check_precision, joined, limit_threads, photo_errors
from retinafocus.models import Outputs, RetinaFocus

# Its log repeats each exception in red on the terminal; "fatal" alone remains.
LOG_FATAL_ONLY = 4


class OnnxEngine:
    """The network as ONNX Runtime runs it on a CPU, picture after picture, in float32.

    The outputs are the same bit for bit whenever the picture, the weights, the number of threads and the machine are
    the same.
    """

    name = "onnx"
    device = "cpu"
    batch = 1

    def __init__(self, model: RetinaFocus, precision: str = "float32", threads: int | None = None) -> None:
        """Load the model for pictures of any size.

        Args:
            model: left as it is.
            precision: "float32"; in 8-bit integers it is no faster.
            threads: CPU threads of this engine, and of PyTorch in the whole process; None leaves the libraries'
                choice.

        Raises:
            SettingsError: the precision is another, `threads` is below 1, or the network has a step that
                `engines.graph` does not know.
        """
        check_precision(precision, self.device, self.name)
        self.precision = precision
        limit_threads(threads)
        self.preset = model.preset
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_FATAL_ONLY
        options.intra_op_num_threads = threads or 0  # 0: its own choice
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # It plans the memory of each size it sees: a quarter more memory at 4K, and slower where sizes change.
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(
            onnx_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Look at pictures; see `Engine.run`."""
        with photo_errors(Fail, RuntimeException):
            return joined([self._look(pixels[index : index + 1]) for index in range(len(pixels))])

    def _look(self, picture: NDArray[np.uint8]) -> Outputs:
        """The outputs of one picture, (1, H, W, 3)."""
        found = [torch.from_numpy(values) for values in self._session.run(None, {INPUT: picture})]
        return Outputs(found[0], found[1], found[2], found[3] if len(found) > 3 else None)
