"""Become a Python command that ends with its parent: `python -I launch.py PARENT CORES COMMAND...`.

PARENT is the pid of the process that starts this one: if it ends, however it does, the command gets SIGTERM, which
lets a run write its checkpoint. CORES are the numbers of the CPU cores to run on, "0,1", or "" for all.

It is run by its path, so that neither torch nor this package is imported, and takes effect before the command starts.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux


def main(parent: str, cores: str, *command: str) -> None:
    """Set up this process, then become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("its parent has ended")
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main(*sys.argv[1:])
