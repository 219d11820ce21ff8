"""What a storage refuses, as one line that says what to do about it."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from llambert.errors import Damaged, InputError, one_line
from llambert.storage.part_file import wrong_kind

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextlib.contextmanager
def refusal_as_input_error(uri: str, remedy: str) -> Iterator[None]:
    """``InputError`` for what a user must fix in the storage: space, permission, bucket, or a folder for a file."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and (why := wrong_kind(error)):
            raise Damaged(uri, why, remedy) from error
        if isinstance(error, PermissionError) or error.errno in _NO_SPACE or _lacks_bucket(error):
            why = f"{one_line(error)}; committed parts are kept"
            raise InputError(f"storage: {uri}: {why}; fix the storage and start the same command again") from error
        raise


def _lacks_bucket(error: OSError) -> bool:
    """s3fs raises ``FileNotFoundError`` for a missing bucket and for a missing object: S3's own code tells which."""
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "NoSuchBucket"
