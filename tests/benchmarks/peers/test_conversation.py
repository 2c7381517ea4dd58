"""A peer that dies, hangs or talks nonsense costs the photo, never a wrong number. The fake peer does what the photo's
name says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import CHILDREN
from benchmarks.peers.conversation import MOST_FAULTS_IN_A_ROW, Conversation, PeerFault

FAKE = """
import json, os, sys, time

def say(answer):
    print(json.dumps(answer), flush=True)

say({"name": "fake", "version": "1.2", "licence": "none", "weights_in_wheel": True})
for line in sys.stdin:
    photo = json.loads(line)["photo"]
    what = os.path.basename(photo)
    answer = {"photo": photo, "boxes": [[1, 2, 11, 22]], "scores": [0.5], "ms": 7, "peak_mib": os.getpid()}
    if what == "die":
        print("something\\nterrible", file=sys.stderr)
        os._exit(3)
    elif what == "killed":
        os.kill(os.getpid(), 9)
    elif what == "hang":
        time.sleep(60)
    elif what == "junk":
        print("Loading model ...", flush=True)
    elif what == "error":
        say({"photo": photo, "error": "ValueError: no such colour"})
    elif what == "nan":
        say({**answer, "scores": [float("nan")]})
    elif what == "short":
        say({**answer, "scores": []})
    elif what == "three":
        say({**answer, "boxes": [[1, 2, 3]]})
    elif what == "timeless":
        say({key: value for key, value in answer.items() if key != "ms"})
    elif what == "none":
        say({**answer, "boxes": [], "scores": []})
    elif what == "list":
        say([])
    else:
        say(answer)
        if what == "twice":
            say(answer)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


def _talk(script: Path, timeout: float = 20) -> Conversation:
    return Conversation([sys.executable, "-S", str(script)], timeout=timeout)


def test_peer_says_who_it_is_and_answers(fake: Path) -> None:
    with _talk(fake) as peer:
        hello = peer.hello()
        answer = peer.ask(Path("photo"))
        assert (hello.name, hello.version, hello.licence, hello.weights_in_wheel) == ("fake", "1.2", "none", True)
        assert answer.boxes.tolist() == [[1, 2, 11, 22]]
        assert answer.scores.tolist() == [0.5]
        assert (answer.milliseconds, answer.error) == (7, "")
        assert peer.ask(Path("none")).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("die", r"the peer's process ended with exit code 3: something \| terrible"),
        ("killed", "the peer's process ended with SIGKILL"),
        ("junk", r"it said 'Loading model \.\.\.', which is no answer"),
        ("list", r"it said '\[\]', which is no answer"),
        ("nan", "the answer holds numbers that are not finite"),
        ("short", r"the answer has 1 boxes and scores of shape \(0,\)"),
        ("three", "the answer is incomplete or malformed"),
        ("timeless", r"the answer is incomplete or malformed \(KeyError: 'ms'\)"),
    ],
)
def test_photo_that_breaks_the_peer_is_an_error_and_the_next_is_answered(fake: Path, what: str, why: str) -> None:
    with _talk(fake) as peer:
        first = peer.ask(Path("photo"))
        broken = peer.ask(Path(what))
        after = peer.ask(Path("photo"))
    assert re.search(why, broken.error)
    assert not len(broken.boxes)
    assert not first.error
    assert not after.error
    assert after.peak_mib != first.peak_mib  # its process number: another process


def test_peer_that_hangs_is_ended(fake: Path) -> None:
    with _talk(fake, timeout=1) as peer:
        peer.hello()
        assert peer.ask(Path("hang")).error == "no answer within 1 s"
    with _talk(fake) as peer:
        assert not peer.ask(Path("photo")).error


def test_second_answer_to_a_photo_is_not_taken_for_the_next(fake: Path) -> None:
    with _talk(fake) as peer:
        assert not peer.ask(Path("twice")).error
        assert peer.ask(Path("none")).error == "the answer is about 'twice', not about the photo that was asked for"
        assert peer.ask(Path("none")).error == ""


def test_error_in_words_does_not_end_the_peer(fake: Path) -> None:
    with _talk(fake) as peer:
        first = peer.ask(Path("photo"))
        assert peer.ask(Path("error")).error == "ValueError: no such colour"
        assert peer.ask(Path("photo")).peak_mib == first.peak_mib


def test_peer_without_answers_is_given_up(fake: Path) -> None:
    with _talk(fake) as peer:
        for _ in range(MOST_FAULTS_IN_A_ROW - 1):
            assert peer.ask(Path("error")).error
        with pytest.raises(PeerFault, match=r"no answer for 5 photos one after the other.*no such colour"):
            peer.ask(Path("error"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nothing_of_that_name", "does not start: the peer's process ended with exit code 1: .*ModuleNotFound"),
        ("print('hello')", "does not start: it said 'hello', which is no answer"),
        ('print(\'{"name": "x", "version": "1"}\')', "does not start: its first line lacks 'licence'"),
        ('print(\'{"error": "no weights"}\')', "does not start: no weights"),
    ],
)
def test_peer_that_does_not_start_is_a_fault(tmp_path: Path, code: str, why: str) -> None:
    script = tmp_path / "broken.py"
    script.write_text(code)
    with _talk(script) as peer, pytest.raises(PeerFault, match=why):
        peer.ask(Path("photo"))


def test_command_that_is_not_there_is_a_fault() -> None:
    with Conversation(["/nowhere/python"], timeout=1) as peer, pytest.raises(PeerFault, match="cannot be started"):
        peer.hello()


def test_child_keeps_the_detectors_own_printing_out_of_its_answers(tmp_path: Path) -> None:
    script = tmp_path / "noisy.py"
    script.write_text(
        f"""
import os, sys
sys.path.insert(0, {str(CHILDREN)!r})
from serve import serve

def load():
    print("loading weights")
    def look(photo):
        print("looking")
        os.system("echo so does a program")
        if photo == "bad":
            raise ValueError("bad photo")
        return [[0, 0, 5, 5]], [sum(range(10**6)) * 0 + 0.25]
    return {{"name": "noisy", "version": "1", "licence": "none", "weights_in_wheel": False}}, look

serve(load)
"""
    )
    with _talk(script) as peer:
        answer = peer.ask(Path("photo"))
        assert answer.scores.tolist() == [0.25]
        assert answer.milliseconds > 1
        assert 1 < answer.peak_mib < 1000
        assert peer.ask(Path("bad")).error == "ValueError: bad photo"
        assert not peer.hello().weights_in_wheel
