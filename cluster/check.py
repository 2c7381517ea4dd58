"""Say what is wrong with launch files: `python -m cluster.check [FILE ...]`; without files, with all of this folder.

For whoever changes one before using it; wants `pip install 'retinafocus[test]'`. The tests do the same.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from cluster.check_container import recipe_problems
from cluster.check_kuberay import kuberay_problems
from cluster.check_ray_up import ray_up_problems
from cluster.commands import command_problems, install_problems, shell_problems

CLUSTER = Path(__file__).parent

FILES = (
    *(f"ray_up/{name}.yaml" for name in ("aws", "gcp", "on_premise")),
    "ray_up/install.sh",
    *(f"kuberay/{name}.yaml" for name in ("raycluster", "rayjob", "serviceaccount", "secret.example")),
    "slurm/detect.sbatch",
    "container/Containerfile",
    "constraints.txt",
    "README.md",
)


def problems(path: Path, text: str | None = None) -> list[str]:
    """What is wrong with one file, by its name and folder; none if nothing is.

    Args:
        path: of a launch file.
        text: to be checked as if it stood there; None reads the file.
    """
    text = path.read_text() if text is None else text
    if path.name == "Containerfile":
        return recipe_problems(text)
    if path.suffix == ".md":
        return document_problems(text)
    if path.name == "constraints.txt":
        return pin_problems(text)
    if path.suffix == ".sbatch":
        return shell_problems(text) + command_problems(text) + sbatch_problems(text)
    if path.suffix == ".sh":
        return shell_problems(text) + command_problems(text) + install_problems(text)
    return kuberay_problems(text) if re.search(r"^apiVersion:", text, re.M) else ray_up_problems(text)


def document_problems(text: str) -> list[str]:
    """Of the commands in a document's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    return command_problems("".join(blocks).replace("$ ", ""))


def sbatch_problems(text: str) -> list[str]:
    """Of what a Slurm script asks for, and of the calls that its head shows."""
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M)
    found = [f"#SBATCH: {line}" for line in re.findall(r"^#SBATCH(?! --[a-z-]+(?:=\S+)?$).*", text, re.M)]
    found += [f"#SBATCH --{name}: is no option that we know" for name, _ in options if name not in SBATCH_OPTIONS]
    given = dict(options)
    for name, pattern in SBATCH_OPTIONS.items():
        if name in given and not re.fullmatch(pattern, given[name]):
            found.append(f"#SBATCH --{name}={given[name]}: does not fit {pattern}")
    found += [
        f"#SBATCH --{name} is missing" for name in ("requeue", "signal", "exclusive", "nodes") if name not in given
    ]
    # Slurm reads its lines only up to the first command.
    before = text[: re.search(r"^[^#\n]", text, re.M).start()]  # type: ignore[union-attr]  # a script has commands
    if before.count("#SBATCH") != text.count("\n#SBATCH"):
        found.append("#SBATCH: stands behind the first command")
    examples = re.findall(r"^#\s+(sbatch .*)$", text, re.M)
    return found + command_problems("\n".join(examples))


SBATCH_OPTIONS = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    # `ray symmetric-run` is one process on each node.
    "ntasks-per-node": "1",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "mem": r"0|\d+[MG]",
    "exclusive": "",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    # To the script alone, with time for shards in hand.
    "signal": r"B:TERM@([3-9]\d\d|\d{4,})",
    "requeue": "",
    "open-mode": "append",
    "output": r"\S*%j\S*",
}


# Of the nodes, by which some packages have other pins.
NODE_PYTHON = {"python_version": "3.12", "python_full_version": "3.12.12"}


def pin_problems(text: str) -> list[str]:
    """Of the pins that nodes take: what `pyproject.toml` asks for, by versions that it admits."""
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    found = [f"{line}: is not pinned" for line in lines if not re.fullmatch(r"==[\w.]+", str(line.specifier))]
    pins = {
        line.name: str(line.specifier).removeprefix("==")
        for line in lines
        if line.marker is None or line.marker.evaluate(NODE_PYTHON)
    }
    for wanted in map(Requirement, metadata.requires("retinafocus") or []):
        needed = wanted.marker is None or any(
            wanted.marker.evaluate({**NODE_PYTHON, "extra": extra}) for extra in ("", "cluster", "openvino", "s3")
        )
        if not needed or wanted.name == "retinafocus":
            continue
        if wanted.name not in pins:
            found.append(f"{wanted.name} is not pinned")
        elif not wanted.specifier.contains(pins[wanted.name]):
            found.append(f"{wanted.name} is pinned to {pins[wanted.name]}, pyproject.toml wants {wanted.specifier}")
    return found


def main(arguments: list[str]) -> int:
    """Check the files that are named, or all; 1 if anything is wrong with one of them."""
    wrong = 0
    for path in [Path(name) for name in arguments] or [CLUSTER / name for name in FILES]:
        found = problems(path)
        wrong += bool(found)
        print(f"{path}: {'ok' if not found else ''}")
        for problem in found:
            print(f"  {problem}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
