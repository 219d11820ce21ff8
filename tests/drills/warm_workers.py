"""Ray workers that are forked where their imports are done, but for Ray's: a cold one takes a core for seconds.

    python -m tests.drills.warm_workers FOLDER

A raylet starts warm_worker.py instead of Ray's own program; that sends its arguments, environment and output here, and
what is forked here runs Ray's own program with them. A worker registers, works, is killed and is missed as any other;
it is no child of its raylet, so FOLDER/born says which raylet each belongs to.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

import psutil

# What stages import, but for Ray itself: its C++ reads a worker's job from the environment when it is loaded.
PRELOADED = ("pandas", "pyarrow.parquet", "pyarrow.dataset", "s3fs", "openai", "transformers", "tensorboardX")
PRELOADED += (
    "llambert.classifier.labelling",
    "llambert.training.loop",
    "llambert.training.card",
    "llambert.engines.openai.http_engine",
)


def main(folder: Path) -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    assert "ray" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(folder / "socket"))
        server.listen(64)
        while True:
            connection, _ = server.accept()
            with connection:
                length, outputs, _, _ = socket.recv_fds(connection, 8, 2)
                with connection.makefile("rb") as stream:
                    order = json.loads(stream.read(int.from_bytes(length, "big")))
                pid = os.fork()
                if pid == 0:
                    server.close()
                    work(order, outputs)
                for descriptor in outputs:
                    os.close(descriptor)
                with (folder / "born").open("a") as born:
                    # With the time it was born: a number is given to another process when its own is gone.
                    born.write(f"{order['raylet']} {pid} {psutil.Process(pid).create_time()}\n")


def work(order: dict, outputs: list[int]) -> None:
    """Be the worker that was ordered, to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, output in zip((1, 2), outputs, strict=True):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    arguments = []
    for argument in order["arguments"]:
        name, _, value = argument.partition("=")
        if name == "--serialized-runtime-env-context":
            os.environ.update(json.loads(value or "{}").get("env_vars", {}))
        elif name != "--language" and (arguments or argument.endswith(".py")):  # before the program: Python's flags
            arguments.append(argument)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
