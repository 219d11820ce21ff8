"""The workers of a stage in the process that calls it, without Ray: for tests, for a debugger, for a small corpus."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from llambert import stopping
from llambert.classifier.chip import HalfPrecision, half_precision_here
from llambert.errors import InputError, described, one_line
from llambert.execution import OnProgress, Outcome, Pool, Result, TrainingContext, Worker
from llambert.execution.training_states import TrainingStates
from llambert.passing_faults import PassingFault, is_passing
from llambert.run import Run


class InProcessExecutor:
    """One worker in the caller's thread, whatever replicas, workers and CPUs the recipe asks for."""

    spans_machines = False

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """See ``Executor.run``; units come back in order. Threads are started where the pool has several in flight."""
        if not units:
            return
        attempts = _Attempts(stage, partial(worker, *arguments), pool.max_attempts)
        if pool.units_in_flight == 1:
            yield from map(attempts, units)
            return
        in_flight: deque[Future[Outcome]] = deque()
        threads = ThreadPoolExecutor(pool.units_in_flight, thread_name_prefix=stage)
        try:
            for unit in units:
                if len(in_flight) == pool.units_in_flight:
                    yield in_flight.popleft().result()
                in_flight.append(threads.submit(attempts, unit))
            while in_flight:
                yield in_flight.popleft().result()
        finally:  # a stopped program does not wait for what is in flight
            threads.shutdown(wait=stopping.stopped_by() is None, cancel_futures=True)

    def half_precision(self, _: str | None = None) -> HalfPrecision | None:
        """See ``Executor.half_precision``: of this machine."""
        return half_precision_here()

    def train(self, run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
        """See ``Executor.train``; one worker, on this machine's GPU if the recipe says ``classifier.use_gpu``."""
        use_gpu = run.recipe.classifier.use_gpu
        if use_gpu and not torch.cuda.is_available():
            raise InputError("classifier.use_gpu: PyTorch finds no GPU on this machine; set it to false")
        device = torch.device("cuda" if use_gpu else "cpu")
        with TrainingStates(run.table("training"), run.recipe.classifier.checkpoint_every_s) as states:
            return function(run, _LocalTraining(device, states, on_progress))


IN_PROCESS = InProcessExecutor()


class _Attempts:
    """Does a unit with one worker after another until one does not fail, ``max_attempts`` times at most."""

    def __init__(self, stage: str, make: Callable[[], Worker], max_attempts: int) -> None:
        self._stage, self._make, self._max_attempts = stage, make, max_attempts
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def __call__(self, unit: dict[str, Any]) -> Outcome:
        for attempt in range(1, self._max_attempts + 1):
            worker = None
            try:
                worker = self._current()
                return worker(unit)
            except Exception as error:
                if isinstance(error, InputError) and not isinstance(error, PassingFault):
                    raise
                if attempt == self._max_attempts:
                    what = f"{json.dumps(unit)} failed" if worker else "no worker could start"
                    raise self._last(error, what) from error
                self._discard(worker)
        raise AssertionError("max_attempts is 1 or more")

    def _current(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = self._make()
            return self._worker

    def _discard(self, worker: Worker | None) -> None:
        """Make another one for the next unit, unless another thread has done so."""
        with self._lock:
            if self._worker is worker:
                self._worker = None  # before the next is made: both may not fit into memory

    def _last(self, error: Exception, what: str) -> Exception:
        """The last failure: one line where device or network are at fault, else with its cause."""
        if is_passing(error):
            summary = one_line(error) if isinstance(error, PassingFault) else described(error)
            return InputError(f"{self._stage}: {what}, {self._max_attempts} times: {summary}")
        return RuntimeError(f"{self._stage}: {what}, {self._max_attempts} times, the last time with {described(error)}")


class _LocalTraining:
    """A ``TrainingContext`` of one worker."""

    rank = 0

    def __init__(self, device: torch.device, states: TrainingStates, on_progress: OnProgress) -> None:
        self.device, self.report = device, on_progress
        self.latest_state, self.save_state, self.save_file = states.latest, states.save, states.save_file

    def first_error(self, message: str) -> str:
        return message
