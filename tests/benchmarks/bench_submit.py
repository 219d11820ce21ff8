"""From `ray job submit` to the first annotated record, on a cluster that is up: the cost of the machinery.

    python -m tests.benchmarks.bench_submit [--records 500] [--limit-s 60]

Starts a head node on this machine, submits jobs/pipeline.py with the demo's recipe as the README does, and prints when
the job's process began, when the corpus was complete, and when the first part of responses was committed; then it
stops the job. Beside it what that part's model took: the rest is machinery. Exit status 1 above the limit.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# The job is started with `python`, as from an activated environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from llambert.storage.part_file import parse_footer
from tests.fixtures.ray_jobs import wait_for_job_agent

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--records-per-part", type=int, default=50)
    parser.add_argument("--limit-s", type=float, default=60.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        os.environ["RAY_TMPDIR"] = folder
        # Free ports: the usual ones may be another cluster's.
        ports = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}
        head = {"num_cpus": os.cpu_count(), "include_dashboard": True, **ports}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            return measure(f"http://{cluster.head_node.webui_url}", Path(folder) / "run", arguments)
        finally:
            cluster.shutdown()


def measure(dashboard: str, storage: Path, arguments: argparse.Namespace) -> int:
    client = JobSubmissionClient(dashboard)
    wait_for_job_agent(client)
    settings = {
        "storage": storage,
        "annotator.num_records": arguments.records,
        "annotator.records_per_part": arguments.records_per_part,
    }
    command = ["job", "submit", "--runtime-env", "runtime_env.yaml", "--working-dir", ".", "--submission-id", "bench"]
    job = ["python", "jobs/pipeline.py", "jobs/recipes/reviews.yaml"]
    for key, value in settings.items():
        job += ["--set", f"{key}={value}"]
    began = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).with_name("ray")), *command, "--no-wait", "--", *job],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": dashboard},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    submitted_s = time.monotonic() - began
    seen = {name: wait_for(client, storage, pattern, began) for name, pattern in PATTERNS.items()}
    client.stop_job("bench")
    part = next(iter(sorted(storage.glob("answers/*/part-*.parquet"))))
    counts = parse_footer(part.read_bytes()).counts["counts"]
    print(f"`ray job submit` came back      {submitted_s:6.1f} s")
    for name, seconds in seen.items():
        print(f"{name:<31} {seconds:6.1f} s")
    print(f"of that part: {counts}")
    within = seen["first annotated records"] <= arguments.limit_s
    print(f"limit {arguments.limit_s:g} s: {'kept' if within else 'NOT kept'}")
    return 0 if within else 1


PATTERNS = {
    "the job's process at work": "recipe.yaml",
    "the corpus is complete": "corpus/*/manifest.json",
    "the sample is complete": "sample/*/manifest.json",
    "first annotated records": "answers/*/part-*.parquet",
}


def wait_for(client: JobSubmissionClient, storage: Path, pattern: str, began: float) -> float:
    """Seconds from ``began`` until a file of the run is there."""
    while not any(storage.glob(pattern)):
        if client.get_job_status("bench").is_terminal() or time.monotonic() - began > 200:
            raise RuntimeError(client.get_job_logs("bench")[-4000:])
        time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
