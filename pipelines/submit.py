"""`retinafocus detect --address http://HEAD:8265`: the same command as a job of a Ray cluster, and its log here.

The job is a process on the cluster's head that joins the cluster (`--address auto`). It lives by itself: this process
only watches. Nothing of this machine goes along but the command's words.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.commands.command import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, fail, say
from pipelines.supervisor import stoppable
from retinafocus.errors import RunError, SettingsError
from retinafocus.storage import redacted

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# Ray takes these before the address that it is given; a shell on some cluster has the first.
_OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

# Between two looks at a job whose log ended before it did.
AGAIN_SECONDS = 1.0

# A job server that does not answer for so long is lost; the job need not be.
LOST_SECONDS = 60.0

# How often the rest of the log of a job that has ended is asked for on lines that break.
MAX_BROKEN = 5

# A log that says nothing for so long is asked for anew: its line may be dead without either end having been told.
QUIET_SECONDS = 300.0

_NO_SUCH_COMMAND = 127
"""What a shell ends with that does not find the program."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A command for a cluster."""

    address: str
    """http(s)://HOST:PORT of its job server."""

    words: Sequence[str]
    """Of the command; every path in it absolute."""

    output: str
    """The run's folder, for how to watch it."""


def submit(submission: Submission) -> int:
    """Run a command as a job, show its log, and return its exit code.

    A job of the very same command that is there already is followed instead. Ctrl-C leaves the job at work and says how
    to watch and stop it.

    Raises:
        SettingsError: the words hold a secret; nobody answers at the address, or the token is not the cluster's.
        RunError: the job server is gone.
    """
    _refuse_secrets(submission)
    command = shlex.join(submission.words)
    with _only(submission.address) as address:
        client = _client(address)
        with _in_words(address):
            found = _find(client, command)
        job = found or f"retinafocus-{uuid.uuid4().hex[:12]}"
        ways = _ways(submission, address, job)
        try:
            with stoppable():
                if found is None:
                    with _in_words(address):
                        client.submit_job(entrypoint=command, submission_id=job)
                    say(f"submitted as job {job}: {command}")
                else:
                    say(f"this command is at work there already, as job {job}; following it")
                say(ways)
                return _end(_follow(client, job), job)
        except KeyboardInterrupt:
            return fail(EXIT_INTERRUPTED, f"detached: the job goes on without this command; {ways}")


def _ways(submission: Submission, address: str, job: str) -> str:
    return (
        f"watch it with `ray job logs --address {address} --follow {job}` or `retinafocus status "
        f"{shlex.quote(submission.output)}`, stop it with `ray job stop --address {address} {job}`"
    )


def _refuse_secrets(submission: Submission) -> None:
    """Ray keeps a job's command and shows it to whoever may look at the cluster."""
    if redacted(submission.address) != submission.address:
        raise SettingsError(
            f"address {redacted(submission.address)}: has a user name, a key or a query in it; give the bare address, "
            "and the cluster's token by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )
    for word in submission.words:
        if redacted(word) != word:
            raise SettingsError(
                f"{redacted(word)}: has a user name, a key or a query in it, which the cluster would keep and show; "
                "take it out, and give the cluster's machines their keys by a role or their environment"
            )


@contextmanager
def _only(address: str) -> Iterator[str]:
    """The address as it is to be used, with no other in the environment that Ray would take instead."""
    kept = {name: os.environ.pop(name) for name in _OTHER_ADDRESSES if name in os.environ}
    try:
        yield address.rstrip("/")
    finally:
        os.environ.update(kept)


@contextmanager
def _in_words(address: str) -> Iterator[None]:
    """What the job server did not do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"address {address}: the cluster's job server did not take the command ({redacted(str(error))}); mend that "
            "and give the same command again, which follows the job if there is one"
        ) from error


def _client(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        import aiohttp  # noqa: F401  # what Ray's client wants, of its extra `default`
    except ImportError as error:
        raise SettingsError(
            f"address {address}: sending a command to a cluster needs Ray's job client, which is not installed; "
            "install it with `pip install 'retinafocus[cluster]'`"
        ) from error
    # It tells of each connection that ends, which the user need not know.
    logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise SettingsError(
            f"address {address}: the cluster wants its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "file that holds it"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"address {address}: no Ray job server answers there ({reason}); it is the dashboard's port (8265) on the "
            "cluster's head, which needs ray[default] and --dashboard-host=0.0.0.0 to be reached from elsewhere"
        ) from error


def _find(client: JobSubmissionClient, command: str) -> str | None:
    """The job that is at work on that very command, if there is one."""
    jobs = (job for job in client.list_jobs() if job.entrypoint == command and not job.status.is_terminal())
    return next((job.submission_id for job in jobs if job.submission_id is not None), None)


def _follow(client: JobSubmissionClient, job: str) -> Any:
    """Show the job's log until it ends; what Ray says of it then."""
    from aiohttp import ClientError

    log, heard, broken = _Log(), time.monotonic(), 0
    while True:
        try:
            asyncio.run(log.show(client, job))
            broken = 0
        except (OSError, RuntimeError, ClientError):  # a line that broke ends no job: what it is, says its status
            broken += 1
            time.sleep(AGAIN_SECONDS)
        try:
            details = client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - heard > LOST_SECONDS:
                raise RunError(
                    f"the cluster's job server does not answer any more ({error}); job {job} may go on: the same "
                    "command follows it again"
                ) from error
            continue
        heard = time.monotonic()
        if details.status.is_terminal() and (not broken or broken > MAX_BROKEN):
            return details
        time.sleep(AGAIN_SECONDS)


class _Log:
    """A job's log on stdout, each part once however often it is asked for anew."""

    def __init__(self) -> None:
        self._shown = 0

    async def show(self, client: JobSubmissionClient, job: str) -> None:
        """Show what is new until the job's server ends the log, or says nothing for long."""
        seen, texts = 0, client.tail_job_logs(job)
        while True:
            try:
                text = await asyncio.wait_for(anext(texts), QUIET_SECONDS)
            except (StopAsyncIteration, asyncio.TimeoutError):
                return
            new = text[max(0, self._shown - seen) :]
            seen += len(text)
            self._shown = max(self._shown, seen)
            sys.stdout.write(new)
            sys.stdout.flush()


def _end(details: Any, job: str) -> int:
    """The command's exit code, from what Ray says of its job."""
    code, status = details.driver_exit_code, details.status.value
    if status == "SUCCEEDED":
        return EXIT_OK
    if status == "STOPPED":
        return fail(EXIT_INTERRUPTED, f"job {job} was stopped; finished shards are kept, the same command goes on")
    if code is None or code <= 0:  # it never began, a signal ended it, or Ray itself failed
        reason = (details.message or "no reason was given").strip().splitlines()[0]
        return fail(EXIT_ERROR, f"job {job} failed: {redacted(reason)}")
    if code == _NO_SUCH_COMMAND:
        say("the cluster's head does not find `retinafocus`; install it there, in the Python whose `ray` was started")
    return int(code)
