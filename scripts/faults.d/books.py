"""The metrics of each life of the relay against the clients' notes."""

import asyncio
import time

SCRAPE_EVERY_SECONDS = 1
REST_SECONDS_MAX = 20
APPLICATION = "default"


class Books:
    """Compares, at any time, within what is under way; at rest, exactly.

    At any time: no outcome has fewer in the metrics than the clients had answers before the
    scrape, nor more than they have after it, with all that is unanswered then.
    At rest: received = the sum of the outcomes, nothing is in flight, and each outcome is what
    the clients counted; where connections were lost, these are all that may be more.
    """

    def __init__(self, relay, clients, report):
        self.scrapes = self.rests = self.exact = 0
        self.lives_compared = set()
        self.spool_bytes_max = 0
        self._relay = relay
        self._clients = clients
        self._report = report

    async def keep(self):
        while True:
            await asyncio.sleep(SCRAPE_EVERY_SECONDS)
            await self.compare()

    async def compare(self):
        """Compares once; the samples, or None where the relay does not answer."""
        life = self._relay.life
        before = life.answers.copy()
        samples = await self._relay.metrics()
        if samples is None or life is not self._relay.life:
            return None
        self.scrapes += 1
        self.lives_compared.add(life.number)
        self.spool_bytes_max = max(self.spool_bytes_max, samples["spool_bytes", frozenset()])
        life.producers_replaced = samples["kafka_producers_replaced_total", frozenset()]
        life.records_unplaced = samples["kafka_records_unplaced_total", frozenset()]
        counted = outcomes(samples)
        unanswered = life.outstanding + life.lost
        more = 0
        for outcome in counted.keys() | before.keys():
            metric = counted.get(outcome, 0)
            if metric < before[outcome]:
                self._report(
                    f"books of life {life.number}: {outcome} is {metric} in the metrics, and the"
                    f" clients have {before[outcome]}"
                )
            more += max(0, metric - life.answers[outcome])
        if more > unanswered:
            self._report(
                f"books of life {life.number}: {more} more in the metrics than answers, with"
                f" {unanswered} unanswered: {counted}, {dict(life.answers)}"
            )
        return samples

    async def balance_at_rest(self):
        """Holds the clients back until nothing is under way, and compares exactly."""
        self._clients.gate.clear()
        try:
            deadline = time.time() + REST_SECONDS_MAX
            while time.time() < deadline:
                samples = None
                if not self._clients.outstanding:
                    samples = await self.compare()
                # A request whose client went away may still be under way.
                if samples and samples["in_flight", frozenset()] == 0:
                    self._balance(self._relay.life, samples)
                    return
                await asyncio.sleep(0.05)
            self._report(f"not at rest in {REST_SECONDS_MAX} s, life {self._relay.life.number}")
        finally:
            self._clients.gate.set()

    def _balance(self, life, samples):
        self.rests += 1
        received = samples.get(("received_total", frozenset([("application", APPLICATION)])), 0)
        counted = outcomes(samples)
        if received != sum(counted.values()):
            self._report(f"books of life {life.number}: received {received} is not {counted}")
        if life.lost == 0:
            self.exact += 1
            if counted != dict(life.answers):
                self._report(
                    f"books of life {life.number} at rest: {counted} in the metrics,"
                    f" {dict(life.answers)} answered"
                )


def outcomes(samples):
    """The outcomes of the application, by outcome and reason, where there are any."""
    counted = {}
    for (name, labels), value in samples.items():
        labels = dict(labels)
        if name == "outcomes_total" and labels["application"] == APPLICATION and value:
            counted[labels["outcome"], labels["reason"]] = int(value)
    return counted
