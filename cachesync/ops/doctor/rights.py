"""Which uses of a store work, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cachesync.model.errors import CacheSyncError, NoSuchBucket, StoreCredentials, StoreTransient

T = TypeVar("T")


class Rights:
    """``allowed`` are the names of what worked, ``refused`` what did not, each with its error."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self.refused: dict[str, CacheSyncError] = {}

    def use(self, name: str, call: Callable[[], T]) -> T | None:
        """What ``call`` returns, or None where it is refused. Raises where every other use would only fail the same."""
        try:
            answer = call()
        except (StoreTransient, StoreCredentials, NoSuchBucket):
            raise
        except CacheSyncError as error:
            self.refused[name] = error
            return None
        self.allowed.append(name)
        return answer
