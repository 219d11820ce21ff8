"""The endpoint under 16 clients at once against the bare classifier, on the same reviews in one run.

    python -m tests.benchmarks.bench_serve [--requests 2500 10000] [--texts 8 1] [--clients 16] [--encoder E]

Film reviews (27 tokens on average), MiniLM, the whole of `llambert serve` as a process: Ray, the endpoint, and a
replica of as many threads as the bare classifier has. Each client sends its next request when the last is answered,
over one connection. Prints both rates in texts, their ratio, and the latencies; exit status 1 below the floors: 0.8 of
the bare classifier (but for short texts alone in their requests, DECISIONS.md), p99 under 10 times p50, no error.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import logging

from tests.benchmarks.bench_classifier import ENCODER, imdb_length_texts, review_texts, save_checkpoint
from tests.benchmarks.bench_label import predict_rate

FLOOR, P99_OVER_P50 = 0.8, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--requests", type=int, nargs="+", default=[2_500, 10_000], help="of each load")
    parser.add_argument("--texts", type=int, nargs="+", default=[8, 1], help="of a request, in each load")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2, help="of the bare classifier, and of the replica")
    parser.add_argument("--bare-texts", type=int, default=4_000, help="how many the bare classifier labels")
    parser.add_argument("--imdb-length", action="store_true", help="texts as long as IMDb's reviews (270 tokens)")
    parser.add_argument("--bare", metavar="CHECKPOINT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # the endpoint is ended too
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = imdb_length_texts(2_000) if arguments.imdb_length else review_texts()
    if arguments.bare:
        repeated = (texts * (1 + arguments.bare_texts // len(texts)))[: arguments.bare_texts]
        print(predict_rate(arguments.bare, repeated, arguments.threads))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(arguments.encoder, str(Path(folder) / "checkpoint"))
        alone = [sys.executable, *sys.argv, "--bare", checkpoint]  # a process of its own
        bare = float(subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True).stdout)
        with Endpoint(checkpoint, arguments.threads) as port:
            asyncio.run(load(port, texts, arguments.texts[0], arguments.clients, 4 * arguments.clients))  # slow
            print(f"bare classifier, {arguments.threads} threads     {bare:8.1f} texts/s", flush=True)
            kept = [
                report(port, texts, num_texts, num_requests, bare, arguments.clients)
                for num_texts, num_requests in zip(arguments.texts, arguments.requests, strict=True)
            ]
    return 0 if all(kept) else 1


def report(port: int, texts: list[str], num_texts: int, num_requests: int, bare: float, num_clients: int) -> bool:
    """Print one load's figures; whether they keep to the limits."""
    seconds, latencies, errors = asyncio.run(load(port, texts, num_texts, num_clients, num_requests))
    rate = len(latencies) * num_texts / seconds
    has_floor = num_texts > 1 or float(np.mean([len(text) for text in texts])) > 500
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    print(f"{num_requests:,} requests of {num_texts} from {num_clients} clients: {len(errors)} errors {errors[:3]}")
    print(f"  {rate:8.1f} texts/s in {len(latencies) / seconds:.1f} requests/s")
    print(f"  endpoint / bare               {rate / bare:8.3f}" + (f" (floor {FLOOR})" if has_floor else ""))
    print(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms: {p99 / p50:.1f} times (limit {P99_OVER_P50:g})", flush=True)
    return (not has_floor or rate / bare >= FLOOR) and p99 / p50 < P99_OVER_P50 and not errors


class Endpoint:
    """`llambert serve` as a process of its own; the context is its port."""

    def __init__(self, checkpoint: str, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", "from llambert.cli import main; main()", "serve", checkpoint]
        self.command = [*command, "--port", str(self.port), "--cpus", str(threads)]

    def __enter__(self) -> int:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        if not any("serving" in line for line in self.process.stdout):
            raise RuntimeError(f"llambert serve ended with status {self.process.wait()}")
        return self.port

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


async def load(
    port: int, texts: list[str], num_texts: int, num_clients: int, num_requests: int
) -> tuple[float, list[float], list[str]]:
    """Seconds in all, seconds of each answered request, and what went wrong."""
    numbers = iter(range(num_requests))
    latencies: list[float] = []
    errors: list[str] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            first = number * num_texts % (len(texts) - num_texts)
            body = json.dumps({"texts": texts[first : first + num_texts]}).encode()
            sent = time.perf_counter()
            head = b"POST /v1/label HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if b" 200 " in head[:15] and answer.count(b'"label"') == num_texts:
                latencies.append(time.perf_counter() - sent)
            else:
                errors.append((head[:30] + answer[:100]).decode())
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    return time.perf_counter() - started, latencies, errors


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
