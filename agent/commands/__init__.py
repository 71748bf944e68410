"""The commands of run_agent.py, a module each with `prepare(arguments) -> Job`.

`prepare` checks everything that can be wrong with the input before anything is written (ValueError, OSError or
RenderingError, whose text is the one line that the user reads); the job that it returns does the work. Modules import
what is heavy inside their functions, so that --help answers at once.
"""

from collections.abc import Callable
from functools import partial

Job = Callable[[], int | None]  # its exit status, 0 for None
say = partial(print, flush=True)  # at once, even where stdout is a file
