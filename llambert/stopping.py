"""How a program is ended by SIGTERM or SIGINT: at whatever point, in one line, with the exit status 128 + signal.

Python runs a signal's handler in the main thread, when that is back from whatever it calls; and libraries put handlers
of their own in its place. So a thread is told of every signal by the interpreter itself. The first one is said at once:
what complains or aborts afterwards, because what it worked with was stopped too, is not heard. It raises ``Stopped`` in
the main thread, once no module is being imported there (C++ that imports one aborts on an exception), and everything
that is in progress is left as it is for any error. If that takes longer than ``GRACE_S``, or a second signal arrives,
the thread ends the process.
"""

import atexit
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_S = 20.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

at_end: list[Callable[[], object]] = []
"""What is called before a stopped process ends: nothing that it started must outlive it."""

_records: list[Callable[[], object]] = []
_RECORD_S = 5.0

_received: list[int] = []
_said = threading.Lock()
_ended = threading.Lock()
_IMPORT_POLL_S = 0.02
_stderr = 2


class Stopped(SystemExit):
    """Raised in the main thread by the first signal."""


def install() -> None:
    """From here on signals end the program; once per process, in its main thread."""
    if signal.getsignal(signal.SIGTERM) is _stop or threading.current_thread() is not threading.main_thread():
        return
    global _stderr
    _stderr = os.dup(2)
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    _take_signals()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=leave)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    atexit.register(_end_if_stopped)  # outside of ``run``: while a job's own module is imported
    for hook in ("excepthook", "unraisablehook"):
        setattr(sys, hook, _unless_stopped(getattr(sys, hook)))
    threading.excepthook = _unless_stopped(threading.excepthook)


def retake() -> None:
    """Take the signals back from a library that installed a handler of its own; nothing where none were taken."""
    if signal.getsignal(signal.SIGINT) is _stop:
        _take_signals()


def leave() -> None:
    """Leave the signals to whoever installs handlers from here on, as a server does that answers what it accepted."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


def stopped_by(error: BaseException | None = None) -> str | None:
    """The signal that the program was stopped by, if it was; ``error``: as what that reached the caller."""
    if _received:
        return signal.Signals(_received[0]).name
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT.name
    # Ray's own handler, while it starts
    return signal.SIGTERM.name if isinstance(error, SystemExit) and error.code == signal.SIGTERM else None


@contextmanager
def recorded(record: Callable[[], object]) -> Iterator[None]:
    """While entered, ``record`` is called if the program is stopped and cannot leave by itself."""
    _records.append(record)
    try:
        yield
    finally:
        if stopped_by() is None:
            _records.remove(record)


def run(function: Callable[[], object]) -> None:
    """Call ``function``, and end the process in one line if it is stopped by a signal."""
    try:
        function()
    except BaseException as error:
        if name := stopped_by(error):
            _end(signal.Signals[name])
        raise


def _end_if_stopped() -> None:
    if _received:
        _end(signal.Signals(_received[0]))


def _take_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _note(number)
    if _is_importing(frame):
        signal.signal(signal.SIGALRM, lambda _, frame: _stop(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _IMPORT_POLL_S)
        return
    raise Stopped(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _note(number: int) -> None:
    """Remember the first signal and say it; from any thread, and from within any other call."""
    if not _said.acquire(blocking=False):
        return
    _received.append(number)
    logging.disable(logging.CRITICAL)
    name = signal.Signals(number).name
    line = f"llambert: stopped by {name}; what is committed is kept: start the same command again to resume\n"
    with suppress(OSError):
        below_a_progress_bar = "\x1b[?25h\n" if os.isatty(_stderr) else ""  # which hides the cursor
        os.write(_stderr, (below_a_progress_bar + line).encode())
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _watch(reading: int) -> None:
    """Read the number of each signal as it arrives."""
    seen: list[int] = []  # by this thread: the handler may have noted the first one already
    while True:
        ready, _, _ = select.select([reading], [], [], GRACE_S if seen else None)
        seen += [number for number in os.read(reading, 64) if number in _SIGNALS] if ready else []
        if seen:
            _note(seen[0])
        if len(seen) == 1 and not ready:  # the main thread hangs, as in a cluster that was stopped with it
            thread = threading.Thread(target=lambda: [record() for record in _records], daemon=True)
            thread.start()
            thread.join(_RECORD_S)
        if len(seen) > 1 or (seen and not ready):
            _end(signal.Signals(seen[0]), at_once=True)


def _end(number: signal.Signals, at_once: bool = False) -> None:
    """End the process: what it started first, unless ``at_once``."""
    _note(number)
    if not _ended.acquire(blocking=False):
        if not at_once:
            threading.Event().wait()  # another thread is ending it
        os._exit(128 + number)
    with suppress(BaseException):
        sys.stdout.flush()
    for end in () if at_once else at_end:
        with suppress(BaseException):
            end()
    os._exit(128 + number)


def _unless_stopped(hook: Callable[..., object]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        if not _received:
            hook(*arguments)

    return call
