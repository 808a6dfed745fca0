"""The clients: they sign and post webhooks, and write down every answer."""

import asyncio
import collections
import dataclasses
import hashlib
import hmac
import json
import random
import time

from relay import KEY

EVENTS = {
    "PAYMENT RECEIVED": "payment.received",
    "PAYMENT FAILED": "payment.failed",
    "PAYOUT INITIATED": "payout.initiated",
    "SOMETHING NEW": "unrecognized",
}
# Longer than the relay may take (`http.answer_within`), so that an answer is never missed.
PATIENCE_SECONDS = 12
IMPATIENCE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 0.12
REPEATABLE_MAX = 300
TRIES_MAX = 8
SEQUENTIAL_CLIENTS = 6
SEQUENTIAL_KEYS_EACH = 4
FREE_CLIENTS = 6
FREE_KEYS = 200


@dataclasses.dataclass(slots=True, eq=False)
class Post:
    """One sending of a webhook."""

    sent: float
    life: object
    ended: float | None = None
    # None where the connection died, or the client gave up.
    status: int | None = None
    outcome: str = ""
    reason: str = ""
    # What a 2xx says of the event.
    event: dict | None = None

    @property
    def is_acknowledged(self):
        return self.status in (200, 202)


@dataclasses.dataclass(slots=True, eq=False)
class Webhook:
    transaction: str
    key: str
    topic: str
    data: dict
    body: bytes
    posts: list = dataclasses.field(default_factory=list)


class Unsent(Exception):
    """There was no connection to send it over."""


def canonical(value):
    """The text that is signed; names are ASCII and numbers integers here."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Connection:
    """To the relay; a new one for every life."""

    def __init__(self, relay):
        self._relay = relay
        self._life = None
        self._reader = self._writer = None

    async def _open(self):
        if self._writer and self._life is self._relay.life and not self._reader.at_eof():
            return
        self.close()
        life = self._relay.life
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(
                    "127.0.0.1", self._relay.port
                )
        except (OSError, TimeoutError) as error:
            raise Unsent from error
        if life is not self._relay.life:
            self.close()
            raise Unsent
        self._life = life

    def close(self):
        if self._writer:
            self._writer.transport.abort()
            self._writer = None

    async def post(self, webhook, patience=PATIENCE_SECONDS):
        await self._open()
        life = self._life
        post = Post(time.time(), life)
        webhook.posts.append(post)
        life.outstanding += 1
        try:
            async with asyncio.timeout(patience):
                post.status, answer = await self._exchange(webhook.body)
            post.ended = time.time()
            post.outcome, post.reason, post.event = read_answer(post.status, answer)
            life.answers[post.outcome, post.reason] += 1
        except (OSError, EOFError, TimeoutError):
            post.ended = time.time()
            life.lost += 1
            self.close()
        finally:
            life.outstanding -= 1
        return post

    async def _exchange(self, body):
        head = (
            "POST /webhooks/clickpesa HTTP/1.1\r\nhost: relay\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split()[1])
        length = int(head.partition("content-length:")[2].split()[0])
        answer = await self._reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return status, answer


def read_answer(status, text):
    """Outcome and reason as the metrics name them, and the event of a 2xx."""
    answer = json.loads(text)
    if status in (200, 202):
        [event] = answer["events"]
        return answer["status"], "", event
    outcome = "failed" if status >= 500 else "rejected"
    return outcome, answer["type"].rpartition(":")[2], None


class Clients:
    def __init__(self, seed, relay):
        self.webhooks = []
        # The acknowledged ones of each key that is used strictly one after the other, in order.
        self.sequences = collections.defaultdict(list)
        self.gate = asyncio.Event()
        self._seed = seed
        self._relay = relay
        self._recent = collections.deque(maxlen=REPEATABLE_MAX)
        self._tasks = []
        self._is_over = False

    def start(self):
        self.gate.set()
        each = [(self._sequential, n) for n in range(SEQUENTIAL_CLIENTS)]
        each += [(self._free, n) for n in range(FREE_CLIENTS)]
        self._tasks = [asyncio.create_task(client(number)) for client, number in each]

    async def stop(self):
        self._is_over = True
        self.gate.set()
        await asyncio.gather(*self._tasks)

    @property
    def tasks(self):
        return self._tasks

    @property
    def outstanding(self):
        return sum(life.outstanding for life in self._relay.lives)

    def _make(self, rng, key, name):
        number = len(self.webhooks)
        transaction = f"TX{self._seed}N{number}"
        data = {
            "id": transaction,
            "orderReference": key,
            "status": "SUCCESS",
            "collectedAmount": str(rng.randrange(500, 5_000_000)),
            "collectedCurrency": "TZS",
            "message": "malipo yamepokelewa – " + "é" * rng.randrange(200),
            "customer": {"name": "Asha Mbàga", "phone": "255700000000"},
            "updatedAt": f"2026-01-05T09:30:00.{number % 1000:03}Z",
        }
        body = {"event": name, "data": data}
        text = canonical(body).encode()
        body["checksum"] = hmac.new(KEY.encode(), text, hashlib.sha256).hexdigest()
        sent = json.dumps(body, ensure_ascii=False).encode()
        webhook = Webhook(transaction, key, f"faults.{EVENTS[name]}", data, sent)
        self.webhooks.append(webhook)
        return webhook

    async def _post(self, connection, webhook, rng):
        """Posts it as soon as there is a connection; None when all is over before."""
        patience = IMPATIENCE_SECONDS if rng.random() < 0.02 else PATIENCE_SECONDS
        while not self._is_over:
            await self.gate.wait()
            try:
                return await connection.post(webhook, patience)
            except Unsent:
                await asyncio.sleep(0.05)
        return None

    async def _sequential(self, number):
        """One webhook of a key after the other: tried until acknowledged, or given up for good."""
        rng = random.Random(f"{self._seed}/sequential/{number}")
        connection = Connection(self._relay)
        keys = [f"SEQ{number}K{each}" for each in range(SEQUENTIAL_KEYS_EACH)]
        while not self._is_over:
            key = rng.choice(keys)
            webhook = self._make(rng, key, "PAYMENT RECEIVED")
            for _ in range(rng.randint(1, TRIES_MAX)):
                post = await self._post(connection, webhook, rng)
                if post and post.is_acknowledged:
                    self.sequences[key].append(webhook)
                    break
                await asyncio.sleep(rng.uniform(0.01, 0.3))
            if rng.random() < 0.05 and self.sequences[key]:
                await self._post(connection, rng.choice(self.sequences[key][-20:]), rng)
            await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS_MAX))
        connection.close()

    async def _free(self, number):
        """New ones, repeats of anybody's, and twins at once."""
        rng = random.Random(f"{self._seed}/free/{number}")
        connections = [Connection(self._relay), Connection(self._relay)]
        while not self._is_over:
            draw = rng.random()
            if draw < 0.25 and self._recent:
                await self._post(connections[0], rng.choice(self._recent), rng)
            else:
                key = f"FREE{rng.randrange(FREE_KEYS)}"
                webhook = self._make(rng, key, rng.choice(list(EVENTS)))
                self._recent.append(webhook)
                twins = connections if draw < 0.45 else connections[:1]
                await asyncio.gather(*(self._post(each, webhook, rng) for each in twins))
            await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS_MAX))
        for connection in connections:
            connection.close()
