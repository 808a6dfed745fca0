"""What one would write by hand instead of the relay, with Python, FastAPI and aiokafka."""

import asyncio
import contextlib
import hashlib
import hmac
import os

import orjson
import uvicorn
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from fastapi import FastAPI, HTTPException, Request, Response

KAFKA = os.environ["KAFKA"]
ADDRESS = os.environ["ADDRESS"]
TOPIC = os.environ["TOPIC"]
SECRET = os.environ["SECRET"].encode()

PUBLISH_WITHIN_SECONDS = 8

producer: AIOKafkaProducer


@contextlib.asynccontextmanager
async def lifespan(_app):
    # The producer belongs to the event loop that runs when it is made.
    global producer
    producer = AIOKafkaProducer(
        bootstrap_servers=KAFKA,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
    )
    async with producer:
        yield


app = FastAPI(lifespan=lifespan)


def is_signed(webhook: dict) -> bool:
    checksum = webhook.pop("checksum", None)
    webhook.pop("checksumMethod", None)
    if not isinstance(checksum, str):
        return False
    text = orjson.dumps(webhook, option=orjson.OPT_SORT_KEYS)
    expected = hmac.digest(SECRET, text, hashlib.sha256).hex()
    # As bytes, since text that is not ASCII cannot be compared.
    return hmac.compare_digest(checksum.encode(), expected.encode())


def order_reference(webhook: dict) -> bytes | None:
    match webhook:
        case {"data": {"orderReference": str(reference)}}:
            return reference.encode()
    return None


@app.post("/webhooks/clickpesa")
async def webhook(request: Request) -> Response:
    body = await request.body()
    try:
        received = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, "no JSON") from error
    if not isinstance(received, dict):
        raise HTTPException(400, "no object")
    if not is_signed(received):
        raise HTTPException(401, "wrong checksum")
    try:
        # An idempotent producer would try for as long as it takes.
        async with asyncio.timeout(PUBLISH_WITHIN_SECONDS):
            record = await producer.send_and_wait(TOPIC, body, key=order_reference(received))
    except (KafkaError, TimeoutError) as error:
        raise HTTPException(503, str(error)) from error
    answer = {"status": "published", "partition": record.partition, "offset": record.offset}
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    host, _, port = ADDRESS.rpartition(":")
    uvicorn.run(
        app,
        host=host,
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
    )
