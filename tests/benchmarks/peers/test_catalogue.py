"""The catalogue fits the scripts it starts. No detector is installed here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.peers.catalogue import CHILDREN, OURS, PEERS, Peer, chosen_peers
from benchmarks.peers.environments import REQUIREMENTS


def _runs() -> list[object]:
    """One of each script's forms of arguments, in both runs."""
    by_script = {peer.script: peer for peer in PEERS}
    return [
        pytest.param(peer, run, id=f"{name}-{run}") for name, peer in by_script.items() for run in ("default", "low")
    ]


@pytest.mark.parametrize(("peer", "run"), _runs())
def test_child_takes_its_arguments_and_needs_nothing_before_the_detector(peer: Peer, run: str) -> None:
    # Without site packages no detector can be imported: the child must say so in its first line, and nothing else.
    command = [sys.executable, "-S", str(CHILDREN / peer.script), *peer.arguments(run)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    (line,) = done.stdout.splitlines()
    assert "ModuleNotFoundError" in json.loads(line)["error"] or "ImportError" in json.loads(line)["error"]
    assert done.returncode == 1


def test_only_our_own_child_imports_retinafocus() -> None:
    importing = [
        path.name
        for path in CHILDREN.glob("*.py")
        if "import retinafocus" in (text := path.read_text()) or "from retinafocus" in text
    ]
    assert importing == ["ours.py"]


def test_every_peer_has_a_list_of_pins() -> None:
    wanted = {peer.environment for peer in PEERS} - {OURS}
    assert wanted == {path.stem for path in REQUIREMENTS.glob("*.txt")}


def test_names_tell_peers_apart() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_peers_are_chosen_by_the_beginning_of_their_names() -> None:
    assert [peer.name for peer in chosen_peers(["dlib-hog", "ours-int8-10"])] == [
        "ours-int8-10",
        "dlib-hog-0",
        "dlib-hog-1",
        "dlib-hog-2",
    ]
    assert chosen_peers(None) == list(PEERS)
    with pytest.raises(ValueError, match="there is no peer 'yolo'; there are ours-float32-20, "):
        chosen_peers(["yolo"])


def test_peer_without_a_threshold_is_run_with_the_same_arguments() -> None:
    peer = Peer(name="x", script="x.py", environment=OURS, settings=("--a",), default=("--b",), told="")
    assert peer.arguments("default") == peer.arguments("low") == ["--a", "--b"]
