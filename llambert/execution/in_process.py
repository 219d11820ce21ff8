"""The workers of a stage in the process that calls it, without Ray: for tests, for a debugger, for a small corpus."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llambert.execution import Outcome, Pool, Worker


class InProcessExecutor:
    """One worker; its units one after another in the caller's thread, or as many in flight as the pool says."""

    def run(
        self, stage: str, worker: type[Worker], arguments: tuple[Any, ...], units: list[dict[str, Any]], pool: Pool
    ) -> Iterator[Outcome]:
        """See ``Executor.run``; units come back in order, and a failure of any kind is not tried again."""
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


IN_PROCESS = InProcessExecutor()
