"""Work on single images, done by threads ahead of time and handed out in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Made]:
    """make(item) of each item, in the order of the items, whoever makes it.

    Threads do, since PIL decodes and resizes outside the interpreter's lock.

    Args:
        workers: threads; 0: the calling one, when asked.
        ahead: items that may be made before they are asked for, which bounds the memory.
    """
    if workers == 0:
        yield from map(make, items)
        return

    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Made]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also where whoever asked loses interest
        pool.shutdown(cancel_futures=True)
