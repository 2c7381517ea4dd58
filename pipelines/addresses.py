"""What `--address` may name: a running Ray cluster that is joined, or the job server of one that takes a command."""

from __future__ import annotations

JOB_SERVER_SCHEMES = ("http://", "https://")
"""Of a cluster's dashboard, which is its job server too: commands are sent there (`pipelines.submit`)."""

RAY_CLIENT_SCHEME = "ray://"


def is_job_server(address: str | None) -> bool:
    """Whether an address names a job server, which is sent the command, and not a cluster, which is joined."""
    return address is not None and address.startswith(JOB_SERVER_SCHEMES)


def check_cluster_address(address: str) -> None:
    """Make sure that an address is one that a process can join.

    Args:
        address: `auto` or HOST:PORT.

    Raises:
        SettingsError: it is Ray Client's, or a job server's.
    """
    # Not above: the command line asks `is_job_server` before it loads these.
    from retinafocus.errors import SettingsError
    from retinafocus.storage import redacted

    if address.startswith(RAY_CLIENT_SCHEME):
        host = redacted(address).removeprefix(RAY_CLIENT_SCHEME).partition(":")[0] or "HEAD"
        raise SettingsError(
            f"address {redacted(address)}: Ray Client ({RAY_CLIENT_SCHEME}) is not supported: a run of hours "
            "would hang on one connection from here; send the command to the cluster with "
            f"`retinafocus detect ... --address http://{host}:8265`, or run it on a node with --address auto"
        )
    if is_job_server(address):
        raise SettingsError(
            f"address {redacted(address)}: is a job server's, and `retinafocus detect` alone sends itself there; use "
            f"`ray job submit --address {redacted(address)} -- retinafocus ... --address auto`"
        )
