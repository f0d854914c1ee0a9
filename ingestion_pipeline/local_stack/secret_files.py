"""Keys that are made on first use and kept in the data folder, readable by nobody else."""

import os
import secrets
from pathlib import Path


def secret_file(path: Path, prefix: str = "") -> str:
    """The secret in `path`, made (256 random bits after `prefix`) and written with mode 600 if there is none.

    The file appears whole or not at all, and of two processes that make it at once one wins for both.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(prefix + secrets.token_urlsafe(32))
            opened.flush()
            os.fsync(opened.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
