"""How is work spread over processes, which end when this one does?"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from typing import Any

SECONDS_TO_END = 60.0
"""For a worker that has nothing to do but end."""


@contextmanager
def start_workers(num_workers: int) -> Iterator[Executor]:
    """Processes with one thread each, started when they are first needed.

    They end with the block, at once where an error or an interrupt leaves it, and with this
    process, however that ends. A program that does not go on after an error should end by
    `os._exit`: Python waits for the executor, which may have come to a standstill.

    Args:
        num_workers: How many; 0 does the work in this process, before `submit` returns.
    """
    if num_workers == 0:
        yield _InThisProcess()
        return
    # Not fork, which would copy a tokenizer's threads in whatever state they are.
    context = get_context("forkserver")
    # The end that is sent through is nowhere but here: it closes when this process ends.
    alive, end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start, initargs=(alive, dict(os.environ))
    )
    others = set(active_children())
    try:
        yield executor
        executor.shutdown()
    except BaseException as error:
        end.close()
        # Nobody waits for the executor: what ends so may hold its locks for good, a worker as well
        # as what an interrupt has come upon.
        if isinstance(error, Exception):
            executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(active_children()) - others:
            worker.join(SECONDS_TO_END)
        raise
    finally:
        end.close()
        alive.close()


class _InThisProcess(Executor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def _start(alive: Connection, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server that forks may be older than some of it
    # A Ctrl-C reaches all processes of a terminal; the first one sees to the end of the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As many processes as cores leave no core for threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()


def _end_with(alive: Connection) -> None:
    alive.poll(None)  # nothing is ever sent: this is the end of the other side
    os._exit(1)
