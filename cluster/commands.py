"""The commands inside launch files and documents, held against the command lines that will read them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click

from pipelines import cli
from pipelines.workers import resolve_workers
from retinafocus.errors import SettingsError

# `[[ ... ]]`, sources and other words of the shell that shellcheck knows about are left to it. Not these: SC1090 and
# SC1091 want to see the files that are sourced, which lie on the nodes.
NOT_CHECKED = "SC1090,SC1091"

# What stands for `"$@"` in scripts that pass their words on.
PASSED_ON = "photos -o out"

_SEPARATORS = {";", "&&", "||", "|", "&", "(", ")", ";;", "--"}


def tool(name: str) -> str:
    """Path of a program that came as a Python package."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def shell_problems(script: str) -> list[str]:
    """What bash and shellcheck say of a script.

    Args:
        script: of bash; with or without its first line.
    """
    problems = []
    parsed = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    if parsed.returncode:
        problems.append(f"bash -n: {parsed.stderr.strip()}")
    words = [tool("shellcheck"), "--shell=bash", "--format=gcc", f"--exclude={NOT_CHECKED}", "-"]
    checked = subprocess.run(words, input=script, text=True, capture_output=True)
    return problems + [f"shellcheck: {line}" for line in (checked.stdout + checked.stderr).splitlines()]


def command_problems(text: str) -> list[str]:
    """Commands of `retinafocus` and `ray` in shell text that their own parsers refuse.

    Args:
        text: lines of shell; comments are passed over, continued lines joined.
    """
    problems = []
    for words in _commands(text):
        for name, check in (("retinafocus", _check_ours), ("ray", _check_rays)):
            problem = check(words) if words else None
            if problem:
                problems.append(f"{shlex.join(words)}: {name} says {problem}")
    return problems


def install_problems(script: str) -> list[str]:
    """What of our installations would fail or differ on some nodes.

    Args:
        script: of shell that installs.
    """
    problems = []
    for line in script.splitlines():
        # Of what torch needs, torch's index has a few versions only, which need not be those that are pinned.
        if "--index-url" in line and "--no-deps" not in line:
            problems.append(f"{line.strip()}: another index has other versions than the pins; --no-deps is missing")
        # The head chooses the engine of all CPU workers, and they run on nodes with GPUs too.
        for extras in re.findall(r"\[(cluster[\w,]*)\]", line):
            if extras != "cluster,openvino":
                problems.append(f"{line.strip()}: every node wants [cluster,openvino]")
    return problems


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command, behind the last separator before it."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line)
        if not re.search(r"\b(retinafocus|ray|sbatch)\b", line):
            continue
        lexer = shlex.shlex(_expanded(line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                words.append(word)
                continue
            yield _without_redirection(words)
            words = []


def _expanded(line: str) -> str:
    """With something in the place of each variable: a number, so that it may stand wherever one is wanted."""
    line = line.replace('"$@"', PASSED_ON).replace("$$", "1")
    line = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", line)
    return re.sub(r"\$\([^()]*\)|\$\{?\w+\}?", "1", line)


def _without_redirection(words: list[str]) -> list[str]:
    cut = [index for index, word in enumerate(words) if re.fullmatch(r"[<>]+&?", word)]
    return words[: cut[0]] if cut else words


def _behind(words: list[str], pattern: str) -> list[str] | None:
    """The words behind the first one that is a name of a program; None: there is none, or nothing behind it."""
    found = [index for index, word in enumerate(words) if re.fullmatch(pattern, word)]
    return words[found[0] + 1 :] or None if found else None


def _check_ours(words: list[str]) -> str | None:
    arguments = _behind(words, r"(.*/bin/)?retinafocus")
    if arguments is None and words[:2] == ["docker", "run"]:
        arguments = _behind(words, r".*/retinafocus:[\w.-]+")
    if arguments is None and words[0] == "sbatch":
        behind = _behind(words, r".*\.sbatch")
        arguments = behind and ["detect", *behind]
    if arguments is None:
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = cli._parser().parse_args(arguments)
    except SystemExit as ended:
        return said.getvalue().strip().splitlines()[-1] if ended.code else None
    try:
        resolve_workers(getattr(options, "workers", None), "auto", on_cluster=True)
    except SettingsError as error:
        return str(error)
    return None


def _check_rays(words: list[str]) -> str | None:
    # Loads most of Ray, which only this needs.
    from ray.scripts import scripts

    arguments = _behind(words, r"(.*/bin/)?ray")
    if arguments in (None, ["--version"]) or words[0] in ("kubectl", "pip"):
        return None
    try:
        name, command = "ray", cast(click.Command, scripts.cli)
        while isinstance(command, click.Group):
            name, *arguments = arguments or [""]
            if name not in command.commands:
                return f"there is no `{name}`"
            command = command.commands[name]
        # What is submitted stands behind `--`, and is a command of its own here.
        entrypoint = ["entrypoint"] if name == "submit" else []
        context = command.make_context(name, [*arguments, *entrypoint])
        # It hands what it does not know itself to `ray start`.
        if name == "symmetric-run":
            scripts.start.make_context("start", list(context.params["ray_args_and_entrypoint"]))
    except click.ClickException as error:
        return error.format_message()
    return None
