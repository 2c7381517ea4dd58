"""Run a network on pixels: one class per way of doing it.

An engine is anything with the attributes and the one method of `Engine`. It starts nothing at import, and only what
is asked of it when it is made.
"""

from retinafocus.engines.choice import (
    ENGINES,
    available_engines,
    check_engine,
    engine_versions,
    make_engine,
    resolve_device,
    resolve_engine,
)
from retinafocus.engines.protocol import (
    INT8,
    PRECISIONS,
    Engine,
    EngineReport,
    check_precision,
    check_ranges,
    photo_errors,
)
from retinafocus.engines.torch_engine import TorchEngine, fold_batch_norms

__all__ = [
    "ENGINES",
    "INT8",
    "PRECISIONS",
    "Engine",
    "EngineReport",
    "TorchEngine",
    "available_engines",
    "check_engine",
    "check_precision",
    "check_ranges",
    "engine_versions",
    "fold_batch_norms",
    "make_engine",
    "photo_errors",
    "resolve_device",
    "resolve_engine",
]
