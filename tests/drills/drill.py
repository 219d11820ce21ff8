"""Seeded fault drills of the whole pipeline: a run under faults must end with the undisturbed run's tables.

    python -m tests.drills.drill --drills 10 --seed 0
    python -m tests.drills.drill --only "kill node" --drills 3
    python -m tests.drills.drill --replay "annotate+0.4 kill actor; label+0.2 kill s3 for 1.5"
    python -m tests.drills.drill --drills 200 --minutes 5 --results drills.jsonl     a piece of a long series
    python -m tests.drills.drill --drills 0 --results drills.jsonl                   the table of all pieces

Each drill is one schedule, drawn by seed and number: a fault or two, each timed to a stage. The run is that of a small
recipe with a scripted annotator and a tiny encoder, by `jobs/pipeline.py` on a Ray cluster of a head and two worker
nodes on this machine, its tables in a real S3 server. What does not end with status 0 is started again, as an operator
would; where files were damaged, by `llambert repair`. In the end every table must be the undisturbed run's, row for
row, the weights byte for byte, and `llambert verify` must find nothing. A schedule that fails is printed, for
``--replay``. Exit status 1 if anything differs.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llambert.integrity.verify import verify
from tests.drills.drill_pipeline import compare, contents, end_driver
from tests.drills.fault_injection import DrillRun, faked_time
from tests.drills.schedule import FAULTS, STAGES, Fault, draw, parse
from tests.drills.testbed import Testbed, running_testbed

MAX_STARTS = 8
HUNG_AFTER_S = 90.0
POLL_S = 0.05


@dataclass
class Result:
    """One drill: its schedule, the faults that found something to harm, and what came of it."""

    number: int
    seed: int
    schedule: str
    done: list[str] = field(default_factory=list)
    in_stage: int = 0
    """Of the faults done, those while their stage was at work."""
    restarts: int = 0
    repairs: int = 0
    hung: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    problems: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drills", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAULTS, help="this fault alone")
    parser.add_argument("--replay", help="a schedule, as a failing drill prints it")
    parser.add_argument("--results", type=Path, help="append each drill to this file; skip those already in it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no drill after this time")
    parser.add_argument(
        "--cold", action="store_true", help="Ray starts its workers itself; each drill takes twice as long"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # what was started is ended too
    numbers = range(arguments.first, arguments.first + arguments.drills)
    schedules = {number: draw(arguments.seed, number, arguments.only) for number in numbers}
    if arguments.replay:
        schedules = {0: parse(arguments.replay)}
    earlier = read(arguments.results)
    for result in earlier:
        if result.seed == arguments.seed and not arguments.replay:
            schedules.pop(result.number, None)
    results = earlier
    if schedules:
        results += drill(schedules, arguments.seed, arguments.results, arguments.minutes, not arguments.cold)
    print(table(results))
    return 1 if any(result.problems for result in results) else 0


def read(file: Path | None) -> list[Result]:
    """The drills of earlier pieces."""
    if file is None or not file.exists():
        return []
    return [Result(**json.loads(text)) for text in file.read_text().splitlines()]


def drill(
    schedules: dict[int, list[Fault]],
    seed: int = 0,
    file: Path | None = None,
    minutes: float = float("inf"),
    is_warm: bool = True,
) -> list[Result]:
    """Every schedule in turn in one testbed; results are printed, and appended to ``file``, as they come."""
    results = []
    began = time.monotonic()
    with running_testbed(is_warm=is_warm) as testbed:
        expected = undisturbed(testbed)
        print(f"testbed and undisturbed run: {time.monotonic() - began:.1f} s", flush=True)
        for number, schedule in schedules.items():
            if time.monotonic() - began > 60 * minutes:
                break
            if any(fault.kind == "clock jump" for fault in schedule) and faked_time() is None:
                print(f"drill {number}: not done: a clock jump needs the package libfaketime", flush=True)
                continue
            result = one_drill(testbed, number, schedule, seed, expected)
            results.append(result)
            print(line(result), flush=True)
            if file:
                with file.open("a") as stream:
                    stream.write(json.dumps(asdict(result)) + "\n")
    return results


def undisturbed(testbed: Testbed) -> dict[str, Any]:
    """The tables that every drill must end with."""
    began = time.monotonic()
    drill_run = DrillRun(testbed, "undisturbed")
    drill_run.driver = testbed.start_driver("undisturbed")
    ended = {}
    while drill_run.is_running():
        drill_run.driver.join(POLL_S)
        for stage in STAGES:
            if stage not in ended and drill_run.has_ended(stage):
                ended[stage] = time.monotonic() - began
    end_driver(drill_run.driver)
    assert drill_run.driver.exitcode == 0, testbed.drivers.log.read_text()[-4000:]
    ended["report"] = time.monotonic() - began
    assert verify(drill_run.run) == []
    ended["verify"] = time.monotonic() - began
    found = contents(drill_run.run)
    ended["tables read"] = time.monotonic() - began
    print("an undisturbed run, seconds until the end of " + ", ".join(f"{k} {s:.1f}" for k, s in ended.items()))
    return found


def one_drill(testbed: Testbed, number: int, schedule: list[Fault], seed: int, expected: dict[str, Any]) -> Result:
    """Run the pipeline under the schedule, restart it until it succeeds, and compare its tables."""
    began = time.monotonic()
    result = Result(number, seed, "; ".join(map(str, schedule)))
    drill_run = DrillRun(testbed, f"drill-{seed}-{number}-{time.time_ns()}")
    try:
        run_to_completion(drill_run, list(schedule), result)
    finally:
        for driver in [drill_run.driver, *drill_run.others]:
            if driver is not None:
                end_driver(driver)
        testbed.restore()
    if not result.problems:
        difference = compare(contents(drill_run.run), expected)
        result.lost, result.duplicated, result.altered = difference.lost, difference.duplicated, difference.altered
        result.problems += difference.notes
    result.done = drill_run.done
    result.seconds = round(time.monotonic() - began, 1)
    return result


def run_to_completion(drill_run: DrillRun, schedule: list[Fault], result: Result) -> None:
    """Restart the run until it is complete and verified, while the faults of the schedule are injected."""
    program = "pipeline"
    for _ in range(MAX_STARTS):
        start(drill_run, program, schedule)
        watch(drill_run, schedule, result)
        assert drill_run.driver is not None
        status = drill_run.driver.exitcode
        result.statuses.append(status if status is not None else 1)
        drill_run.testbed.restore()
        if status == 0:
            findings = [str(finding) for finding in verify(drill_run.run)]
            if not findings:
                return
            if not drill_run.is_damaged:
                result.problems += findings[:5]
                return
        program = "repair" if drill_run.is_damaged else "pipeline"
        result.repairs += program == "repair"
        result.restarts += program == "pipeline"
    log = drill_run.testbed.drivers.log.read_text()[-1500:]
    result.problems.append(f"not complete after {MAX_STARTS} starts; end of the log: {log}")


def start(drill_run: DrillRun, program: str, schedule: list[Fault]) -> None:
    """Start one more driver; with a clock that can be changed if the schedule has a clock jump."""
    environment = {}
    if any(fault.kind == "clock jump" for fault in schedule):
        drill_run.clock.write_text("+0")
        environment = {
            "LD_PRELOAD": str(faked_time()),
            "FAKETIME_TIMESTAMP_FILE": str(drill_run.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    drill_run.driver = drill_run.testbed.start_driver(drill_run.name, program, **environment)


def watch(drill_run: DrillRun, schedule: list[Fault], result: Result) -> None:
    """Inject the due faults of the schedule until the driver, and any other on the same run, has ended.

    A driver without progress for ``HUNG_AFTER_S`` is killed, and counted as hung.
    """
    assert drill_run.driver is not None
    deadline = time.monotonic() + HUNG_AFTER_S
    while drill_run.is_running():
        if time.monotonic() > deadline:
            result.hung += 1
            end_driver(drill_run.driver)
        elif schedule and drill_run.has_begun(schedule[0].stage):
            fault = schedule.pop(0)
            drill_run.driver.join(fault.after_s)
            if not drill_run.is_running():
                schedule.insert(0, fault)  # injected after the next start
                break
            in_stage = not drill_run.has_ended(fault.stage)
            if drill_run.inject(fault):
                result.in_stage += in_stage
            deadline = time.monotonic() + HUNG_AFTER_S
        else:
            drill_run.driver.join(POLL_S)
    for other in drill_run.others:
        other.join(HUNG_AFTER_S)
        end_driver(other)
    end_driver(drill_run.driver)


def line(result: Result) -> str:
    """One drill in one line; the schedule of one that failed is for --replay."""
    outcome = "; ".join(result.problems) if result.problems else "as undisturbed"
    again = f"{result.restarts} restarts" + (f", {result.repairs} repairs" if result.repairs else "")
    words = f"drill {result.number}: {result.seconds:.1f} s, {again}, {result.schedule}: {outcome}"
    return words if not result.problems else f'{words}\n  --replay "{result.schedule}"'


def table(results: list[Result]) -> str:
    """Per kind of fault: the drills with it, how often it was injected, restarts, and differences."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        kinds = {fault.kind for fault in parse(result.schedule)}
        for kind in [*kinds, "all"]:
            num_done = len(result.done) if kind == "all" else result.done.count(kind)
            rows[kind].update(
                drills=1,
                faults=num_done,
                restarts=result.restarts,
                repairs=result.repairs,
                hung=result.hung,
                lost=result.lost,
                duplicated=result.duplicated,
                altered=result.altered,
                failed=int(bool(result.problems)),
            )
    names = ("drills", "faults", "restarts", "repairs", "hung", "lost", "duplicated", "altered", "failed")
    lines = [f"| fault | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind in [*(kind for kind in FAULTS if kind in rows), "all"]:
        lines.append(f"| {kind} | {' | '.join(str(rows[kind][name]) for name in names)} |")
    num_seconds = [result.seconds for result in results if result.seconds]
    mean = sum(num_seconds) / max(1, len(num_seconds))
    num_in_stage = sum(result.in_stage for result in results)
    lines.append(f"{num_in_stage} faults while their stage was at work; {mean:.1f} s a drill")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
