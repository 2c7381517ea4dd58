"""The package as a whole: public names, and what importing it must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import retinafocus

# Imports the named package with every module below it; then fails if Ray is loaded or CUDA started.
CHECK = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith(package.__name__)]), "modules")
if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
    sys.exit("CUDA is started")
sys.exit("ray is loaded" if "ray" in sys.modules else 0)
"""


def check(package: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHECK, package], cwd=folder, capture_output=True, text=True)


def test_no_module_of_the_library_loads_ray_or_starts_cuda() -> None:
    result = check("retinafocus", Path(retinafocus.__file__).parents[1])
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout.split()[0]) > 20


@pytest.mark.parametrize("place", ["__init__.py", "deep.py", "inner/__init__.py"])
def test_the_check_for_ray_can_fail(tmp_path: Path, place: str) -> None:
    (tmp_path / "ray.py").touch()  # a stand-in: loading the real one takes seconds and proves no more
    for folder in (tmp_path / "package", tmp_path / "package" / "inner"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    assert check("package", tmp_path).returncode == 0
    (tmp_path / "package" / place).write_text("import ray\n")
    result = check("package", tmp_path)
    assert result.returncode == 1
    assert result.stderr == "ray is loaded\n"


def test_import_loads_neither_torch_nor_arrow_until_a_name_is_used() -> None:
    code = "import sys, retinafocus; sys.exit(len({'torch', 'pyarrow', 'cv2', 'ray'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(retinafocus.__file__).parents[1])


def test_public_names_exist_and_are_listed() -> None:
    for name in retinafocus.__all__:
        assert getattr(retinafocus, name) is not None
        assert name in dir(retinafocus)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'retinafocus' has no attribute 'detecter'"):
        _ = retinafocus.detecter  # type: ignore[attr-defined]


def test_version_is_that_of_the_package() -> None:
    project = Path(retinafocus.__file__).parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("installed without its pyproject.toml")
    assert f'\nversion = "{retinafocus.__version__}"\n' in project.read_text()


def test_detection_with_the_small_backbone_does_without_the_compiler_of_torch() -> None:
    code = """
import sys, numpy
from retinafocus import Detector
from retinafocus.models import RetinaFocus, get_preset
Detector(RetinaFocus(get_preset("mobilenet025-1mb"))).detect(numpy.zeros((64, 64, 3), numpy.uint8))
sys.exit(len({"torchvision", "torch._dynamo"} & sys.modules.keys()))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(retinafocus.__file__).parents[1])
