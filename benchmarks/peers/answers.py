"""What the peers answered, kept line by line: a run that was cut short goes on where it ended.

A file for each peer, set and run begins with who was asked, with which settings and pins; if any of that has changed,
its answers are asked for anew. RetinaFocus itself is not among what is compared: delete the folder when it has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.catalogue import CHILDREN, OURS, Peer
from benchmarks.peers.conversation import Answer, Conversation, Hello
from benchmarks.peers.environments import ENVIRONMENTS, REQUIREMENTS, exact_pins


def answers_of(
    peer: Peer, run: str, photos: Sequence[Path], store: Path, environments: Path = ENVIRONMENTS
) -> tuple[Hello, list[Answer]]:
    """Who the peer is and what it answers for each photo, in their order; what is in the store is not asked again.

    Args:
        peer: to ask.
        run: "default" or "low".
        photos: existing files.
        store: the file of this peer, set and run.
        environments: folder of the virtual environments.

    Raises:
        PeerFault: the peer does not work here.
        RunError: its environment cannot be made.
    """
    kept = kept_answers(peer, run, photos, store)
    if kept is not None:
        return kept
    header = _header(peer, run)
    known = _read(store, header)
    with Conversation(peer.command(run, environments), timeout=peer.timeout) as conversation:
        hello = conversation.hello()
        if known is None or known[0] != hello:
            store.parent.mkdir(parents=True, exist_ok=True)
            store.write_text(json.dumps({**header, "hello": asdict(hello)}) + "\n")
            known = hello, {}
        answers = known[1]
        conversation.ask(photos[0])  # whatever a detector prepares only once is no photo's time
        for photo in photos:
            if str(photo) not in answers:
                answers[str(photo)] = conversation.ask(photo)
                _append(store, photo, answers[str(photo)])
    return hello, [answers[str(photo)] for photo in photos]


def kept_answers(peer: Peer, run: str, photos: Sequence[Path], store: Path) -> tuple[Hello, list[Answer]] | None:
    """The same from the store alone; None unless it has an answer for every photo."""
    known = _read(store, _header(peer, run))
    if known is None or not all(str(photo) in known[1] for photo in photos):
        return None
    return known[0], [known[1][str(photo)] for photo in photos]


def _header(peer: Peer, run: str) -> dict[str, Any]:
    code = b"".join((CHILDREN / name).read_bytes() for name in ("serve.py", peer.script))
    return {
        "peer": peer.name,
        "arguments": peer.arguments(run),
        "pins": [] if peer.environment == OURS else exact_pins(REQUIREMENTS / f"{peer.environment}.txt"),
        "code": hashlib.sha256(code).hexdigest(),
    }


def _append(store: Path, photo: Path, answer: Answer) -> None:
    line = {
        "photo": str(photo),
        "boxes": answer.boxes.tolist(),
        "scores": answer.scores.tolist(),
        "ms": answer.milliseconds,
        "peak_mib": answer.peak_mib,
        "error": answer.error,
    }
    with store.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _read(store: Path, header: dict[str, Any]) -> tuple[Hello, dict[str, Answer]] | None:
    """What is there, by photo; None where nothing is, or something else was asked."""
    lines = list(_whole_lines(store))
    if not lines or {name: lines[0].get(name) for name in header} != header:
        return None
    answers = {}
    for line in lines[1:]:
        answers[line["photo"]] = Answer(
            boxes=np.array(line["boxes"], np.float32).reshape(-1, 4),
            scores=np.array(line["scores"], np.float32),
            milliseconds=line["ms"],
            peak_mib=line["peak_mib"],
            error=line["error"],
        )
    return Hello(**lines[0]["hello"]), answers


def _whole_lines(store: Path) -> Iterator[dict[str, Any]]:
    """The file's lines; a last one that was cut short is removed, so that the next one begins a line."""
    if not store.is_file():
        return
    data = store.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        store.write_bytes(whole)
    for line in whole.splitlines():
        yield json.loads(line)
