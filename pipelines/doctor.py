"""`retinafocus doctor`: what is installed here, what works, and what would make it faster."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util

import numpy as np
import psutil
import torch

from pipelines.workers import usable_cores
from retinafocus.engines import EngineReport, available_engines
from retinafocus.errors import PhotoError, WeightsError
from retinafocus.photos import FORMATS, decode
from retinafocus.weights import find_weights

LIBRARIES = ("torch", "torchvision", "ray", "pyarrow", "opencv-python", "simplejpeg", "pillow", "numpy", "safetensors")

# What is worth installing, if the machine has use for it: package, what it brings.
WORTH_HAVING = {
    "openvino": "the fastest engine for CPUs, 1.6 to 2 times as fast as torch: pip install 'retinafocus[openvino]'",
    "pillow_heif": "photos of iPhones (.heic): pip install 'retinafocus[heic]'",
    "skimage": "the demo's pictures: pip install 'retinafocus[demo]'",
}


def examine() -> str:
    """The report, line by line."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    lines = [
        f"retinafocus {metadata.version('retinafocus')}, Python {platform.python_version()}, {platform.platform()}",
        "libraries " + ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
        f"cpu       {usable_cores()} of {os.cpu_count()} cores usable, torch uses {torch.get_num_threads()} threads",
        f"memory    {memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB",
        f"disk      {disk.free / 1e9:.0f} GB free here",
        f"gpu       {_gpus()}",
        *(f"engine    {_engine(engine)}" for engine in available_engines()),
        f"decoders  {', '.join(FORMATS)}; JPEG decoder {_jpeg_check()}",
        f"weights   {_weights()}",
    ]
    advice = [text for module, text in WORTH_HAVING.items() if util.find_spec(module) is None]
    return "\n".join([*lines, *(f"missing   {text}" for text in advice)])


def _engine(engine: EngineReport) -> str:
    return f"{engine.name} on {engine.device}: {'usable' if engine.usable else 'not usable'}; {engine.detail}"


def _gpus() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    if shutil.which("nvidia-smi"):
        return "there is an NVIDIA driver, but torch cannot use it: check that torch's CUDA version fits the driver"
    return "none; the network runs on the CPU"


def _jpeg_check() -> str:
    import simplejpeg

    picture = np.full((16, 24, 3), 128, np.uint8)
    try:
        shape = decode(simplejpeg.encode_jpeg(picture, quality=90), reduction=2).shape
    except PhotoError as error:
        return f"DOES NOT WORK: {error.reason}"
    return "works, reduced decoding too" if shape == (8, 12, 3) else f"GIVES {shape} FOR HALF OF 16 x 24"


def _weights() -> str:
    try:
        return str(find_weights(None))
    except WeightsError as error:
        return f"none ship with this version: {error}"
