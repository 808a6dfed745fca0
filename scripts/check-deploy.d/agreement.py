"""What no validator of one file sees: whether the files for deployment agree with each other.

Usage: agreement.py references|ports|shutdown|health|context
"""

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

from ruamel.yaml import YAML

# The relay's own deadline for a shutdown.
SHUTDOWN_SECONDS = 30


def load(path):
    return YAML(typ="safe").load(Path(path))


COMPOSE = load("docker-compose.yml")
SERVICES = COMPOSE["services"]
DOCKERFILE = Path("deploy/Dockerfile").read_text()
UNIT = Path("deploy/clickpesa-relay.service").read_text()


def require(true, complaint):
    if not true:
        sys.exit(complaint)


def references():
    """Services, volumes, files and variables that the Compose file names exist."""
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            require("healthcheck" in SERVICES.get(other, {}), f"{name} waits for `{other}`, which has no health check")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            exists = Path(source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
            require(exists, f"{name}: no volume or file `{source}`")
        if "build" in service:
            require(Path(service["build"]["dockerfile"]).is_file(), f"{name}: no Dockerfile")
    # Compose replaces `$name` and `${name}` everywhere; a `$` that is meant for a shell is `$$`.
    text = Path("docker-compose.yml").read_text()
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = re.findall(r"\$(\w+|\{\w+)", "\n".join(lines).replace("$$", ""))
    require(found == ["{CLICKPESA_CHECKSUM_KEY"], f"Compose would replace {found}")


def ports():
    """Prometheus asks where the relay answers, and nobody else is let in there."""
    relay = SERVICES["relay"]
    admin = relay["environment"]["CLICKPESA_RELAY__ADMIN__LISTEN"].rpartition(":")[2]
    targets = [t for job in load("deploy/prometheus.yml")["scrape_configs"] for s in job["static_configs"] for t in s["targets"]]
    require(targets == [f"relay:{admin}"], f"Prometheus asks {targets}, the relay listens on {admin}")
    require(relay["expose"] == [admin], "the exposed port is not the admin port")
    published = [port.rpartition(":")[2] for port in relay["ports"]]
    require(admin not in published, "the admin port is published")
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.M)[1].split()
    require(sorted(exposed) == sorted([*published, admin]), f"the Dockerfile exposes {exposed}")


def shutdown():
    """Nobody kills the relay before its own deadline."""
    compose = int(SERVICES["relay"]["stop_grace_period"].removesuffix("s"))
    unit = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[1])
    require(min(compose, unit) > SHUTDOWN_SECONDS, f"Compose waits {compose} s, systemd {unit} s, the relay needs {SHUTDOWN_SECONDS} s")


def health():
    """The relay's health check, run as Compose would run it, tells 200 from 503 from silence."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    admin = SERVICES["relay"]["environment"]["CLICKPESA_RELAY__ADMIN__LISTEN"].rpartition(":")[2]
    kind, *command = SERVICES["relay"]["healthcheck"]["test"]
    require(kind == "CMD", "the health check is not of kind CMD")
    server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
    require(f"/127.0.0.1/{admin};" in command[-1], "the health check does not ask the admin port")
    command[-1] = command[-1].replace("$$", "$").replace(f"/{admin};", f"/{server.server_port};")

    def healthy():
        return subprocess.run(command, timeout=10, stderr=subprocess.DEVNULL).returncode == 0

    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.status = 200
    require(healthy(), "not healthy at 200")
    server.status = 503
    require(not healthy(), "healthy at 503")
    server.shutdown()
    server.server_close()
    require(not healthy(), "healthy when nobody listens")


def context():
    """What the build copies, and what the sources include, is sent to the build."""
    kept = {line[1:] for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
    copied = {source for line in lines for source in line.split()[:-1]}
    require(copied == kept, f".dockerignore lets {sorted(kept)} through, the Dockerfile copies {sorted(copied)}")
    for path in kept:
        require(Path(path).exists(), f"no `{path}`")
    sources = list(Path("src").rglob("*.rs"))
    require(sources, "no sources")
    for source in sources:
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            path = (source.parent / included).resolve().relative_to(Path.cwd())
            require(path.parts[0] in kept, f"{source} includes `{path}`, which .dockerignore keeps out")


CHECKS = {f.__name__: f for f in (references, ports, shutdown, health, context)}
if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
    sys.exit(__doc__)
CHECKS[sys.argv[1]]()
