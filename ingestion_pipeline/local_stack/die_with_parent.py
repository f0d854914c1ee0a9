"""A script that binds its life to its parent's, then becomes a service: `die_with_parent.py PARENT COMMAND...`.

The kernel sends it SIGTERM when the parent ends. It belongs to `supervisor.py`. It is a program of its own, on the
standard library alone, because code between fork and exec isn't safe in a process with threads. Linux only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Bind this process's life to that of process `arguments[0]`, then replace it with the command that follows."""
    parent, *command = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):  # it ended before the line above: nobody would tell us any more
        sys.exit(0)
    # A shell has its background jobs ignore SIGINT. A service that inherits that could not be stopped: Dagster takes
    # SIGTERM for SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606  the supervisor's list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
