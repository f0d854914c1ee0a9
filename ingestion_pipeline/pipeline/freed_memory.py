"""Memory that Python has freed and its C library keeps.

glibc gives large blocks back to the system at once, but not what many blocks of up to 128 KB took: the pages of a
document of 100 MB leave 200 MB of it. Source: malloc_trim(3).
"""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Hand freed memory back to the system; takes some milliseconds. Nothing where there is no glibc."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
