"""What is wrong with the recipe of the image."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path

from cluster.commands import command_problems, install_problems, tool

ROOT = Path(__file__).parents[1]
IGNORED = ROOT / "cluster" / "container" / "Containerfile.dockerignore"


def recipe_problems(text: str, ignored: str | None = None) -> list[str]:
    """Of a Containerfile: what hadolint says, and what it does not ask for.

    Args:
        text: of the recipe.
        ignored: of its .dockerignore; None takes the one beside it.
    """
    words = [tool("hadolint"), "--no-color", "--failure-threshold", "style", "-"]
    linted = subprocess.run(words, input=text, text=True, capture_output=True)
    problems = [f"hadolint: {line}" for line in (linted.stdout + linted.stderr).splitlines()]
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    steps = [(words[0], words[1]) for words in (line.split(None, 1) for line in lines) if len(words) == 2]
    problems += _base_problems(steps) + _user_problems(steps) + _run_problems(steps)
    return problems + _copy_problems(steps, IGNORED.read_text() if ignored is None else ignored)


def _base_problems(steps: list[tuple[str, str]]) -> list[str]:
    """Every image from outside by its full name and version, every argument used."""
    defaults = dict(rest.split("=", 1) for name, rest in steps if name == "ARG" and "=" in rest)
    problems, stages = [], set[str]()
    for name, rest in steps:
        if name != "FROM":
            continue
        image, *alias = rest.split()
        for argument, value in defaults.items():
            image = image.replace(f"${{{argument}}}", value)
        if image not in stages and not re.fullmatch(
            r"[\w.-]+\.[a-z]+/\S+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image
        ):
            problems.append(f"FROM {image}: write the registry, and the version with all its parts")
        stages |= set(alias[1:])
    problems += [f"stage {stage} is missing" for stage in ("cpu", "cuda") if stage not in stages]
    used = " ".join(rest for name, rest in steps if name != "ARG")
    return problems + [f"ARG {name} is not used" for name in defaults if f"${{{name}}}" not in used]


def _user_problems(steps: list[tuple[str, str]]) -> list[str]:
    """What a finished image runs as; stages inherit it from the one that they are made from."""
    users: dict[str, str] = {}
    stage = base = ""
    for name, rest in steps:
        if name == "FROM":
            base, *alias = rest.split()
            stage = alias[1] if alias else "the last"
            users[stage] = users.get(base, "root")
        elif name == "USER":
            users[stage] = rest
    return [
        f"stage {stage} runs as {users.get(stage)}; write a number other than 0, which is seen not to be root"
        for stage in ("cpu", "cuda")
        if not re.fullmatch(r"[1-9]\d*", users.get(stage, ""))
    ]


def _run_problems(steps: list[tuple[str, str]]) -> list[str]:
    """Nothing fetched but by package managers, every pip pinned, our own commands ours."""
    problems = [f"ADD {rest}: COPY files, and fetch none" for name, rest in steps if name == "ADD"]
    for name, rest in steps:
        if name != "RUN":
            continue
        if re.search(r"\b(curl|wget)\b(?! *&&)[^&]*https?://", rest):
            problems.append(f"RUN {rest}: fetches a file that nothing pins")
        if re.search(r"\bsudo\b|--privileged", rest):
            problems.append(f"RUN {rest}: takes more rights than it has")
        for command in re.split(r"&&|;", rest):
            if re.search(r"\bpip install\b", command) and "--constraint constraints.txt" not in command:
                problems.append(f"RUN {command.strip()}: is not held to constraints.txt")
        problems += install_problems(rest)
        problems += command_problems(rest)
    return problems


def _copy_problems(steps: list[tuple[str, str]], ignored: str) -> list[str]:
    """What is copied from the project is there, and goes to the builder; nothing else does."""
    patterns = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    problems = (
        [] if patterns and patterns[0] == "*" else [".dockerignore: must begin with *, and let in what is copied"]
    )
    copied = set[str]()
    for name, rest in steps:
        if name == "COPY" and "--from=" not in rest:
            copied |= {source.removeprefix("./") for source in rest.split()[:-1]}
    for source in sorted(copied):
        if not (ROOT / source).exists():
            problems.append(f"COPY {source}: is not there")
        if _is_ignored(source, patterns):
            problems.append(f"COPY {source}: .dockerignore keeps it out")
    let_in = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    return problems + [f".dockerignore: {source} is let in and not copied" for source in sorted(let_in - copied)]


def _is_ignored(source: str, patterns: list[str]) -> bool:
    """As Docker reads the file: the last line that fits a path, or a folder above it, counts."""
    paths = [source, *(str(parent) for parent in Path(source).parents if str(parent) != ".")]
    answer = False
    for pattern in patterns:
        if any(fnmatch.fnmatch(path, pattern.removeprefix("!")) for path in paths):
            answer = not pattern.startswith("!")
    return answer
