"""The reviews recipe as a submitted job on three nodes and object storage: nodes are killed, the job is stopped.

    python -m tests.drills.drill_cluster [--kill ingest annotate finetune] [--drain label] [--stop annotate]

Starts an S3 server and a Ray cluster on this machine: a head without CPUs and two worker nodes of one CPU each. Submits
jobs/pipeline.py exactly as the README does, with tiny models. In each stage of ``--kill`` the worker node on which
the stage works is killed, and another one joins; in those of ``--drain`` it gets a spot notice first (by
cluster/drain-on-spot-notice.sh, from a pretended cloud) and is killed ten seconds later; in the stage of ``--stop``
the job is ended by `ray job stop` and submitted again. In the end the job must have succeeded and `llambert verify`
must find nothing wrong. ``--screenshot FILE``: what the dashboard shows while annotate runs, by headless Chromium.
Exit status 1 if anything is not as it should be.
"""

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# The job is started with `python`, as from an activated environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from llambert.integrity.verify import verify
from llambert.run import Run, open_run
from llambert.storage.locations import open_filesystem
from tests.drills.drill_pipeline import ENDS, GROWS
from tests.drills.nodes import ROOT, Nodes
from tests.drills.schedule import STAGES
from tests.fixtures.chromium import Page
from tests.fixtures.ray_jobs import wait_for_job_agent
from tests.fixtures.s3_server import running_server
from tests.fixtures.tiny_encoder import WORDS, save_tiny_encoder
from tests.fixtures.tiny_llm import save_tiny_llm

PROCESSES = {"finetune": "ray::RayTrainWorker"}
NUM_FILES, ROWS_PER_FILE = 24, 40
_UNFOLD = """[...document.querySelectorAll("h4")]
    .filter(one => one.textContent.trim() == "Ray Data Overview").forEach(one => one.click())"""
STORAGE = "s3://llambert-test/films"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # what was started is ended too
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kill", nargs="*", choices=STAGES, default=["ingest", "annotate", "finetune"])
    parser.add_argument("--drain", nargs="*", choices=STAGES, default=["label"])
    parser.add_argument("--stop", nargs="*", choices=STAGES, default=["annotate"])
    parser.add_argument("--screenshot", type=Path)
    arguments = parser.parse_args()
    # Short: a socket's path has 107 characters.
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        return drill(Path(folder), arguments)


def drill(folder: Path, arguments: argparse.Namespace) -> int:
    """``arguments``: lists of stages ``kill``, ``drain`` and ``stop``, and a file or None, ``screenshot``."""
    os.environ["RAY_TMPDIR"] = str(folder)
    recipe = write_recipe(folder)
    with running_server(folder / "s3"):
        nodes = Nodes()
        try:
            submitted = SubmittedRun(nodes, recipe)
            wait_for_job_agent(submitted.client)
            submitted.submit()
            for stage in STAGES:
                if stage in arguments.stop:
                    submitted.stop_in(stage)
                if stage == "annotate" and arguments.screenshot:
                    submitted.wait_for(stage)
                    submitted.save_screenshot(stage, arguments.screenshot)
                if stage in [*arguments.kill, *arguments.drain]:
                    submitted.kill_in(stage, with_notice=stage in arguments.drain)
            return submitted.end()
        finally:
            nodes.shutdown()


class SubmittedRun:
    """One run of the recipe, over as many submissions as it takes."""

    def __init__(self, nodes: Nodes, recipe: Path) -> None:
        self.nodes, self.recipe = nodes, recipe
        self.client = JobSubmissionClient(nodes.dashboard)
        self.job = ""
        self.num_kills = self.num_submissions = 0
        self.filesystem, self.path = open_filesystem(STORAGE)

    def submit(self) -> None:
        """The README's line."""
        self.num_submissions += 1
        self.job = f"drill-{self.num_submissions}"
        arguments = [
            "--runtime-env",
            "runtime_env.yaml",
            "--working-dir",
            ".",
            "--submission-id",
            self.job,
            "--no-wait",
        ]
        self._ray("job", "submit", *arguments, "--", "python", "jobs/pipeline.py", str(self.recipe))

    def _ray(self, *arguments: str) -> None:
        subprocess.run(
            [str(Path(sys.executable).with_name("ray")), *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": self.nodes.dashboard},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def wait_for(self, stage: str) -> bool:
        """Until the stage has something committed; False if it was complete before that was seen."""
        deadline = time.monotonic() + 150
        while True:
            self.filesystem.invalidate_cache()
            if self.filesystem.glob(f"{self.path}/{ENDS[stage]}/*/manifest.json"):
                return False
            if self.filesystem.glob(f"{self.path}/{GROWS[stage]}/*/**"):
                return True
            if self.client.get_job_status(self.job).is_terminal() or time.monotonic() > deadline:
                raise RuntimeError(f"{stage} did not begin:\n{self.client.get_job_logs(self.job)[-4000:]}")
            time.sleep(0.1)

    def kill_in(self, stage: str, with_notice: bool = False) -> None:
        while self.wait_for(stage):
            found = self.nodes.process_of(PROCESSES.get(stage, "ray::MapWorker"))
            if found:
                if with_notice:
                    self.nodes.drain(found[0])
                self.nodes.kill(found[0])
                self.num_kills += 1
                print(f"{stage}: the node of process {found[1].pid} {'drained and ' * with_notice}killed", flush=True)
                return
            time.sleep(0.05)
        raise RuntimeError(f"{stage} was complete before a node could be killed")

    def stop_in(self, stage: str) -> None:
        """`ray job stop`: the job says so, nothing is half committed, and it goes on when it is submitted again."""
        if not self.wait_for(stage):
            raise RuntimeError(f"{stage} was complete before the job could be stopped")
        began = time.monotonic()
        self._ray("job", "stop", self.job)
        assert self.client.get_job_status(self.job) == JobStatus.STOPPED, self.client.get_job_status(self.job)
        last = self.client.get_job_logs(self.job).strip().splitlines()[-1:]
        parts = self.filesystem.glob(f"{self.path}/{GROWS[stage]}/*/part-*.parquet")
        print(
            f"{stage}: stopped in {time.monotonic() - began:.1f} s with {len(parts)} parts, last line {last}",
            flush=True,
        )
        self.submit()

    def save_screenshot(self, stage: str, file: Path) -> None:
        """The dashboard's page of the job, once it shows the stage by name among Ray Data's."""
        deadline = time.monotonic() + 100
        while not self.nodes.process_of("ray::MapWorker"):
            assert time.monotonic() < deadline, "no actor to be seen"
            time.sleep(0.2)
        page = Page()
        try:
            page.open(f"{self.nodes.dashboard}/#/jobs/{self.job}", 1500, dark=False)
            for text, then in (("Ray Data Overview", _UNFOLD), (stage, "")):
                while text not in page.evaluate("document.body.innerText"):
                    assert time.monotonic() < deadline, f"the dashboard does not show {text!r}"
                    time.sleep(0.5)
                page.evaluate(then)
            file.write_bytes(page.screenshot())
        finally:
            page.close()

    def end(self) -> int:
        deadline = time.monotonic() + 200
        while not (status := self.client.get_job_status(self.job)).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.5)
        if status != JobStatus.SUCCEEDED:
            print(f"the job is {status}:\n{self.client.get_job_logs(self.job)[-4000:]}")
            return 1
        run = open_run(str(self.recipe))
        problems = [str(finding) for finding in verify(run)] + wrong_counts(run)
        for problem in problems:
            print(problem)
        print(
            f"{self.num_kills} nodes killed, {self.num_submissions} submissions: the job succeeded, "
            f"{'NOT ' if problems else ''}every record is labelled once and verify finds nothing wrong"
        )
        return 1 if problems else 0


def wrong_counts(run: Run) -> list[str]:
    """Of the manifests, what is not as many as the corpus has."""
    expected = {"corpus": NUM_FILES * ROWS_PER_FILE, "responses": run.recipe.annotator.num_records}
    expected["labels"] = expected["corpus"]
    found = {name: run.table(name).require_manifest().num_kept for name in expected}
    return [f"{name}: {found[name]} records of {num}" for name, num in expected.items() if found[name] != num]


def write_recipe(folder: Path) -> Path:
    """The demo's recipe with tiny models, over files of made-up texts, into object storage."""
    rng = random.Random(0)
    (folder / "corpus").mkdir()
    for file in range(NUM_FILES):
        rows = [f"{file}-{row}," + " ".join(rng.choices(WORDS, k=12)) for row in range(ROWS_PER_FILE)]
        (folder / "corpus" / f"{file:02d}.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
    recipe = yaml.safe_load((ROOT / "jobs/recipes/reviews.yaml").read_text())
    recipe |= {"name": "films", "storage": STORAGE}
    recipe["corpus"] = {"path": f"{folder / 'corpus'}/*.csv", "columns": {"record_id": "id"}, "rows_per_part": 20}
    recipe["annotator"] |= {
        "model": str(save_tiny_llm(folder / "llm")),
        "num_records": 480,
        "records_per_part": 8,
        "max_attempts": 10,
    }
    recipe["classifier"] |= {
        "model": save_tiny_encoder(folder / "encoder"),
        "max_length": 32,
        "epochs": 40,
        "batch_size": 8,
        "checkpoint_every_s": 2,
        "cpus_per_worker": 1,
        "max_failures": 10,
    }
    recipe["label"] |= {"cpus_per_actor": 1, "max_actors": 2, "max_attempts": 10}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


if __name__ == "__main__":
    sys.exit(main())
