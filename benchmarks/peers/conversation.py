"""Speaking to a detector in another process: one line of JSON for a photo, one line back.

A peer that dies, hangs or says something else costs the photo, whose answer is then an error in words, and is started
again for the next one. An answer counts only if it is whole and names the photo that was asked for, so nothing that is
left of an earlier photo can be taken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

START_SECONDS = 180.0
"""Longest wait for a peer's first line; TensorFlow takes a while on a busy machine."""

MOST_FAULTS_IN_A_ROW = 5
"""After so many photos without an answer a peer is given up: it does not work here."""

LINES_OF_AN_ERROR = 3

# One thread for everybody, as far as a variable can say so, no accelerator, and nothing of our own packages.
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
)
_QUIET = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class PeerFault(Exception):
    """The peer does not work here, so there is nothing to measure; the message says why."""


class _Broken(Exception):
    """The conversation has ended; the peer must be started again."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself in its first line."""

    name: str
    version: str
    licence: str
    weights_in_wheel: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a peer found in a photo, or why there is no answer."""

    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(K, 4) xyxy in pixels of the upright photo."""
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """(K,) in the peer's own scale; higher is surer."""
    milliseconds: float = 0.0
    """Of the processor, all threads of the peer, from the photo's file to its boxes."""
    peak_mib: float = 0.0
    """Most memory the peer's process had held until then."""
    error: str = ""
    """Why there is none; empty otherwise."""


class Conversation:
    """A peer's process, started when it is needed.

    Args:
        command: of the peer.
        timeout: seconds it may take for a photo.
        start_timeout: seconds it may take to say who it is.
    """

    def __init__(self, command: Sequence[str], *, timeout: float, start_timeout: float = START_SECONDS) -> None:
        self._command, self._timeout, self._start_timeout = list(command), timeout, start_timeout
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # for as long as the peer is spoken to
        self._hello: Hello | None = None
        self._faults = 0

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Hello:
        """Who the peer is; it is started for that.

        Raises:
            PeerFault: it does not start.
        """
        if self._process is None:
            self._start()
        assert self._hello is not None
        return self._hello

    def ask(self, photo: Path) -> Answer:
        """What the peer finds in a photo; an answer with an error where it cannot tell.

        Raises:
            PeerFault: it does not start, or failed on too many photos one after the other.
        """
        self.hello()
        try:
            answer = self._answer(str(photo))
        except _Broken as broken:
            self._end()
            answer = Answer(error=str(broken))
        self._faults = self._faults + 1 if answer.error else 0
        if self._faults >= MOST_FAULTS_IN_A_ROW:
            self._end()
            raise PeerFault(f"no answer for {self._faults} photos one after the other, the last time: {answer.error}")
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        self._end()
        self._errors.close()

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        self._errors.truncate(0)
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**environment, **_ONE_THREAD, **_QUIET},
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise PeerFault(f"{self._command[0]} cannot be started: {error}") from None
        # A queue of its own for each process: what the one before may still say goes nowhere.
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=_pass_on, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()
        try:
            self._hello = _read_hello(self._next_line(self._start_timeout))
        except _Broken as broken:
            self._end()
            raise PeerFault(f"the peer does not start: {broken}") from None

    def _answer(self, photo: str) -> Answer:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"photo": photo}) + "\n")
            process.stdin.flush()
        except OSError:
            raise _Broken(self._how_it_ended()) from None
        return _read_answer(self._next_line(self._timeout), photo)

    def _next_line(self, seconds: float) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise _Broken(f"no answer within {seconds:g} s") from None
        if line is None:
            raise _Broken(self._how_it_ended())
        return line

    def _how_it_ended(self) -> str:
        process = self._process
        assert process is not None
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            return "the peer closed its output"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-LINES_OF_AN_ERROR:]
        return f"the peer's process ended with {how}" + (f": {' | '.join(last)}" if last else "")

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # a question that was not taken any more
            process.stdin.close()
        if self._reader is not None:
            self._reader.join()  # the output has ended with the process


def _pass_on(lines: IO[str], to: queue.Queue[str | None]) -> None:
    """Read a process's output to its end, which comes with the end of the process, and close it."""
    with lines:
        for line in lines:
            to.put(line)
    to.put(None)


def _read_hello(line: str) -> Hello:
    said = _read_object(line)
    if "error" in said:
        raise _Broken(str(said["error"]))
    try:
        return Hello(
            name=str(said["name"]),
            version=str(said["version"]),
            licence=str(said["licence"]),
            weights_in_wheel=bool(said["weights_in_wheel"]),
        )
    except KeyError as missing:
        raise _Broken(f"its first line lacks {missing}") from None


def _read_answer(line: str, photo: str) -> Answer:
    said = _read_object(line)
    if said.get("photo") != photo:
        raise _Broken(f"the answer is about {said.get('photo')!r}, not about the photo that was asked for")
    if "error" in said:
        return Answer(error=str(said["error"]))
    try:
        boxes = np.asarray(said["boxes"], np.float64).reshape(len(said["boxes"]), 4)
        scores = np.asarray(said["scores"], np.float64)
        numbers = np.array([said["ms"], said["peak_mib"]], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise _Broken(f"the answer is incomplete or malformed ({type(error).__name__}: {error})") from None
    if scores.shape != (len(boxes),):
        raise _Broken(f"the answer has {len(boxes)} boxes and scores of shape {scores.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(numbers).all()):
        raise _Broken("the answer holds numbers that are not finite")
    return Answer(
        boxes=boxes.astype(np.float32),
        scores=scores.astype(np.float32),
        milliseconds=float(numbers[0]),
        peak_mib=float(numbers[1]),
    )


def _read_object(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise _Broken(f"it said {line.strip()[:80]!r}, which is no answer")
    return said
