"""``watch`` on a terminal: the screen, the keys, and the terminal as it was before.

Rules: whatever ends the block (a key, Ctrl-C, SIGTERM, SIGHUP, an error) puts back the terminal's
attributes, its normal screen, its cursor and the signal handlers; keys are read when they are there
and never waited for; a terminal that has gone ends the watching.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from allocscope.account.watch import Series, point
from allocscope.cli.waiting import until, wait
from allocscope.model.report import Report
from allocscope.model.watch import Sample
from allocscope.render.page import Look
from allocscope.render.sparkline import ASCII, BLOCKS
from allocscope.render.watch import ORDERS, Screen, screen

MOST_SAMPLES = 240
"""Kept for the sparklines: more than a line of any terminal."""
QUIT = b"qQ\x04"
SORT = b"sS"


class View:
    """Draws samples, and waits between them while it heeds keys. Made by `view`, not by hand."""

    def __init__(self, live: Live, keys: int | None, changes: int, look: Look) -> None:
        self._live, self._keys, self._changes, self._look = live, keys, changes, look
        self._series = Series(MOST_SAMPLES)
        self._order = 0
        self._levels = _levels()
        self._last: Report[Sample] | None = None

    def show(self, report: Report[Sample]) -> None:
        """The next sample."""
        self._series.add(point(report.data))
        self._last = report
        self._draw()

    def pause(self, ended: int | None, seconds: float) -> bool:
        """As app.watch.Pause."""
        moment = time.monotonic() + seconds
        files = [file for file in (ended, self._keys, self._changes) if file is not None]
        while events := wait(until(moment), files, (sys.stdout.fileno(),)):
            if ended in events:
                return True
            if sys.stdout.fileno() in events - {self._keys}:
                return False
            if self._keys in events and not self._heed(os.read(self._keys, 64)):
                return False
            if self._changes in events:
                os.read(self._changes, 64)
            self._draw()
        return True

    def _heed(self, keys: bytes) -> bool:
        """Does what the keys ask for; False to quit, also at the end of the terminal."""
        self._order = (self._order + sum(keys.count(key) for key in SORT)) % len(ORDERS)
        return bool(keys) and not any(key in QUIT for key in keys)

    def _draw(self) -> None:
        if self._last is None:
            return
        size = shutil.get_terminal_size()
        look = Look(size.columns, self._look.colour, self._look.exact_bytes)
        how = Screen(size.lines, ORDERS[self._order], self._levels, self._keys is not None)
        text = Text.from_ansi(screen(self._last, self._series, look, how), no_wrap=True)
        self._live.update(text, refresh=True)


@contextlib.contextmanager
def view(look: Look) -> Iterator[View]:
    """A view on this process's terminal, which is put back as it was. ``look``: the width is the
    terminal's, always."""
    console = Console(no_color=not look.colour, highlight=False, legacy_windows=False)
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with _signals() as changes, _keys() as keys, live:
        yield View(live, keys, changes, look)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The terminal to read keys from, each as it is pressed and unseen; None where stdin is none.

    Ctrl-Z is off meanwhile: nobody would put the screen back."""
    if not sys.stdin.isatty():
        yield None
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file, termios.TCSANOW)
        now = termios.tcgetattr(file)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(file, termios.TCSANOW, now)
        yield file
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(file, termios.TCSANOW, before)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """SIGTERM and SIGHUP unwind what is open. Yields a descriptor that becomes readable when the
    terminal has another size."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {
        signal.SIGTERM: _unwind,
        signal.SIGHUP: _unwind,
        signal.SIGWINCH: lambda _number, _frame: None,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the command with the status that a shell gives to a death by this signal."""
    sys.exit(128 + number)


def _levels() -> str:
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS
