"""Many associations at once, each from a process of its own, so that the client is not what is measured."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from benchmarks.client import StoreJob, Timing, store
from benchmarks.wire import ClientError

_ANSWER_SECONDS = 60.0
_JOIN_SECONDS = 5.0


class Workers:
    """Processes that wait for store jobs, between `with` and the end of it."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        # What they import takes both cores for a while; nothing may be measured meanwhile.
        for pipe in self._pipes:
            _answer(pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_JOIN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join(_JOIN_SECONDS)

    def store(self, jobs: Sequence[StoreJob]) -> Timing:
        """Do one job in each process, all from the same moment on; the time is from the first start to the last end."""
        pipes = self._pipes[: len(jobs)]
        for pipe, job in zip(pipes, jobs, strict=True):
            pipe.send(job)
        ready = [_answer(pipe) for pipe in pipes]
        for pipe, answer in zip(pipes, ready, strict=True):
            if not isinstance(answer, str):
                pipe.send("go")
        timings = [
            _answer(pipe) if not isinstance(answer, str) else answer for pipe, answer in zip(pipes, ready, strict=True)
        ]
        done = []
        for timing in timings:
            if not isinstance(timing, Timing):
                raise ClientError(str(timing))
            done.append(timing)
        began, ended = min(timing.began for timing in done), max(timing.ended for timing in done)
        return Timing(began, ended, sum(timing.count for timing in done))


def _answer(pipe: Connection) -> Timing | str | None:
    if not pipe.poll(_ANSWER_SECONDS):
        raise ClientError(f"no answer from a client process in {_ANSWER_SECONDS:g} s")
    answer: Timing | str | None = pipe.recv()
    return answer


def _work(pipe: Connection) -> None:
    """Do jobs until the pipe is closed.

    Sends None when it has started; then for each job None when it is ready and the Timing, or once
    the reason of a failure.
    """

    def wait() -> None:
        pipe.send(None)
        pipe.recv()

    pipe.send(None)
    while True:
        try:
            job: StoreJob = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(store(job, wait))
        except (ClientError, OSError) as error:
            pipe.send(str(error) or type(error).__name__)
        except EOFError:
            return
