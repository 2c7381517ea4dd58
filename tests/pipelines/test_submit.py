"""A command sent to a cluster: what is said there, what is refused, and what the exit code is.

The job server is three methods here; `test_on_a_cluster` sends commands to a real one.
"""

from __future__ import annotations

import argparse
import asyncio
import builtins
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from pipelines import cli, submit
from pipelines.addresses import check_cluster_address
from pipelines.commands.command import restated
from retinafocus.errors import SettingsError


class Server:
    """A job server of one job."""

    def __init__(self, status: str = "SUCCEEDED", code: int | None = 0, jobs: tuple[Any, ...] = ()) -> None:
        self.status, self.code, self.jobs = status, code, jobs
        self.submitted: list[str] = []
        self.log = ["looking\n", "found\n"]
        self.broken_lines = 0
        self.broken_by: Exception = RuntimeError("the connection broke")

    def list_jobs(self) -> tuple[Any, ...]:
        return self.jobs

    def submit_job(self, *, entrypoint: str, submission_id: str) -> str:
        self.submitted.append(entrypoint)
        return submission_id

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield self.log[0]
        if self.broken_lines:
            self.broken_lines -= 1
            raise self.broken_by
        yield self.log[1]

    def get_job_info(self, job: str) -> Any:
        ended = SimpleNamespace(value=self.status, is_terminal=lambda: not self.broken_lines)
        return SimpleNamespace(status=ended, driver_exit_code=self.code, message="killed by the memory monitor\nmore")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Server]]:
    """`retinafocus detect ... --address http://head:8265`, from a folder of its own, to a server of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "AGAIN_SECONDS", 0.0)

    def run(*words: str, server: Server | None = None) -> tuple[int, Server]:
        server = server or Server()
        monkeypatch.setattr(submit, "_client", lambda address: server)
        return cli.main(["detect", *words, "--address", "http://head:8265"]), server

    return run


def test_every_path_is_absolute_and_the_job_joins_its_cluster(
    sent: Callable[..., tuple[int, Server]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my weights").touch()
    code, server = sent(
        "my photos", "s3://bucket/more", "-o", "out", "--weights", "my weights", "--root", ".", "--events", "log",
        "--retry", "failed", "--careful", "--limit", "3", "--min-face", "12",
    )  # fmt: skip
    assert code == 0
    (command,) = server.submitted
    assert shlex.split(command) == [
        "retinafocus", "detect", f"--output={tmp_path}/out", f"--weights={tmp_path}/my weights", "--min-face=12.0",
        "--address=auto", f"--events={tmp_path}/log", "--retry=failed", f"--root={tmp_path}", "--limit=3", "--careful",
        "--", f"{tmp_path}/my photos", "s3://bucket/more",
    ]  # fmt: skip
    cli._parser().parse_args(shlex.split(command)[1:])
    said = capsys.readouterr()
    assert said.out == "looking\nfound\n"
    assert (
        f"the cluster's machines must see the same under these paths: {tmp_path}/my photos, {tmp_path}/out" in said.err
    )
    assert "stop it with `ray job stop --address http://head:8265 retinafocus-" in said.err
    assert f"or `retinafocus status {tmp_path}/out`" in said.err


def test_every_option_is_understood_there_as_it_was_here() -> None:
    parser, given = cli._parser(), ["in put", "s3://b/x"]
    detect = parser.parse_args(["detect", "x", "-o", "y"]).parser
    for action in detect._actions:
        if not action.option_strings or action.dest == "help":
            continue
        value = [] if action.nargs == 0 else [(action.choices or ["1"])[-1]]
        given += [action.option_strings[0] + "".join(f"={word}" for word in value)]
    here = vars(parser.parse_args(["detect", *given]))
    words = restated(detect, argparse.Namespace(**here), {})
    there = vars(cli._parser().parse_args(["detect", *words]))
    unlike = ("parser", "supervisor")  # another object each time
    assert {name: value for name, value in there.items() if name not in unlike} == {
        name: value for name, value in here.items() if name not in unlike
    }


@pytest.mark.parametrize("value", ["-1", "two words", "a=b", "'", 'a"b', "$HOME;*", "line\nline", "gpu=2,cpu=6"])
def test_odd_value_comes_through_the_shell(value: str) -> None:
    options = cli._parser().parse_args(["detect", "-o", "out", f"--workers={value}", "--", "-in put"])
    command = shlex.join(["detect", *restated(options.parser, options, {})])
    script = "import json, sys; print(json.dumps(sys.argv[1:])) # "
    said = subprocess.run(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {command}", shell=True, capture_output=True, check=True
    ).stdout
    there = cli._parser().parse_args(json.loads(said))
    assert (there.workers, there.inputs) == (value, ["-in put"])


def test_weights_that_ship_are_those_of_the_cluster(sent: Callable[..., tuple[int, Server]]) -> None:
    _, server = sent("s3://bucket/photos", "-o", "s3://bucket/out", "--weights", "mobile025")
    assert "--weights=mobile025" in server.submitted[0]


@pytest.mark.parametrize(
    ("status", "code", "ends", "says"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 3, 3, ""),
        ("FAILED", 2, 2, ""),
        ("STOPPED", None, 4, "was stopped; finished shards are kept, the same command goes on"),
        ("FAILED", None, 1, "failed: killed by the memory monitor"),
        ("FAILED", -9, 1, "failed: killed by the memory monitor"),
        ("FAILED", 0, 1, "failed: killed by the memory monitor"),
        ("FAILED", 127, 127, "the cluster's head does not find `retinafocus`; install it there"),
    ],
)
def test_command_ends_as_its_job_does(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], status: str, code: int | None,
    ends: int, says: str,
) -> None:  # fmt: skip
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=Server(status, code))[0] == ends
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("broke"), ServerDisconnectedError(), ConnectionResetError()])
def test_log_whose_line_broke_goes_on_where_it_was(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    server = Server()
    server.broken_by = error
    server.broken_lines = 2  # the job is over meanwhile, but not all of its log was seen
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=server)[0] == 0
    assert capsys.readouterr().out == "looking\nfound\n"


def test_log_whose_line_is_dead_is_asked_for_anew(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, asked = Server(), []

    async def dead_line(job: str) -> AsyncIterator[str]:
        asked.append(job)
        yield server.log[0]
        if len(asked) == 1:
            await asyncio.sleep(600)
        yield server.log[1]

    details = server.get_job_info("")
    details.status.is_terminal = lambda: len(asked) > 1
    monkeypatch.setattr(server, "tail_job_logs", dead_line)
    monkeypatch.setattr(server, "get_job_info", lambda job: details)
    monkeypatch.setattr(submit, "QUIET_SECONDS", 0.01)
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=server)[0] == 0
    assert capsys.readouterr().out == "looking\nfound\n"


@pytest.mark.parametrize("method", ["list_jobs", "submit_job"])
def test_job_server_that_does_not_take_the_command_is_an_error_in_words(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:  # fmt: skip
    def fails(**words: str) -> None:
        raise RuntimeError("Request failed with status code 500: no agent")

    server = Server()
    monkeypatch.setattr(server, method, fails)
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=server)[0] == 1
    assert "did not take the command (Request failed with status code 500: no agent); mend" in capsys.readouterr().err


def test_ctrl_c_while_the_command_is_sent_says_which_job_it_may_be(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**words: str) -> None:
        raise KeyboardInterrupt

    server = Server()
    monkeypatch.setattr(server, "submit_job", interrupted)
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=server)[0] == 4
    assert "stop it with `ray job stop --address http://head:8265 retinafocus-" in capsys.readouterr().err


def test_command_that_is_at_work_there_is_followed_and_not_begun_twice(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("s3://bucket/photos", "-o", "s3://bucket/out")
    _, first = sent(*words)
    alive, over = (SimpleNamespace(is_terminal=lambda ended=ended: ended) for ended in (False, True))
    jobs = (
        SimpleNamespace(entrypoint=first.submitted[0], status=over, submission_id="job-over"),
        SimpleNamespace(entrypoint="another", status=alive, submission_id="job-other"),
        SimpleNamespace(entrypoint=first.submitted[0], status=alive, submission_id="job-alive"),
    )
    _, server = sent(*words, server=Server(jobs=jobs))
    assert server.submitted == []
    assert "this command is at work there already, as job job-alive; following it" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_at_work_and_says_how_to_watch_and_stop_it(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(log: object, client: object, job: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit._Log, "show", interrupted)
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out")[0] == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("retinafocus: detached: the job goes on without this command; watch it with `ray job logs ")
    assert "stop it with `ray job stop --address http://head:8265 retinafocus-" in last


def test_job_server_that_is_gone_is_not_waited_for_forever(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(job: str) -> None:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(submit, "LOST_SECONDS", 0.0)
    server = Server()
    server.get_job_info = gone  # type: ignore[method-assign]
    assert sent("s3://bucket/photos", "-o", "s3://bucket/out", server=server)[0] == 1
    assert "does not answer any more (nobody is there); job retinafocus-" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("https://key:secret@store/x.jpg",),
        ("s3://b/photos", "--endpoint", "https://key:secret@store"),
        ("s3://b/x?secret=1",),
    ],
    ids=["input", "option", "query"],
)
def test_secret_in_the_command_is_refused_and_not_repeated(
    sent: Callable[..., tuple[int, Server]], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, server = sent(*words, "-o", "s3://b/out")
    assert code == 2
    assert server.submitted == []
    assert "secret" not in "".join(capsys.readouterr())


def test_secret_in_the_address_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", "s3://b/x", "-o", "s3://b/out", "--address", "https://me:secret@head:8265"]) == 2
    said = capsys.readouterr().err
    assert "give the bare address, and the cluster's token by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in said
    assert "secret" not in said


def test_nothing_of_this_machines_environment_leads_elsewhere_or_goes_along(
    sent: Callable[..., tuple[int, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    with submit._only("http://head:8265/") as address:
        assert address == "http://head:8265"
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == "http://elsewhere:8265"
    _, server = sent("s3://bucket/photos", "-o", "s3://bucket/out")
    assert "a-secret-of-the-tests" not in server.submitted[0]


def test_without_rays_job_client_the_message_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.job_submission")  # keeps for good what it finds when it is first loaded
    load = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "aiohttp":
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SettingsError, match=r"is not installed; install it with `pip install 'retinafocus\[cluster\]'`"
    ):
        submit._client("http://head:8265")


def test_address_where_nobody_answers_is_an_error_in_words() -> None:
    with pytest.raises(SettingsError, match=r"address http://127.0.0.1:9: no Ray job server answers there \(Failed to"):
        submit._client("http://127.0.0.1:9")


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "local"])
def test_address_of_a_cluster_is_joined_as_before(address: str) -> None:
    check_cluster_address(address)


def test_ray_client_is_refused_with_the_way_that_works(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["detect", str(archive), "-o", str(tmp_path / "out"), "--address", "ray://head:10001"]) == 2
    said = capsys.readouterr().err
    assert "Ray Client (ray://) is not supported" in said
    assert "--address http://head:8265" in said


def test_other_commands_are_sent_by_rays_own() -> None:
    with pytest.raises(SettingsError, match="`ray job submit --address http://head:8265 -- retinafocus "):
        check_cluster_address("http://head:8265")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config", str(Path(__file__).parents[2] / "configs" / "mobilenet025.toml"), "-o", "run"),
        ("tune", "focus", "labels", "-o", "run"),
    ],
    ids=["train", "tune"],
)
@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_other_commands_refuse_such_addresses_before_they_touch_anything(
    words: tuple[str, ...], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--address", address]) == 2
    assert f"address {address}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
