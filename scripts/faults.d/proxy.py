"""The TCP proxies between the relay and the brokers: they cut, slow down and hold back."""

import asyncio
import socket

CHUNK_BYTES = 65536
HOLD_POLL_SECONDS = 0.02
TO_BROKER, FROM_BROKER = "to_broker", "from_broker"


class Link:
    """The proxy of one broker. Faults are counted, so that they may overlap."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.broker_port = None
        self.delay_seconds = 0.0
        self.cuts = 0
        self.holds = {TO_BROKER: 0, FROM_BROKER: 0}
        self.writers = set()
        self.server = None

    async def serve(self, broker_port):
        self.broker_port = broker_port
        self.server = await asyncio.start_server(self._accept, sock=self.listener)

    def cut(self):
        """Ends every connection, and with it whatever is held back."""
        for writer in self.writers:
            writer.transport.abort()

    async def _accept(self, reader, writer):
        ends = [writer]
        try:
            if not self.cuts:
                upstream, broker = await asyncio.open_connection("127.0.0.1", self.broker_port)
                ends.append(broker)
                self.writers.update(ends)
                pumps = [
                    asyncio.create_task(self._pump(reader, broker, TO_BROKER)),
                    asyncio.create_task(self._pump(upstream, writer, FROM_BROKER)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self.writers.difference_update(ends)

    async def _pump(self, reader, writer, direction):
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                # Late, not lost: TCP would send it again. What a cut meets here is lost.
                while self.holds[direction]:
                    await asyncio.sleep(HOLD_POLL_SECONDS)
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
