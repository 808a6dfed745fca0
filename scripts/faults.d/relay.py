"""The relay as a process that is killed, stopped and started again, its small disk, its clock."""

import asyncio
import collections
import dataclasses
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time

from clock import Clock

START_SECONDS_MAX = 30
START_AGAIN_SECONDS = 0.3
END_SECONDS_MAX = 45
KEY = "fault-test-checksum-key"
DISK_BYTES = 20 << 20
SPOOL_BYTES = 16 << 20
SHUTDOWN_SECONDS = 20
# The relay's own time may be wrong.
STAMP = """
import sys, time
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(b"%.6f %s" % (time.time(), line))
    sys.stdout.buffer.flush()
"""


@dataclasses.dataclass(eq=False)
class Life:
    """One process, and what the clients know of its answers."""

    number: int
    started: float
    ended: float | None = None
    how: str = ""
    answers: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    outstanding: int = 0
    lost: int = 0
    producers_replaced: int = 0
    records_unplaced: int = 0

    def overlaps(self, start, end):
        return self.started <= end and (self.ended is None or self.ended >= start)


class Tmpfs:
    """A small file system that can be filled."""

    what = f"a tmpfs of {DISK_BYTES >> 20} MiB"

    def __init__(self, directory):
        self.directory = directory
        self.is_full = False
        self.freed = 0.0
        directory.mkdir()
        options = f"size={DISK_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "faults", directory], check=True)

    def fill(self, _pid):
        self.is_full = True
        with open(self.directory / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    def free(self, _pid):
        (self.directory / "filler").unlink(missing_ok=True)
        self.is_full, self.freed = False, time.time()

    def on_start(self):
        pass

    def close(self):
        self.unmount(self.directory)

    @staticmethod
    def unmount(directory):
        if directory.is_mount():
            subprocess.run(["umount", "--lazy", directory], check=True)


class FileSizeLimit:
    """Who may not mount limits what the relay may write to a file: not ENOSPC, but EFBIG."""

    what = "RLIMIT_FSIZE (not root: no small file system)"

    def __init__(self, directory):
        self.directory = directory
        self.is_full = False
        self.freed = 0.0
        directory.mkdir()

    def _limit(self, pid, size):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def fill(self, pid):
        self.is_full = True
        self._limit(pid, 0)

    def free(self, pid):
        self._limit(pid, resource.RLIM_INFINITY)
        self.is_full, self.freed = False, time.time()

    def on_start(self):
        # Ignored signals stay so: the write fails instead.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if self.is_full:
            self._limit(os.getpid(), 0)

    def close(self):
        pass


def free_port():
    """A port that is free, and that the system gives to no connection while the relay is down."""
    while True:
        try:
            with socket.create_server(("127.0.0.1", random.randrange(10000, 32000))) as listener:
                return listener.getsockname()[1]
        except OSError:
            pass


class Relay:
    def __init__(self, binary, bootstrap, directory, report):
        self.port, self.admin_port = free_port(), free_port()
        disk = Tmpfs if os.geteuid() == 0 else FileSizeLimit
        self.disk = disk(directory / "disk")
        self.clock = Clock(directory)
        self.lives = []
        self.starts_failed = 0
        # Held by whoever ends or stops it.
        self.lock = asyncio.Lock()
        self._binary = binary
        self._report = report
        self._process = None
        self._watch = None
        self._log_path = directory / "relay.log"
        self._log = subprocess.Popen(
            [sys.executable, "-c", STAMP],
            stdin=subprocess.PIPE,
            stdout=open(self._log_path, "wb"),
        )
        settings = {
            "HTTP__LISTEN": f"127.0.0.1:{self.port}",
            "HTTP__WORKERS": "2",
            "ADMIN__LISTEN": f"127.0.0.1:{self.admin_port}",
            "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "KAFKA__TOPICS__PREFIX": "faults.",
            "KAFKA__TOPICS__PARTITIONS": "3",
            "KAFKA__TOPICS__REPLICATION_FACTOR": "3",
            "APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN": KEY,
            "SPOOL__PATH": str(self.disk.directory / "spool"),
            "SPOOL__MAX_BYTES": str(SPOOL_BYTES),
            "SHUTDOWN_WITHIN": f"{SHUTDOWN_SECONDS}s",
            "LOG__FORMAT": "json",
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CLICKPESA_RELAY__")}
        ours = {f"CLICKPESA_RELAY__{k}": v for k, v in settings.items()}
        self._env = inherited | self.clock.environment | ours

    @property
    def life(self):
        return self.lives[-1]

    @property
    def pid(self):
        return self._process.pid

    # --- Start and end ----------------------------------------------------------------

    async def start(self):
        """Starts it, again and again while a full disk keeps it from starting."""
        while True:
            self.lives.append(Life(len(self.lives), time.time()))
            self._process = await asyncio.create_subprocess_exec(
                self._binary,
                "serve",
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log.stdin,
                preexec_fn=self.disk.on_start,
            )
            if await self._is_up():
                self._watch = asyncio.create_task(self._report_death(self._process))
                return
            self.life.ended, self.life.how = time.time(), "start failed"
            if not self.disk.is_full and time.time() - self.disk.freed > 1:
                raise RuntimeError("the relay does not start, see its log")
            self.starts_failed += 1
            await asyncio.sleep(START_AGAIN_SECONDS)

    async def _is_up(self):
        deadline = time.time() + START_SECONDS_MAX
        while self._process.returncode is None and time.time() < deadline:
            if await self.get("/live") is not None:
                return True
            await asyncio.sleep(0.02)
        return False

    async def _report_death(self, process):
        code = await process.wait()
        self._report(f"the relay ended by itself: exit {code}, life {self.life.number}")
        self.life.ended, self.life.how = time.time(), "died"
        # In a task of its own: whoever ends it waits for this one.
        asyncio.create_task(self.start())

    async def kill(self):
        await self._end(signal.SIGKILL, "kill")

    async def terminate(self):
        """SIGTERM; 1 is for what was left at the deadline, and the log says so."""
        await self._end(signal.SIGTERM, "term")
        code = self._process.returncode
        if code not in (0, 1) or code == 1 and not self._log_tells("with work left"):
            self._report(f"exit {code} after SIGTERM, life {self.life.number}")

    async def _end(self, number, how):
        if self._watch:
            self._watch.cancel()
            self._watch = None
        if self._process.returncode is None:
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(END_SECONDS_MAX):
                await self._process.wait()
        except TimeoutError:
            self._report(f"the relay did not end within {END_SECONDS_MAX} s of signal {number}")
            self._process.kill()
            await self._process.wait()
        self.life.ended, self.life.how = time.time(), how

    def signal(self, number):
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def close(self):
        if self._process and self._process.returncode is None:
            if self._watch:
                self._watch.cancel()
            self._process.kill()
            await self._process.wait()
        self._log.stdin.close()
        self._log.wait()
        self.disk.close()

    # --- What it says -----------------------------------------------------------------

    async def get(self, path):
        """The body of an admin page; None when it cannot be had."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.admin_port)
                try:
                    writer.write(
                        f"GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n".encode()
                    )
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                    return body.decode() if head else None
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None

    async def metrics(self):
        """Every sample by its name and labels; None when they cannot be had."""
        page = await self.get("/metrics")
        if page is None:
            return None
        samples = re.findall(r"^clickpesa_relay_(\w+)(?:\{(.*?)\})? (\S+)$", page, re.MULTILINE)
        return {
            (name, frozenset(re.findall(r'(\w+)="(.*?)"', labels))): float(value)
            for name, labels, value in samples
        }

    def _log_tells(self, words):
        with open(self._log_path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            return words.encode() in log.read()

    def log(self):
        """When each line was written, by the real clock, and what it says; only whole lines: a
        killed process may leave half of one."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            for line in log:
                at, _, text = line.partition(" ")
                try:
                    yield float(at), json.loads(text)
                except ValueError:
                    pass
