"""The peer's side of the conversation, for every script in this folder. Standard library only.

The child says who it is in its first line; then each line {"photo": PATH} on its standard input is answered by one line
on its standard output: {"photo", "boxes", "scores", "ms", "peak_mib"}, or {"photo", "error"}. It ends when its input
does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Look = Callable[[str], "tuple[list[list[float]], list[float]]"]
"""From the path of a photo to boxes, xyxy in pixels of the upright photo with x2 and y2 exclusive, and scores, higher
for surer. The photo is read and decoded in it, so that its time counts."""

Load = Callable[[], "tuple[Mapping[str, Any], Look]"]
"""Imports the detector and loads its weights: name, version, licence and weights_in_wheel, and how to look."""


def serve(load: Load) -> None:
    """Answer until there are no more photos."""
    # Whatever the detector's own code prints goes to the errors: the answers have the output for themselves. So
    # nothing may be imported that prints before this.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        hello, look = load()
    except Exception as error:
        say({"error": _described(error)})
        raise
    say(hello)
    for line in sys.stdin:
        photo = json.loads(line)["photo"]
        started = time.process_time()  # of all threads
        try:
            boxes, scores = look(photo)
        except Exception as error:
            say({"photo": photo, "error": _described(error)})
            continue
        milliseconds = 1000 * (time.process_time() - started)
        say({"photo": photo, "boxes": boxes, "scores": scores, "ms": milliseconds, "peak_mib": peak_mebibytes()})


def peak_mebibytes() -> float:
    """Most memory this process ever held."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            (line,) = (line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except OSError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
