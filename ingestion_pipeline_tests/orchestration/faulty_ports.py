"""Ports that misbehave on purpose, around the real ones."""

from collections.abc import Callable
from typing import Any

from ingestion_pipeline.errors import DatabaseUnavailableError


class Around:
    """Everything as the real port does it, but for what a subclass changes."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class DyingStore(Around):
    """The store of a process that dies at one method: nothing that comes after it has an effect.

    `before` dies instead of the call, otherwise right after its commit.
    """

    def __init__(self, real: Any, method: str, *, before: bool = False) -> None:
        super().__init__(real)
        self._method = method
        self._before = before
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        work = super().__getattr__(name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_dead or (name == self._method and self._before):
                self.is_dead = True
                raise DatabaseUnavailableError("the process is dead")
            result = work(*arguments, **options)
            self.is_dead = name == self._method
            return result

        return call


class InterruptedStore(Around):
    """A store in which something else happens right before one method."""

    def __init__(self, real: Any, method: str, happens: Callable[[], object]) -> None:
        super().__init__(real)
        self._method = method
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._happens()
        return super().__getattr__(name)


class ForgetfulObjects(Around):
    """An object store that gives back something else than what was written under keys that contain `match`."""

    def __init__(self, real: Any, match: str) -> None:
        super().__init__(real)
        self._match = match

    def get(self, key: str) -> bytes:
        data: bytes = self._real.get(key)
        return data + b" and a bit" if self._match in key else data
