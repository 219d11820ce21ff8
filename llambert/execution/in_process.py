"""The workers of a stage in the process that calls it, without Ray: for tests, for a debugger, for a small corpus."""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from llambert.errors import InputError
from llambert.execution import OnProgress, Outcome, Pool, Result, TrainingContext, Worker
from llambert.run import Run
from llambert.storage.atomic import write_atomically
from llambert.storage.run_directory import TableDirectory

_STATE = "state.pt"


class InProcessExecutor:
    """One worker in the caller's thread, whatever replicas, workers and CPUs the recipe asks for.

    A failure of any kind is raised as it is and not tried again.
    """

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """See ``Executor.run``; units come back in order. Threads are started where the pool has several in flight."""
        if not units:
            return
        made = worker(*arguments)
        if pool.units_in_flight == 1:
            yield from map(made, units)
            return
        in_flight: deque[Future[Outcome]] = deque()
        with ThreadPoolExecutor(pool.units_in_flight, thread_name_prefix=stage) as threads:
            for unit in units:
                if len(in_flight) == pool.units_in_flight:
                    yield in_flight.popleft().result()
                in_flight.append(threads.submit(made, unit))
            while in_flight:
                yield in_flight.popleft().result()

    def train(self, run: Run, function: Callable[[Run, TrainingContext], Result], on_progress: OnProgress) -> Result:
        """See ``Executor.train``; one worker, on this machine's GPU if the recipe says ``classifier.use_gpu``."""
        use_gpu = run.recipe.classifier.use_gpu
        if use_gpu and not torch.cuda.is_available():
            raise InputError("classifier.use_gpu: PyTorch finds no GPU on this machine; set it to false")
        device = torch.device("cuda" if use_gpu else "cpu")
        return function(run, _LocalTraining(device, run.table("training"), on_progress))


IN_PROCESS = InProcessExecutor()


class _LocalTraining:
    """A ``TrainingContext`` of one worker."""

    rank = 0

    def __init__(self, device: torch.device, states: TableDirectory, on_progress: OnProgress) -> None:
        self.device, self.report = device, on_progress
        self._filesystem, self._path = states.filesystem, states.path(_STATE)

    def first_error(self, message: str) -> str:
        return message

    def latest_state(self) -> dict[str, Any] | None:
        try:
            content = self._filesystem.cat_file(self._path)
        except FileNotFoundError:
            return None
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def save_state(self, state: Callable[[], dict[str, Any]]) -> None:
        content = io.BytesIO()
        torch.save(state(), content)
        write_atomically(self._filesystem, self._path, content.getvalue())
