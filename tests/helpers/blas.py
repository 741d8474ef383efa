"""How many threads the BLAS of a process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 - brings the BLAS
from threadpoolctl import threadpool_info, threadpool_limits


def blas_threads() -> set[int]:
    """Of each BLAS that this process has loaded."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@contextmanager
def two_blas_threads() -> Iterator[None]:
    """Begins with two threads, however many cores there are, and takes back what is set meanwhile."""
    with threadpool_limits(limits=2, user_api="blas"):
        assert blas_threads() == {2}
        yield
