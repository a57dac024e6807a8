"""A writer of whom the kernel keeps nothing but a mapping: its descriptor is closed. (Python's ``mmap`` keeps one.)"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE = 4096


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Map a file's first page for writing; what is yielded writes to its beginning."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    descriptor = os.open(path, os.O_RDWR)
    address = libc.mmap(None, PAGE, 3, 1, descriptor, 0)
    os.close(descriptor)
    assert address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    try:
        yield lambda data: (ctypes.memmove(address, data, len(data)), None)[1]
    finally:
        libc.munmap(address, PAGE)
