"""A TCP proxy between workers and a broker, for everything that a network does to a connection.

What it never does is what TCP never does: bytes of a connection are not altered, not reordered and not lost from the
middle. A direction that is cut holds its bytes back, as a network does whose packets are sent again until they arrive:
after :meth:`Proxy.heal` they arrive, however late, unless the connection has been reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Proxy"]

Direction = Literal["up", "down"]  # up: from the client to the server

_HOST: Final = "127.0.0.1"
_CHUNK: Final = 64 * 1024
# What is on its way in one direction of one connection; more stays with the sender, as with a full TCP window.
_IN_FLIGHT: Final = 4 * 2**20
# How often something that is held back, or a lossy network, is looked at (seconds).
_LOOK: Final = 0.02
_LOSSY_LOOK: Final = 0.1
# SO_LINGER with 0 seconds: close() sends RST instead of FIN.
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, proxy: Proxy, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.stalled_until = 0.0
        self.forgotten = False
        self._proxy = proxy
        self._direction = direction
        self._source = source
        self._sink = sink
        self._bytes = 0
        # (when it is due, bytes); no bytes: the end; None: a reset.
        self._waiting: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()

    async def run(self) -> bool:
        """Carry bytes until the end of the source; whether that end was a reset."""
        reading = asyncio.create_task(self._read())
        try:
            return await self._write()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        chunk: bytes | None = b"more"
        while chunk:
            if self._bytes >= _IN_FLIGHT:
                await asyncio.sleep(_LOOK)
                continue
            try:
                chunk = await loop.sock_recv(self._source, _CHUNK)
            except OSError:
                chunk = None
            self._bytes += len(chunk or b"")
            self._waiting.put_nowait((time.monotonic() + self._proxy.latency, chunk))

    def _wait(self, due: float) -> float:
        """For how long the next bytes are held back, as far as is known now."""
        if self.forgotten or self._direction in self._proxy.cuts:
            return _LOOK
        return min(_LOOK, max(0.0, max(due, self.stalled_until) - time.monotonic()))

    async def _write(self) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._waiting.get()
            while wait := self._wait(due):  # noqa: ASYNC110 - most of what it waits for is time
                await asyncio.sleep(wait)
            if chunk is None:
                return True
            try:
                if not chunk:
                    self._sink.shutdown(socket.SHUT_WR)
                    return False
                # Before it is sent: whoever has received it finds it counted.
                self._proxy.carried[self._direction] += len(chunk)
                await loop.sock_sendall(self._sink, chunk)
            except OSError:
                # The receiver is gone. That is for the other direction to tell the sender: it may be cut.
                return False
            self._bytes -= len(chunk)


class _Connection:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.pipes: list[_Pipe] = []
        self._proxy = proxy
        self._client = client
        self._server = socket.socket()
        self._task: asyncio.Task[None] | None = None
        self._reset = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def reset(self) -> None:
        self._reset = True
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        self.reset()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            for one in (self._client, self._server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await asyncio.get_running_loop().sock_connect(self._server, (_HOST, self._proxy.target))
            except OSError:
                self._reset = True
                return
            self.pipes = [
                _Pipe(self._proxy, "up", self._client, self._server),
                _Pipe(self._proxy, "down", self._server, self._client),
            ]
            running = {asyncio.create_task(pipe.run()) for pipe in self.pipes}
            try:
                while running:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    if any(one.result() for one in done):
                        self._reset = True
                        return
            finally:
                for one in running:
                    one.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        finally:
            for one in (self._client, self._server):
                if self._reset:
                    with contextlib.suppress(OSError):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                one.close()
            self._proxy.connections.pop(self, None)


class Proxy:
    """Listens on one port of the loopback interface, and connects to another for each connection it gets.

    It has a thread of its own: neither a busy test nor a busy event loop changes what it does. Its methods are for
    the test's thread. A context manager.

    Args:
        port: where it listens.
        target: where it connects to.
        seed: of everything random in it.
    """

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.port = port
        self.target = target
        self.latency = 0.0
        """Seconds, each way; may be set at any time."""
        self.cuts: set[Direction] = set()
        """The directions in which nothing goes through at the moment."""
        self.carried: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes let through."""
        self.resets = 0
        self.stalls = 0
        # In the order in which they came: what is drawn for each is drawn in that order.
        self.connections: dict[_Connection, None] = {}
        self._chance = random.Random(seed)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._losing: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._accept_connections)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """Host and port, as a client takes them."""
        return f"{_HOST}:{self.port}"

    def cut(self, *directions: Direction) -> None:
        """Let nothing through in these directions, from now to :meth:`heal`; in none named: both."""
        self.cuts |= set(directions or ("up", "down"))

    def forget(self, share: float = 1.0) -> int:
        """Let nothing through on all connections, or on each with this chance, for ever; how many it were.

        As a firewall that has lost its table: neither side is told, and only new connections work.
        """
        return self._do(self._forget, share)

    def refuse(self) -> None:
        """Refuse new connections, until :meth:`heal`."""
        self._do(self._refuse)

    def lossy(self, *, resets: float, stalls: float, stall: float) -> None:
        """Make the network a bad one, until :meth:`heal`.

        Args:
            resets: of each connection, per second on average.
            stalls: of each connection, in a direction drawn each time, per second on average.
            stall: the longest, in seconds.
        """
        self._do(self._start_losing, resets, stalls, stall)

    def reset(self, share: float = 1.0) -> int:
        """Reset all connections, or each with this chance; how many it were."""
        return self._do(self._reset, share)

    def heal(self) -> None:
        """End all faults. What was held back goes on to where it was going (but for what is forgotten)."""
        self._do(self._heal)

    # -- in the proxy's thread -----------------------------------------------------------------------------------

    def _do(self, what: Callable[..., Any], *values: Any) -> Any:
        async def work() -> Any:
            done = what(*values)
            return await done if asyncio.iscoroutine(done) else done

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30.0)

    def _accept_connections(self) -> None:
        if self._listener is None:
            # Not in the task: who comes directly after the call is let in.
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self.port))
            listener.listen(128)
            listener.setblocking(False)
            self._listener = listener
            self._accepting = asyncio.create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection = _Connection(self, client)
            self.connections[connection] = None
            connection.start()

    async def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await _end(self._accepting)
            listener.close()

    def _reset(self, share: float) -> int:
        chosen = [one for one in self.connections if self._chance.random() < share]
        for one in chosen:
            one.reset()
        self.resets += len(chosen)
        return len(chosen)

    def _forget(self, share: float) -> int:
        chosen = [one for one in self.connections if self._chance.random() < share]
        for pipe in (pipe for one in chosen for pipe in one.pipes):
            pipe.forgotten = True
        return len(chosen)

    async def _start_losing(self, resets: float, stalls: float, stall: float) -> None:
        await _end(self._losing)
        self._losing = asyncio.create_task(self._lose(resets, stalls, stall))

    async def _lose(self, resets: float, stalls: float, stall: float) -> None:
        while True:
            await asyncio.sleep(_LOSSY_LOOK)
            for connection in list(self.connections):
                drawn, length = self._chance.random() / _LOSSY_LOOK, self._chance.uniform(0.0, stall)
                if drawn < resets:
                    connection.reset()
                    self.resets += 1
                elif drawn < resets + stalls and connection.pipes:
                    self._chance.choice(connection.pipes).stalled_until = time.monotonic() + length
                    self.stalls += 1

    async def _heal(self) -> None:
        await _end(self._losing)
        self.latency = 0.0
        self.cuts.clear()
        for connection in self.connections:
            for pipe in connection.pipes:
                pipe.stalled_until = 0.0
        self._accept_connections()

    async def _close(self) -> None:
        await self._refuse()
        await _end(self._losing)
        await asyncio.gather(*(one.close() for one in list(self.connections)))


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
