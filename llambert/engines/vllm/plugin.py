"""What vLLM calls in each of its processes (entry point ``vllm.general_plugins``): end with the process that uses it.

vLLM 0.32's engine process outlives a user that is killed, and keeps the GPU: the next replica would not fit.
"""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Watch the parent from a thread, in a process that has one; does nothing in the user's own process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
