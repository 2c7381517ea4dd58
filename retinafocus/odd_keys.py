"""Keys of S3 that obstore cannot name: empty or dot parts (`day1//a.jpg`, `../a.jpg`) and control characters.

They are rare, but one of them ends obstore's listing of a whole bucket. Amazon's own library, if it is installed, takes
over there. Without it such a bucket is an error that names the key: photos are never passed over in silence.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from retinafocus.errors import SettingsError
from retinafocus.storage import Entry, StorageConfig, StorageError

_ODD = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")


def is_odd(key: str) -> bool:
    """Whether obstore refuses the key, or would take another one for it."""
    return _ODD.search(key) is not None


def read(scheme: str, bucket: str, key: str, config: StorageConfig) -> tuple[bytes, str | None]:
    """The content of such an object, and its entity tag.

    Raises:
        FileNotFoundError, PermissionError, StorageError.
    """
    uri = f"{scheme}://{bucket}/{key!r}"
    client = _client(scheme, config)
    if client is None:
        kind = "its name has control characters, or empty or dot parts; rename it, or install retinafocus[s3]"
        raise StorageError(f"{uri}: {kind}", kind)
    from botocore.exceptions import BotoCoreError, ClientError

    payer = {"RequestPayer": "requester"} if config.requester_pays else {}
    try:
        found = client.get_object(Bucket=bucket, Key=key, **payer)
        return found["Body"].read(), found["ETag"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(errno.ENOENT, "there is no object of that name", uri) from error
        if code in ("AccessDenied", "403"):
            raise PermissionError(errno.EACCES, "the store denies access", uri) from error
        raise StorageError(f"{uri}: {code}", code) from error
    except BotoCoreError as error:
        raise StorageError(f"{uri}: {type(error).__name__}", type(error).__name__) from error


def list_after(
    scheme: str, bucket: str, prefix: str, last: str, skip: int, config: StorageConfig, reason: str
) -> Iterator[Entry]:
    """Go on with a listing that obstore gave up.

    Args:
        prefix: what is listed, without a slash at its end.
        last: the last key it gave; empty if none.
        skip: characters of each key that are not part of an entry's name.
        reason: obstore's words.

    Raises:
        SettingsError: nothing here can list such keys.
        StorageError: the listing failed.
    """
    client = _client(scheme, config)
    if client is None:
        named = re.search(r'Path "(.*?)"', reason, re.S)
        key = repr(named[1]) if named else "one"
        raise SettingsError(
            f"{scheme}://{bucket}/{prefix}: holds a key that cannot be listed ({key}: control characters, or empty or "
            "dot parts); rename it" + (", or install retinafocus[s3]" if scheme == "s3" else "")
        )
    from botocore.exceptions import BotoCoreError, ClientError

    options = {"RequestPayer": "requester"} if config.requester_pays else {}
    options |= {"StartAfter": last} if last else {}
    try:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **options
        )
        for page in pages:
            for found in page.get("Contents", ()):
                yield Entry(found["Key"][skip:], found["Size"], found["LastModified"], found["ETag"])
    except (BotoCoreError, ClientError) as error:
        raise StorageError(f"{scheme}://{bucket}/{prefix}: {error}", type(error).__name__) from error


@lru_cache(maxsize=16)
def _client(scheme: str, config: StorageConfig) -> Any | None:
    if scheme != "s3":
        return None
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        return None
    retries = {"total_max_attempts": config.attempts, "mode": "standard"}
    signature = {"signature_version": UNSIGNED} if config.anonymous else {}
    options = Config(
        retries=retries,
        connect_timeout=min(config.timeout_seconds, 10.0),
        read_timeout=config.timeout_seconds,
        **signature,
    )
    region = config.region or os.environ.get("AWS_REGION")
    return boto3.Session(profile_name=config.profile, region_name=region).client(
        "s3", endpoint_url=config.endpoint, config=options
    )
