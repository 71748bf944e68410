"""The commands of run_agent.py, one module per command with `prepare(arguments) -> Job`.

`prepare` checks the whole input before anything is written (ValueError, OSError or RenderingError, whose text is the
one line that the user reads); the returned job does the work. Heavy modules are imported inside the functions, so that
--help answers at once.
"""

from collections.abc import Callable
from functools import partial

Job = Callable[[], int | None]  # returns the exit status; None means 0
say = partial(print, flush=True)  # flushed, so that a log file shows each line at once
