"""Clients of object stores: how a bucket is opened, where its keys come from, and what its errors mean."""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from retinafocus.errors import SettingsError
from retinafocus.storage import StorageConfig, StorageError, redacted


@lru_cache(maxsize=64)
def open_bucket(scheme: str, bucket: str, config: StorageConfig) -> Any:
    """One client for each bucket and settings, for all threads: it keeps its connections open.

    Raises:
        SettingsError: the settings make no sense, or a profile is named that is not there.
    """
    options: dict[str, Any] = {
        "client_options": {
            # A large file on a slow line may take its time, as long as it moves.
            "timeout": timedelta(days=1),
            "connect_timeout": timedelta(seconds=min(config.timeout_seconds, 10.0)),
            "read_timeout": timedelta(seconds=config.timeout_seconds),
            "allow_http": _endpoint(scheme, config).startswith("http://"),
        },
        "retry_config": {
            "max_retries": config.attempts - 1,
            "retry_timeout": timedelta(seconds=config.retry_seconds),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
        },
    }
    if config.anonymous:
        options["skip_signature"] = True
    try:
        if scheme == "gs":
            if config.endpoint:
                options["base_url"] = config.endpoint
            return GCSStore(bucket, **options)
        return S3Store(bucket, **options, **_s3_options(config))
    except (BaseError, ValueError) as error:
        raise SettingsError(f"{scheme}://{bucket}: {redacted(str(error).splitlines()[0])}") from error


def _s3_options(config: StorageConfig) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.endpoint:
        options["endpoint"] = config.endpoint
    if config.requester_pays:
        options["request_payer"] = True
    if not config.anonymous and (provider := _profile_credentials(config.profile)) is not None:
        options["credential_provider"] = provider
        options["region"] = provider.config.get("region", "us-east-1")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        if name in os.environ:
            options["region"] = os.environ[name]
    if config.region:
        options["region"] = config.region
    return options


def _profile_credentials(profile: str | None) -> Any | None:
    """Keys from ~/.aws, which only Amazon's own library reads; None where the environment or the machine gives them.

    Raises:
        SettingsError: a profile is named that is not there, or that library is missing.
    """
    named = profile or os.environ.get("AWS_PROFILE")
    if not named and ("AWS_ACCESS_KEY_ID" in os.environ or not _has_credentials_file()):
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise SettingsError(
            "keys from a profile or from ~/.aws need boto3; install retinafocus[s3], or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=named))
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"profile {named or 'default'}: {error}; see `aws configure list-profiles`") from error


def _has_credentials_file() -> bool:
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return Path(path).expanduser().is_file()


def _endpoint(scheme: str, config: StorageConfig) -> str:
    if config.endpoint:
        return config.endpoint
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if scheme == "s3" else ("GOOGLE_BASE_URL",)
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def translated(error: Exception, uri: str) -> OSError:
    """The error of Python's own that an error of obstore stands for."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if "NoSuchBucket" in text:
        return FileNotFoundError(errno.ENOENT, "there is no such bucket", uri)
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
        return FileNotFoundError(errno.ENOENT, "there is no object of that name", uri)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return PermissionError(errno.EACCES, f"the store denies access{f' ({code[1]})' if code else ''}", uri)
    kind = _kind(text)
    return StorageError(f"{uri}: {kind}", kind)


def _kind(text: str) -> str:
    lower = text.lower()
    if any(word in lower for word in _KEY_WORDS):
        return "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile or --anonymous"
    status = re.search(r"status code: (\d{3}(?: [A-Za-z][A-Za-z -]*[a-z])?)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status:
        return f"{status[1]}{f', {code[1]}' if code else ''}"
    if "redirect" in lower:
        return "the bucket is in another region; set --region"
    for words, kind in _KINDS:
        if any(word in lower for word in words):
            return kind
    return redacted(text.splitlines()[0]) if text else "an unknown error"


# Without keys, the machine's own role is asked for at such addresses.
_KEY_WORDS = ("169.254.169.254", "latest/api/token", "metadata.google.internal", "computemetadata")

# In this order: an error's text names what it came from as well.
_KINDS = (
    (("timed out", "timedout", "timeout reached", "operation timed out"), "no answer in time"),
    (("decoding response body", "body", "ended too early", "incomplete"), "the answer ended too early"),
    (("dns", "connect", "sending request"), "no connection"),
)


def is_transient(error: Exception) -> bool:
    """Whether the next try may go better, and obstore has not tried as often as it may already."""
    text = str(error)
    if not isinstance(error, GenericError) or re.search(r"after [1-9]\d* retries", text):
        return False
    return re.search(r"status code: 4(?!08|29)|redirect", text) is None
