"""Three real brokers behind proxies, and the independent reader."""

import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import time

from proxy import Link

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
BROKERS = (1, 2, 3)
START_SECONDS_MAX = 300
READ_SECONDS_MAX = 300
LISTEN_SECONDS_MAX = 30


class Cluster:
    def __init__(self, directory):
        self.directory = directory
        self.links = {broker: Link() for broker in BROKERS}
        self.bootstrap = ",".join(f"127.0.0.1:{link.port}" for link in self.links.values())
        self.direct = ""

    async def start(self):
        ports = ",".join(str(link.port) for link in self.links.values())
        # The time of appending tells what can have made a record stand twice.
        when = "log.message.timestamp.type=LogAppendTime"
        self._script("start", "--brokers", "3", "--proxies", ports, "--property", when)
        env = (self.directory / "env").read_text()
        value = lambda name: re.search(rf"^export {name}='(.*)'$", env, re.MULTILINE)[1]
        self.direct = value("RELAY_TEST_KAFKA")
        proxied = value("RELAY_TEST_KAFKA_PROXIED").split(",")
        for link, address in zip(self.links.values(), proxied):
            await link.serve(int(address.rpartition(":")[2]))

    def stop(self):
        self._script("stop")

    def _script(self, command, *arguments):
        command = [SCRIPTS / "kafka", command, self.directory, *arguments]
        subprocess.run(command, check=True, timeout=START_SECONDS_MAX, stdin=subprocess.DEVNULL)

    def _home(self, broker):
        return self.directory / f"broker-{broker}"

    def _pid(self, broker):
        """The process of a broker, if it runs: an id can be used again."""
        try:
            pid = int((self._home(broker) / "pid").read_text())
            command_line = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        except (OSError, ValueError):
            # It has ended, or is being started.
            return None
        return pid if str(self._home(broker)) in command_line else None

    def signal(self, broker, number):
        if pid := self._pid(broker):
            os.kill(pid, number)

    async def ensure_runs(self, broker):
        self.signal(broker, signal.SIGCONT)
        if not self._pid(broker):
            await asyncio.to_thread(self._script, "restart", str(broker))

    async def until_listening(self, broker):
        """Waits until it takes connections, or gives up: another fault may keep it from it."""
        deadline = time.time() + LISTEN_SECONDS_MAX
        while time.time() < deadline:
            try:
                port = self.links[broker].broker_port
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.5)

    async def heal(self):
        for link in self.links.values():
            link.cuts, link.delay_seconds = 0, 0.0
            link.holds = dict.fromkeys(link.holds, 0)
        for broker in BROKERS:
            await self.ensure_runs(broker)

    def read(self, topics):
        """Every record of the topics, through kcat and past the proxies."""
        for topic in topics:
            command = ["kcat", "-C", "-q", "-e", "-J", "-o", "beginning", "-t", topic]
            command += ["-b", self.direct]
            done = subprocess.run(
                command, capture_output=True, timeout=READ_SECONDS_MAX, check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"kcat cannot read {topic}: {done.stderr.decode()}")
            for line in done.stdout.splitlines():
                yield json.loads(line)
