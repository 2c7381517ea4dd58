"""RetinaFocus: find every face in huge archives of large photographs.

Start reading at `detector.py`. Public names are loaded when they are first used, so `import retinafocus` is cheap;
nothing here ever loads Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinafocus.detector import Detector, DetectorConfig
    from retinafocus.errors import PhotoError, RetinaFocusError, RunError, SettingsError, WeightsError
    from retinafocus.faces import Faces
    from retinafocus.postprocessing import PostConfig
    from retinafocus.runs import open_run
    from retinafocus.storage import StorageConfig

__version__ = "0.1.0"

__all__ = [
    "Detector",
    "DetectorConfig",
    "Faces",
    "PhotoError",
    "PostConfig",
    "RetinaFocusError",
    "RunError",
    "SettingsError",
    "StorageConfig",
    "WeightsError",
    "__version__",
    "open_run",
]

_MODULES = {
    "Detector": "detector",
    "DetectorConfig": "detector",
    "Faces": "faces",
    "PhotoError": "errors",
    "PostConfig": "postprocessing",
    "RetinaFocusError": "errors",
    "RunError": "errors",
    "SettingsError": "errors",
    "StorageConfig": "storage",
    "WeightsError": "errors",
    "open_run": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
