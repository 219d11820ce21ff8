"""Models of the Hugging Face hub: fetched once by each machine, or once by a run whose workers are on several."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import fsspec

from llambert.errors import InputError, one_line
from llambert.passing_faults import PassingFault, is_passing
from llambert.storage.atomic import create_atomically
from llambert.storage.file_hashes import cache_folder
from llambert.storage.locations import is_local, open_filesystem

Result = TypeVar("Result")

_NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model*.bin.index.json"]
# The same weights in other forms, and folders of other libraries: a model is loaded from its root.
_IGNORED = [
    *("*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model", "*/*.bin"),
    *("consolidated*.safetensors", "model.*.safetensors", "tf_model*", "flax_model*"),
]
_MAX_WAIT_S = 1800.0  # for a hub that limits requests (in windows of five minutes) or fails
_MAX_PAUSE_S = 60.0
CONNECTION_WAIT_S = 60.0
"""For a network that resets or refuses connections."""


class _Busy(Exception):
    """The hub answered that it cannot answer now; raised before its client hides that behind retries of its own."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"the hub answers {response.status_code} to {response.request.url}")
        self.response = response


def snapshot(name: str, commit: str, pickled: bool) -> str:
    """The local folder of a model at a commit, in the hub's cache; one process of a machine fetches what is missing.

    Configuration, tokenizer, chat template and safetensors weights; pickled ones if ``pickled`` and there are no other.
    ``InputError`` if it cannot be had, ``PassingFault`` where hub or network did not answer in time.
    """
    from huggingface_hub import snapshot_download

    def get(patterns: list[str]) -> str:
        get_files = partial(snapshot_download, name, revision=commit, allow_patterns=patterns, ignore_patterns=_IGNORED)
        return patiently(name, get_files, CONNECTION_WAIT_S)

    with _errors_of(name, commit), one_process(f"hub-{name}@{commit}"):
        folder = get(_NEEDED)
        if pickled and not any(file.endswith(".safetensors") for file in os.listdir(folder)):
            folder = get([*_NEEDED, *_PICKLED])
        return folder


def copy_to_storage(name: str, commit: str, pickled: bool, storage: str) -> str:
    """Copy a model at a commit to the folder ``storage`` unless it is there whole; the URI of the copy.

    Each file is fetched once, over this machine's disk one at a time, or taken from its cache. A mark beside the copy
    says that it is whole; a copy that was stopped is continued. Several at once write the same bytes.
    """
    uri = f"{storage}/{name.replace('/', '--')}@{commit}{'-pickled' if pickled else ''}"
    filesystem, folder = open_filesystem(uri)
    if filesystem.exists(f"{folder}.json"):
        return uri
    from huggingface_hub import hf_hub_download, snapshot_download

    cache_folder().mkdir(parents=True, exist_ok=True)
    with (
        _errors_of(name, commit),
        one_process(f"storage-{uri}"),
        tempfile.TemporaryDirectory(prefix="hub-", dir=cache_folder()) as scratch,
    ):
        if filesystem.exists(f"{folder}.json"):  # by the process that was waited for
            return uri
        patterns = {"revision": commit, "allow_patterns": _NEEDED, "ignore_patterns": _IGNORED}
        files: Any = patiently(name, partial(snapshot_download, name, dry_run=True, **patterns), CONNECTION_WAIT_S)
        if pickled and not any(file.filename.endswith(".safetensors") for file in files):
            patterns["allow_patterns"] = [*_NEEDED, *_PICKLED]
            files = patiently(name, partial(snapshot_download, name, dry_run=True, **patterns), CONNECTION_WAIT_S)
        for file in files:
            target = f"{folder}/{file.filename}"
            if filesystem.exists(target) and filesystem.size(target) == file.file_size:
                continue
            place = file.local_path
            if not file.is_cached:
                get = partial(hf_hub_download, name, file.filename, revision=commit, local_dir=scratch)
                place = patiently(name, get, CONNECTION_WAIT_S)
            _put(filesystem, place, target)
            if not file.is_cached:
                os.unlink(place)
        content = json.dumps(
            {"name": name, "commit": commit, "files": {each.filename: each.file_size for each in files}}
        )
        create_atomically(filesystem, f"{folder}.json", content.encode())
    return uri


def _put(filesystem: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    """Copy a local file; its target has its name once it is whole."""
    if not is_local(filesystem):
        filesystem.put_file(os.path.realpath(source), target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    partial_copy = f"{target}.{os.uname().nodename}.{os.getpid()}.partial"
    try:
        shutil.copyfile(source, partial_copy)
        os.replace(partial_copy, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial_copy)


@contextlib.contextmanager
def one_process(what: str) -> Iterator[None]:
    """Only one process of this machine, or of those that share its ``LLAMBERT_CACHE``, is inside for ``what`` at once.

    The lock is the operating system's and ends with its process. Without a cache that can be written there is none.
    """
    place = cache_folder() / "locks" / hashlib.sha256(what.encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(place.open("w")), fcntl.LOCK_EX)
        yield


def patiently(name: str, ask: Callable[[], Result], connection_s: float = 0.0) -> Result:
    """``ask()`` of the hub, again as long as it says that it is busy, for half an hour at most.

    A network that fails is given ``connection_s``. One line says so, however often it is tried.
    """
    began, pause, is_said = time.monotonic(), 1.0, False
    while True:
        try:
            with _busy_answers_raised():
                return ask()
        except Exception as error:
            seconds, limit = _wait(error, pause, connection_s)
            left = limit - (time.monotonic() - began)
            if seconds > left:
                raise
            if not is_said:
                why = one_line(error.__cause__ or error)
                print(f"{name}: {why}; tried again for up to {limit / 60:.0f} min", file=sys.stderr, flush=True)
                is_said = True
        time.sleep(seconds)
        pause = min(2 * pause, _MAX_PAUSE_S)


def _wait(error: BaseException, pause: float, connection_s: float) -> tuple[float, float]:
    """After what seconds to ask again, and for how long in all; ``(inf, 0)`` where asking again is of no use."""
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    response: Any = next(filter(None, (getattr(each, "response", None) for each in causes)), None)
    if response is not None and (isinstance(error, _Busy) or is_passing(error)):
        said = response.headers.get("retry-after", "").strip()
        return (float(said) if said.isdigit() else pause), _MAX_WAIT_S
    if response is None and is_passing(error):
        return pause, connection_s
    return float("inf"), 0.0


@contextlib.contextmanager
def _busy_answers_raised() -> Iterator[None]:
    """The hub's client would wait for as long as each answer says, and print a line for each: ``patiently`` does.

    Its progress bars are for terminals.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    client = get_session()
    before = client.event_hooks

    def refuse(response: Any) -> None:
        if response.status_code == 429 or response.status_code >= 500:
            raise _Busy(response)

    client.event_hooks = {**before, "response": [*before.get("response", []), refuse]}
    hides_bars = not are_progress_bars_disabled() and not sys.stderr.isatty()
    if hides_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        client.event_hooks = before
        if hides_bars:
            enable_progress_bars()


@contextlib.contextmanager
def _errors_of(name: str, commit: str) -> Iterator[None]:
    """One line for whatever keeps a model from being fetched."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        yield
    except InputError:
        raise
    except GatedRepoError as error:
        raise InputError(
            f"{name}: its files are given to accounts that accepted its terms alone: accept them on the model's page "
            "of the hub, and set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: the hub has no such model, or a private one: correct the name, or set HF_TOKEN to a token that "
            "may read it"
        ) from error
    except Exception as error:  # the transport and the hub have many of their own
        kind = PassingFault if isinstance(error, _Busy) or is_passing(error) else InputError
        raise kind(f"{name}: commit {commit} cannot be downloaded: {one_line(error)}") from error
