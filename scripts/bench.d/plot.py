"""Draws what `scripts/bench` measured: `plot.py DIR` reads DIR/result.json and writes SVG beside it."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
# The same drawing for the same figures.
matplotlib.rcParams["svg.hashsalt"] = "bench"

from matplotlib import pyplot

DIRECTORY = pathlib.Path(sys.argv[1])
RESULT = json.loads((DIRECTORY / "result.json").read_text())
MACHINE = "{cores} cores, {cpu}, Linux {kernel}, {date}".format(**RESULT["machine"])


def save(figure, axes, name, title, x, y):
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.text(0.01, 0.01, MACHINE, fontsize=7, alpha=0.6)
    figure.savefig(DIRECTORY / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def by_clients(name, title, y, figure_of):
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    closed = RESULT["closed"]
    for server in next(iter(closed.values())):
        spreads = [figure_of(of[server]) for of in closed.values()]
        middle = [one["median"] for one in spreads]
        below = [one["median"] - one["min"] for one in spreads]
        above = [one["max"] - one["median"] for one in spreads]
        axes.errorbar(list(closed), middle, [below, above], marker="o", capsize=3, label=server)
    axes.set_yscale("log")
    save(figure, axes, name, title, "clients that post at once", y)


def by_load():
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for server, points in RESULT["open"].items():
        for part, line in (("p50_ms", "--"), ("p99_ms", "-")):
            values = [point[part] for point in points]
            axes.plot([point["offered"] for point in points], values, line, marker="o", label=f"{server} {part[:3]}")
    axes.set_yscale("log")
    save(figure, axes, "latency", "Latency of what is taken, from when it was due", "webhooks offered a second", "ms")


by_clients("cpu", "CPU an event (median, least and most of the rounds)", "µs", lambda of: of["cpu_us"])
by_clients("p99", "99th percentile, closed loop", "ms", lambda of: of["p99_ms"])
by_clients("memory", "Resident memory", "MB", lambda of: dict.fromkeys(["min", "median", "max"], of["memory_mb"]))
by_load()
