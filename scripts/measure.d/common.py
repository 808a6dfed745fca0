"""What the scripts that measure have in common: a broker, a relay, a load, a row of a table."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SECRET = "measured"
WAIT_SECONDS_MAX = 120


def free_addresses(count):
    """All are bound at once, so that they differ."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    for listener in listeners:
        listener.close()
    return addresses


def wait_until(holds, what):
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain: {what}")
        time.sleep(0.02)


class Server:
    """A process that serves HTTP, ended with SIGTERM by `with`."""

    def __init__(self, command, address, environment=None, log=None):
        self.command, self.http, self.environment, self.log = command, address, environment, log

    def __enter__(self):
        self.started = time.monotonic()
        with contextlib.ExitStack() as stack:
            log = self.log and stack.enter_context(open(self.log, "wb"))
            self.process = subprocess.Popen(self.command, env=self.environment, stderr=log)
        wait_until(self.has_begun, f"{self.command[0]} is ready")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def has_begun(self):
        if self.process.poll() is not None:
            raise SystemExit(f"{self.command[0]} ended at its start: {self.log or 'see above'}")
        return self.is_ready()

    def is_ready(self):
        host, port = self.http.split(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return False
        return True

    def _proc(self, name):
        return pathlib.Path(f"/proc/{self.process.pid}/{name}")

    def cpu_seconds(self):
        fields = self._proc("stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, line="VmRSS"):
        """Of `status`: `VmRSS` is what is resident, `VmHWM` the most that ever was."""
        lines = self._proc("status").read_text().splitlines()
        (kilobytes,) = [one.split()[1] for one in lines if one.startswith(f"{line}:")]
        return int(kilobytes) / 1000

    def open_files(self):
        return len(list(self._proc("fd").iterdir()))


class Relay(Server):
    """A relay with an application `default`; its log goes where `log` says."""

    def __init__(self, binary, kafka, spool, log=None, **settings):
        address, self.admin = free_addresses(2)
        environment = {
            "HTTP__LISTEN": address,
            "ADMIN__LISTEN": self.admin,
            "KAFKA__BOOTSTRAP_SERVERS": kafka,
            "APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN": SECRET,
            "SPOOL__PATH": str(spool or ""),
            **settings,
        }
        environment = {f"CLICKPESA_RELAY__{name}": text for name, text in environment.items()}
        super().__init__([binary, "serve"], address, environment, log)

    def get(self, page):
        with urllib.request.urlopen(f"http://{self.admin}/{page}", timeout=5) as answer:
            return answer.read().decode()

    def is_ready(self):
        try:
            return self.get("ready")
        except OSError:
            return False

    def metric(self, name):
        """The sum of all series of a metric."""
        lines = [line.rsplit(" ", 1) for line in self.get("metrics").splitlines()]
        is_meant = lambda series: series.split("{")[0] == f"clickpesa_relay_{name}"
        return sum(float(value) for series, value in lines if is_meant(series))


def start_load(load, address, clients, seconds, *more):
    command = [load, address, str(clients), str(seconds), SECRET, *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process):
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("the load generator failed")
    return json.loads(output)


def run_load(*arguments):
    return result(start_load(*arguments))


def only(answers, status):
    if list(answers["statuses"]) != [status]:
        raise SystemExit(f"expected answers {status} only: {answers['statuses']}")
    return answers


def options_of(parser):
    """The options that all have; builds what is not there."""
    parser.add_argument("--relay", default=str(ROOT / "target/release/clickpesa-relay"))
    parser.add_argument("--load", default=str(ROOT / "target/release/examples/load"))
    options = parser.parse_args()
    if not (os.path.exists(options.relay) and os.path.exists(options.load)):
        build = ["cargo", "build", "--release", "--locked", "--bins", "--examples"]
        subprocess.run(build, cwd=ROOT, check=True)
    return options


@contextlib.contextmanager
def kafka(work, *arguments):
    """A broker, or a cluster, of its own in an empty directory; gives what its `env` says."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    script, directory = str(ROOT / "scripts/kafka"), work / "kafka"
    subprocess.run([script, "start", str(directory), *arguments], check=True, stdout=subprocess.DEVNULL)
    try:
        lines = (directory / "env").read_text().splitlines()
        pairs = [line.removeprefix("export ").split("=", 1) for line in lines]
        yield {name: value.strip("'") for name, value in pairs}
    finally:
        subprocess.run([script, "stop", str(directory)], check=True)
        # Gigabytes after a few minutes, of no use to anybody.
        shutil.rmtree(directory)


def show(name, *values):
    print(f"{name:52}" + "".join(f"{value:>12}" for value in values), flush=True)


def number(value):
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
