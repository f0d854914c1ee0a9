"""Under which identity the embedded PostgreSQL runs, since it refuses to run as root.

An ordinary user runs it as themselves. Root hands it to the owner of the existing data or else to `nobody`: plainly
("drop") where that account can reach the programs and the data, with CAP_DAC_OVERRIDE kept ("capability") where the way
leads through closed folders such as /root, and under another name in a user namespace ("namespace") where root may not
change its identity at all. Permissions of folders are never touched.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ingestion_pipeline.errors import StartupError

RUN_AS = Path(__file__).with_name("run_as.py")
NOBODY = 65534  # the kernel's own overflow id: the same on every Linux, with or without an entry in /etc/passwd
PROBE_TIMEOUT_SECONDS = 30

Mode = Literal["self", "drop", "capability", "namespace"]


@dataclass(frozen=True)
class ServerAccount:
    """The identity of the server's processes; `uid` and `gid` are those that own its files outside of any namespace."""

    mode: Mode
    uid: int
    gid: int

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` (first element: an absolute path) under this identity."""
        if self.mode == "self":
            return list(command)
        uid, gid = (NOBODY, NOBODY) if self.mode == "namespace" else (self.uid, self.gid)
        return [sys.executable, "-I", "-S", str(RUN_AS), self.mode, str(uid), str(gid), *command]

    def difference_from(self, server: "ServerAccount") -> str:
        """Return what to say of initdb's failure if it ran under another identity than `server`, else nothing."""
        if self == server:
            return ""
        return (
            f": it demands that its user has a name, and user id {self.uid} has none. Add it to /etc/passwd, run as a "
            "user who is there, or allow user namespaces"
        )

    def give(self, path: Path) -> None:
        """Make this account the owner of `path`, a file or folder of ours."""
        if self.mode in ("drop", "capability"):
            os.chown(path, self.uid, self.gid)


def choose_account(programs: Path, data_dir: Path, cluster: Path) -> ServerAccount:
    """Return the first identity that can run `programs`/postgres and work in `data_dir`.

    `cluster`, if it is there, decides by its owner. Raises StartupError if no identity serves.
    """
    own_uid, own_gid = os.geteuid(), os.getegid()
    owner = cluster.stat() if cluster.exists() else None
    if own_uid != 0:
        if owner is not None and owner.st_uid != own_uid:
            raise StartupError(
                f"The database in {cluster} belongs to user id {owner.st_uid}, and this is user id {own_uid}: "
                "start as that user or as root, or choose another data folder."
            )
        return ServerAccount("self", own_uid, own_gid)
    candidates: list[ServerAccount] = []
    if owner is None or owner.st_uid != 0:
        uid, gid = (NOBODY, NOBODY) if owner is None else (owner.st_uid, owner.st_gid)
        candidates += [ServerAccount("drop", uid, gid), ServerAccount("capability", uid, gid)]
    if owner is None or owner.st_uid == 0:
        candidates.append(ServerAccount("namespace", 0, 0))
    failures: list[str] = []
    for account in candidates:
        failure = _why_unusable(account, programs, data_dir)
        if failure is None:
            return account
        failures.append(f"  {account.mode}: {failure}")
    raise StartupError(
        "PostgreSQL refuses to run as root, and root may not hand it to another identity here:\n"
        + "\n".join(failures)
        + "\nStart as an ordinary user, allow the capabilities SETUID, SETGID, SETPCAP, CHOWN and DAC_OVERRIDE, "
        "or point the pipeline at a PostgreSQL of your own."
    )


def account_for_initdb(account: ServerAccount) -> ServerAccount:
    """Return the identity under which initdb runs: it demands that its user has a name, the server does not."""
    if account.mode != "self" or not sys.platform.startswith("linux"):
        return account
    import pwd  # not there on every platform

    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        return ServerAccount("namespace", account.uid, account.gid)
    return account


def _why_unusable(account: ServerAccount, programs: Path, data_dir: Path) -> str | None:
    catalog = programs.parent / "share" / "postgresql" / "postgres.bki"
    extension = programs.parent / "lib" / "postgresql" / "plpgsql.so"
    script = " && ".join(
        [
            f"cd {shlex.quote(str(data_dir))}",
            f"test -r {shlex.quote(str(catalog))}",
            f"test -r {shlex.quote(str(extension))}",
            f"{shlex.quote(str(programs / 'postgres'))} --version",
            f"{shlex.quote(str(programs / 'initdb'))} --version",
        ]
    )
    try:
        outcome = subprocess.run(
            account.command(["/bin/sh", "-c", script]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd="/",
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if outcome.returncode == 0:
        return None
    lines = outcome.stderr.strip().splitlines()
    return lines[-1] if lines else f"{programs} or {data_dir} can't be reached"
