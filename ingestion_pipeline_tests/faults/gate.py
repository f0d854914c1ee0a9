"""A TCP relay that can be closed, so that what stands behind it can't be reached, and opened again."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ingestion_pipeline_tests.faults.processes import lasting_port

BLOCK_BYTES = 1 << 16


class Gate:
    """Connections to `port` go on to another port of this machine while the gate is open."""

    def __init__(self, target_port: int) -> None:
        self.port = lasting_port()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @contextmanager
    def standing(self) -> Iterator["Gate"]:
        """Relay in a thread until the end of the block."""
        thread = threading.Thread(target=self._loop.run_forever, name="gate")
        thread.start()
        self.open()
        try:
            yield self
        finally:
            self.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def open(self) -> None:
        """Let connections through from now on."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def close(self) -> None:
        """Break what goes through, and refuse what comes."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._writers -= {writer, back}


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while block := await source.read(BLOCK_BYTES):
            sink.write(block)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()
