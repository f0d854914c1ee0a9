"""A script that gives up root's identity and then becomes another program: `run_as.py MODE UID GID COMMAND...`.

It belongs to `server_account.py`, which says when each mode is used. It is a program of its own, on the standard
library alone, because changing identity between fork and exec in a process with threads isn't safe. Linux only.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWUSER = 0x10000000


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def drop(uid: int, gid: int) -> None:
    """Become `uid` and `gid`, without supplementary groups and without any capability."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop_but_pass_folders(uid: int, gid: int) -> None:
    """Become `uid` and `gid`, and keep CAP_DAC_OVERRIDE alone, for this program and the ones that it starts.

    SECBIT_NO_SETUID_FIXUP is not only for keeping the capability over setresuid: without it access(2) ignores the
    capabilities of anyone but root, and the PostgreSQL programs look for each other with access(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
    drop(uid, gid)
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
    low = 1 << CAP_DAC_OVERRIDE
    data = struct.pack(
        "=IIIIII", low, low, low, 0, 0, 0
    )  # effective, permitted, inheritable: low words, then high words
    _checked(libc.capset(header, data), "capset")
    _checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0), "prctl(PR_CAP_AMBIENT)")


def rename_in_user_namespace(uid: int, gid: int) -> None:
    """Stay who we are for the kernel's file checks, and look like `uid` and `gid` to ourselves."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


MODES = {"drop": drop, "capability": drop_but_pass_folders, "namespace": rename_in_user_namespace}


def main(arguments: list[str]) -> None:
    """Take on the identity, then replace this process with the command."""
    mode, uid, gid, *command = arguments
    MODES[mode](int(uid), int(gid))
    os.execv(command[0], command)  # noqa: S606  a list of our own making, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
