"""The house as drawn: which way imports go, and that what the documents promise exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import cli
from retinafocus.errors import STATUSES
from retinafocus.faces import FACES_SCHEMA, FIELD_MEANINGS, IMAGES_SCHEMA, TIMING_SCHEMA

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Who may import whom, beside the libraries of others and itself.
MAY_IMPORT = {"retinafocus": set(), "pipelines": {"retinafocus"}, "tune": {"retinafocus", "pipelines"}}

# The command line imports each verb when it is called, a search too: nothing else in `pipelines` may.
COMMANDS_OF_TUNE = sorted((ROOT / "pipelines" / "commands").glob("tune_*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", list(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    rooms = set(MAY_IMPORT) | {"benchmarks", "tests"}
    for path in (ROOT / package).rglob("*.py"):
        allowed = MAY_IMPORT[package] | ({"tune"} if path in COMMANDS_OF_TUNE else set())
        wrong = set(_imports(path)) & rooms - allowed - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("path", COMMANDS_OF_TUNE, ids=lambda path: path.stem)
def test_the_command_line_loads_no_search_before_it_is_called(path: Path) -> None:
    at_the_top = [node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert not [name for name in at_the_top if name and name.startswith("tune")]
    assert "tune" in set(_imports(path))


def test_one_module_for_each_of_rays_libraries_imports_ray() -> None:
    # Ray Data, Train and Tune take seconds to load and want other settings: a detection loads the first alone. What
    # asks nodes, counts for operators and sends jobs loads none of the three.
    paths = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    assert sorted(path.name for path in paths if "ray" in _imports(path)) == [
        "metrics_on_ray.py",
        "mixed_on_ray.py",
        "on_ray.py",
        "preflight_on_ray.py",
        "search_on_ray.py",
        "submit.py",
        "train_on_ray.py",
    ]


def test_every_package_is_listed_for_installation() -> None:
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(there)


def _commands() -> list[object]:
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```console\n(.*?)```", path.read_text(), re.S):
            for line in block.splitlines():
                for part in re.split(r"&&|\|", line.removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    if words and Path(words[0]).name == "retinafocus":
                        found.append(pytest.param(words[1:], id=f"{path.name}: {shlex.join(words)}"))
    return found


@pytest.mark.parametrize("words", _commands())
def test_documented_command_is_one_of_ours(words: list[str]) -> None:
    if words and words != ["--help"]:
        cli._parser().parse_args(words)


def test_a_command_that_is_not_ours_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args(["detect", "photos", "-o", "out", "--no-such-flag"])


def test_ci_runs_the_command_of_the_readme() -> None:
    (command,) = re.findall(r"\$ (python3 -m venv .*pytest)", (ROOT / "README.md").read_text())
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
    assert command in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_column_and_status_is_documented_as_the_code_says() -> None:
    text = (ROOT / "docs" / "tables.md").read_text()
    for schema in (FACES_SCHEMA, IMAGES_SCHEMA, TIMING_SCHEMA):
        for field in schema:
            assert re.search(rf"\| `{field.name}` \| [^|]+ \| {re.escape(FIELD_MEANINGS[field.name])} \|", text), (
                field.name
            )
    for status, meaning in STATUSES.items():
        assert f"| `{status}` | {meaning} |" in text


def test_every_module_of_the_tree_in_the_readme_exists() -> None:
    tree = re.search(r"```\n(retinafocus/.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree is not None
    folder = ROOT
    for line in tree.group(1).splitlines():
        names = re.match(r"\s*((?:\w+(?:\.py|/)\s+)+)", line)
        assert names is not None, line
        if line[0] != " ":
            folder = ROOT / names.group(1).strip()
            assert folder.is_dir(), line
        else:
            assert all((folder / name).exists() for name in names.group(1).split()), line
