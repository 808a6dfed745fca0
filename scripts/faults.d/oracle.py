"""What must hold, told from the clients' notes, the topics and the relay's own log."""

import collections
import dataclasses
import datetime
import json

# How late after its cause a record may be appended: what a proxy or a stopped broker held back.
LATE_SECONDS = 12


@dataclasses.dataclass(slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    appended: float
    key: str
    id: str
    received: float
    transaction: str
    content: dict

    @property
    def place(self):
        return self.topic, self.partition, self.offset


def read_record(message):
    value = json.loads(message["payload"])
    received = datetime.datetime.fromisoformat(value.pop("receivedtime")).timestamp()
    return Record(
        topic=message["topic"],
        partition=message["partition"],
        offset=message["offset"],
        appended=message["ts"] / 1000,
        key=message["key"],
        id=value["id"],
        received=received,
        transaction=value["data"]["original"]["id"],
        content=value,
    )


class Oracle:
    def __init__(self, clients, relay, messages):
        self.webhooks = {webhook.transaction: webhook for webhook in clients.webhooks}
        self.sequences = clients.sequences
        self.lives = relay.lives
        self.clock = relay.clock
        self.records = [read_record(message) for message in messages]
        self.failures = []
        self.duplicates = collections.Counter()
        self.by_place = {record.place: record for record in self.records}
        self.of_transaction = collections.defaultdict(list)
        for record in self.records:
            self.of_transaction[record.transaction].append(record)
        # The drain's word that a record it had handed over was not acknowledged.
        self.refusals = [
            (line["topic"], at)
            for at, line in relay.log()
            if line.get("message") == "events wait in the spool"
        ]

    def judge(self):
        self._nothing_unsent()
        self._one_content_an_id()
        self._acknowledged_is_there()
        self._order_of_keys()
        self._duplicates_explained()
        return self.failures

    def _fail(self, promise, text):
        self.failures.append(f"{promise}: {text}")

    def _nothing_unsent(self):
        for record in self.records:
            webhook = self.webhooks.get(record.transaction)
            if not webhook or not webhook.posts:
                self._fail("never sent", f"{record.place} {record.transaction}")
            elif (record.topic, record.key) != (webhook.topic, webhook.key):
                self._fail("wrong place", f"{record.place} {record.key}: {describe(webhook)}")
            elif record.content["data"]["original"] != webhook.data:
                self._fail("not as sent", f"{record.place}: {describe(webhook)}")

    def _one_content_an_id(self):
        first = {}
        for record in self.records:
            other = first.setdefault(record.id, record)
            if other.content != record.content:
                self._fail("one id, two contents", f"{record.id}: {other.place}, {record.place}")
        for records in self.of_transaction.values():
            if len({record.id for record in records}) > 1:
                self._fail("one webhook, two ids", f"{[record.place for record in records]}")

    def _acknowledged_is_there(self):
        for webhook in self.webhooks.values():
            records = self.of_transaction[webhook.transaction]
            for post in filter(lambda post: post.is_acknowledged, webhook.posts):
                event = post.event
                if not any(record.id == event["id"] for record in records):
                    self._fail("acknowledged and lost", describe(webhook))
                    break
                if post.status == 200:
                    place = event["topic"], event["partition"], event["offset"]
                    stands = self.by_place.get(place)
                    if not stands or stands.id != event["id"]:
                        self._fail("not where it was said to be", f"{place}: {describe(webhook)}")

    def _order_of_keys(self):
        for key, webhooks in self.sequences.items():
            last = None
            for webhook in webhooks:
                records = self.of_transaction[webhook.transaction]
                if not records:
                    continue  # Told of above.
                first = min(records, key=lambda record: record.offset)
                if len({record.partition for record in records}) > 1:
                    self._fail("a key in two partitions", describe(webhook))
                elif last and first.offset < last[0].offset:
                    self._fail(
                        "order of a key",
                        f"{key}: {first.place} before {last[0].place}\n"
                        f"    acknowledged first: {describe(last[1])}\n"
                        f"    acknowledged later: {describe(webhook)}",
                    )
                last = first, webhook

    # --- Duplicates -------------------------------------------------------------------

    def _duplicates_explained(self):
        for transaction, records in self.of_transaction.items():
            if webhook := self.webhooks.get(transaction):
                self._explain(webhook, records)

    def _explain(self, webhook, records):
        """Records of one post have its time of receipt; each other time is a post of its own."""
        of_post = collections.defaultdict(list)
        for record in records:
            of_post[record.received].append(record)
        publishing = [post for post in webhook.posts if post.outcome != "duplicate"]
        self.duplicates["repeat by the client"] += len(of_post) - 1
        if len(of_post) > len(publishing):
            self._fail("more records than posts", self._tell(webhook, records))
        for received, group in of_post.items():
            posts = [post for post in publishing if self._may_be_of(post, received)]
            group.sort(key=lambda record: (record.appended, record.offset))
            if not posts:
                self._fail("received when nothing was posted", self._tell(webhook, group))
            else:
                self._explain_post(webhook, posts, group)

    def _explain_post(self, webhook, posts, group):
        # Twins, the second sent in the same millisecond and tried after the first failed.
        twins = len(posts) - 1
        # Kafka acknowledged it in time: it was not spooled, and the producer is idempotent.
        is_direct = all(post.outcome == "published" for post in posts)
        may_be_late = not is_direct
        for earlier, later in zip(group, group[1:]):
            start, end = earlier.appended - LATE_SECONDS, later.appended + LATE_SECONDS
            lives = [life for life in self.lives if life.overlaps(start, end)]
            if may_be_late:
                why, may_be_late = "spool after a time-out", False
            elif any(life.producers_replaced for life in lives):
                why = "the producer was replaced"
            elif any(life.records_unplaced for life in lives):
                why = "acknowledged without an offset"
            elif not is_direct and any(start <= life.ended <= end for life in self.lives):
                why = "ended after the acknowledgement, before the deletion"
            elif not is_direct and any(
                topic == later.topic and start <= at <= end for topic, at in self.refusals
            ):
                why = "the drain tried again"
            elif twins:
                why, twins = "twins in one millisecond", twins - 1
            else:
                why = "unknown"
                self._fail("duplicate unexplained", self._tell(webhook, group))
            self.duplicates[why] += 1

    def _may_be_of(self, post, received):
        """Whether it can be that post that the relay had when its clock showed that, in ms."""
        # Unanswered, it may have come to a stopped process, which goes on later.
        late = 0.002 if post.status else LATE_SECONDS
        start, end = post.sent - 0.002, post.ended + late
        return any(start <= received - ahead <= end for ahead in self.clock.ahead(start, end))

    def _tell(self, webhook, records):
        places = [
            f"{each.partition}/{each.offset} received {each.received:.3f}"
            f" appended {each.appended:.3f}"
            for each in records
        ]
        return f"{describe(webhook)}\n    records: {'; '.join(places)}"


def describe(webhook):
    posts = []
    for post in webhook.posts:
        answer = f"{post.status} {post.outcome}{post.reason and '/' + post.reason}"
        if post.status is None:
            answer = "no answer"
        place = ""
        if post.event and "offset" in post.event:
            place = f" at {post.event['partition']}/{post.event['offset']}"
        posts.append(
            f"{post.sent:.3f} +{post.ended - post.sent:.3f} s life {post.life.number}"
            f" ({post.life.how or 'runs'}): {answer}{place}"
        )
    return f"{webhook.transaction} key {webhook.key} {webhook.topic}: " + "; ".join(posts)
