"""Many associations at once, each from a process of its own, so that the client is not what is measured."""

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol, Self

from benchmarks.client import Timing
from benchmarks.wire import ClientError

_ANSWER_SECONDS = 60.0
_JOIN_SECONDS = 5.0


class Job(Protocol):
    """Work over an association of its own."""

    def run(self, wait: Callable[[], object]) -> Timing:
        """Do it; when all is prepared `wait` is called, then the clock starts."""


class Workers:
    """Processes that wait for jobs, between `with` and the end of it."""

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

    def run(self, jobs: Sequence[Job]) -> list[Timing]:
        """Do all jobs at once, from the same moment on, shared among the processes; a thread each in theirs."""
        shares = [jobs[number :: len(self._pipes)] for number in range(min(len(jobs), len(self._pipes)))]
        pipes = self._pipes[: len(shares)]
        for pipe, share in zip(pipes, shares, strict=True):
            pipe.send(share)
        ready = [_answer(pipe) for pipe in pipes]
        for pipe, answer in zip(pipes, ready, strict=True):
            if answer is None:
                pipe.send("go")
        answers = [_answer(pipe) if answer is None else answer for pipe, answer in zip(pipes, ready, strict=True)]
        found: list[Timing | None] = [None] * len(jobs)
        for number, answer in enumerate(answers):
            if not isinstance(answer, list):
                raise ClientError(str(answer))
            found[number :: len(self._pipes)] = answer
        return [timing for timing in found if timing is not None]


def _answer(pipe: Connection) -> list[Timing] | str | None:
    if not pipe.poll(_ANSWER_SECONDS):
        raise ClientError(f"no answer from a client process in {_ANSWER_SECONDS:g} s")
    answer: list[Timing] | str | None = pipe.recv()
    return answer


def _work(pipe: Connection) -> None:
    """Do jobs until the pipe is closed.

    Sends None when it has started; then for each share of jobs None when they are ready and their Timings, or
    once the reason of a failure.
    """

    def wait() -> None:
        pipe.send(None)
        pipe.recv()

    pipe.send(None)
    while True:
        try:
            jobs: Sequence[Job] = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_run_together(jobs, wait))
        except (ClientError, OSError) as error:
            pipe.send(str(error) or type(error).__name__)
        except EOFError:
            return


class _OthersFailed(ClientError):
    """This association is well, another one of the same share is not."""


def _run_together(jobs: Sequence[Job], wait: Callable[[], None]) -> list[Timing]:
    """Each job in a thread; when all are ready one of them waits for the others."""
    barrier = threading.Barrier(len(jobs), wait, timeout=_ANSWER_SECONDS)

    def run(job: Job) -> Timing:
        try:
            return job.run(barrier.wait)
        except threading.BrokenBarrierError:
            raise _OthersFailed from None
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        started = [pool.submit(run, job) for job in jobs]
    failures = [error for future in started if (error := future.exception()) is not None]
    if failures:
        raise min(failures, key=lambda error: isinstance(error, _OthersFailed))
    return [future.result() for future in started]
