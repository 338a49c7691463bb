"""Something that the kernel works on for long, asked for by a thread while the reading goes on.

Rules: the thread has ended when the block ends, however that is; what it raised is raised by who
asks for its result.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from allocscope.typed import TypeVar

Result = TypeVar("Result")


@contextlib.contextmanager
def meanwhile(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Calls ``work`` in a thread. Yields a function that waits for its end and returns what it
    returned, or raises what it raised."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    def result() -> Result:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    thread = threading.Thread(target=run, name="allocscope-meanwhile")
    thread.start()
    try:
        yield result
    finally:
        thread.join()
