"""The faults, mixed at random: each stream of them has its own numbers from the seed."""

import asyncio
import collections
import contextlib
import random
import signal
import time

from cluster import BROKERS
from proxy import FROM_BROKER, TO_BROKER

# Without calms nothing is ever drained; in them only the relay is killed and stopped.
WAVE_SECONDS = 45
CALM_SECONDS = 20


class Storm:
    def __init__(self, seed, cluster, relay, audit):
        self.counts = collections.Counter()
        self._seed = seed
        self._cluster = cluster
        self._relay = relay
        self._audit = audit
        self._started = 0.0

    @property
    def kills(self):
        return self.counts["relay SIGKILL"] + self.counts["broker SIGKILL"]

    async def rage(self, seconds):
        streams = [self._relay_faults, self._broker_stops, self._broker_kills]
        streams += [self._network_faults, self._disk_faults, self._clock_steps]
        self._started = time.time()
        deadline = self._started + seconds
        tasks = [
            asyncio.create_task(
                self._stream(stream, random.Random(f"{self._seed}/{stream.__name__}"), deadline)
            )
            for stream in streams
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self, fault, rng, deadline):
        while time.time() < deadline:
            await fault(rng)

    async def _pause(self, seconds):
        """Until that much of a storm is over, and none of a calm."""
        await asyncio.sleep(seconds)
        while (time.time() - self._started) % WAVE_SECONDS >= WAVE_SECONDS - CALM_SECONDS:
            await asyncio.sleep(0.5)

    # --- The relay --------------------------------------------------------------------

    async def _relay_faults(self, rng):
        # Now and then long enough for the spool to be drained and for repeats to be known.
        await asyncio.sleep(rng.uniform(8, 16) if rng.random() < 0.1 else rng.uniform(0.2, 4))
        relay = self._relay
        draw = rng.random()
        async with relay.lock:
            if draw < 0.65:
                self.counts["relay SIGKILL"] += 1
                await relay.kill()
                await asyncio.sleep(rng.choice([0, 0, rng.uniform(0, 1)]))
                await relay.start()
            elif draw < 0.8:
                if rng.random() < 0.5:
                    await self._audit()
                    self.counts["relay SIGTERM at rest"] += 1
                    await relay.terminate()
                else:
                    self.counts["relay SIGTERM under load"] += 1
                    await relay.terminate()
                await relay.start()
            else:
                self.counts["relay SIGSTOP"] += 1
                relay.signal(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(0.1, 2.5))
                relay.signal(signal.SIGCONT)

    async def _clock_steps(self, rng):
        await asyncio.sleep(rng.uniform(2, 15))
        self.counts["clock step"] += 1
        seconds = rng.choice([0, rng.uniform(0, 5), rng.uniform(60, 7200)])
        self._relay.clock.set(rng.choice([-1, 1]) * seconds)

    # --- The brokers ------------------------------------------------------------------

    async def _broker_stops(self, rng):
        await self._pause(rng.uniform(3, 14))
        stopped = rng.sample(BROKERS, rng.choice([1, 1, 2, 3]))
        self.counts["broker SIGSTOP"] += len(stopped)
        for broker in stopped:
            self._cluster.signal(broker, signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.5, 5))
        for broker in stopped:
            self._cluster.signal(broker, signal.SIGCONT)

    async def _broker_kills(self, rng):
        await self._pause(rng.uniform(6, 20))
        killed = rng.sample(BROKERS, rng.choice([1, 1, 1, 2]))
        for broker in killed:
            self.counts["broker SIGKILL"] += 1
            self._cluster.signal(broker, signal.SIGKILL)
        await asyncio.sleep(rng.uniform(0.5, 4))
        for broker in killed:
            await self._cluster.ensure_runs(broker)
        # A busy machine takes long to start one: without this, none would ever be up.
        for broker in killed:
            await self._cluster.until_listening(broker)

    # --- The network ------------------------------------------------------------------

    async def _network_faults(self, rng):
        await self._pause(rng.uniform(1, 9))
        links = list(self._cluster.links.values())
        links = rng.sample(links, rng.choice([1, 3, 3]))
        seconds = rng.uniform(0.3, 6)
        kind = rng.choice(["cut", "slow", "hold", "hold"])
        if kind == "cut":
            self.counts["network cut"] += 1
            with self._cut(links):
                await asyncio.sleep(seconds)
        elif kind == "slow":
            self.counts["network slow"] += 1
            for link in links:
                link.delay_seconds = rng.uniform(0.01, 0.5)
            await asyncio.sleep(seconds)
            for link in links:
                link.delay_seconds = 0.0
        else:
            direction = rng.choice([TO_BROKER, FROM_BROKER])
            self.counts[f"network one way ({direction})"] += 1
            for link in links:
                link.holds[direction] += 1
            await asyncio.sleep(seconds)
            if rng.random() < 0.5:
                for link in links:
                    link.cut()
            for link in links:
                link.holds[direction] -= 1

    @contextlib.contextmanager
    def _cut(self, links):
        for link in links:
            link.cuts += 1
            link.cut()
        try:
            yield
        finally:
            for link in links:
                link.cuts -= 1

    # --- The disk ---------------------------------------------------------------------

    async def _disk_faults(self, rng):
        """Mostly while Kafka is away: that is when the disk is needed."""
        await self._pause(rng.uniform(4, 16))
        links = list(self._cluster.links.values()) if rng.random() < 0.8 else []
        with self._cut(links):
            if links:
                self.counts["network cut"] += 1
                await asyncio.sleep(rng.uniform(0.2, 2))
            self.counts["disk full"] += 1
            self._relay.disk.fill(self._relay.pid)
            await asyncio.sleep(rng.uniform(1, 7))
        # Kafka may be back before there is room.
        await asyncio.sleep(rng.choice([0, rng.uniform(0, 2)]))
        self._relay.disk.free(self._relay.pid)
