// What one would write by hand instead of the relay, with Node, fastify and Confluent's client.

import { createHmac, timingSafeEqual } from 'node:crypto';

import Kafka from '@confluentinc/kafka-javascript';
import fastify from 'fastify';

const { KAFKA, ADDRESS, TOPIC, SECRET } = process.env;

// --- Kafka ----------------------------------------------------------------------------

const producer = new Kafka.Producer({
  'bootstrap.servers': KAFKA,
  'acks': 'all',
  'enable.idempotence': true,
  'linger.ms': 0,
  'message.timeout.ms': 8000,
  'partitioner': 'murmur2_random',
  'dr_cb': true,
});

producer.on('event.error', (error) => console.error(error.message));
producer.on('delivery-report', (error, { opaque, partition, offset }) => {
  if (error) opaque.reject(error);
  else opaque.resolve({ status: 'published', partition, offset });
});

const connect = () =>
  new Promise((resolve, reject) => {
    producer.connect({}, (error) => (error ? reject(error) : resolve()));
  });

const publish = (body, key) =>
  new Promise((resolve, reject) => {
    producer.produce(TOPIC, null, body, key, null, { resolve, reject });
  });

// --- The checksum ---------------------------------------------------------------------

const sorted = (value) => {
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return value.map(sorted);
  const object = {};
  for (const name of Object.keys(value).sort()) object[name] = sorted(value[name]);
  return object;
};

const isSigned = ({ checksum, checksumMethod, ...signed }) => {
  if (typeof checksum !== 'string') return false;
  const text = JSON.stringify(sorted(signed));
  const expected = Buffer.from(createHmac('sha256', SECRET).update(text).digest('hex'));
  const claimed = Buffer.from(checksum);
  return claimed.length === expected.length && timingSafeEqual(claimed, expected);
};

// --- The server -----------------------------------------------------------------------

const app = fastify();

// What is published is what was received, so the body is wanted as it came.
app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
  try {
    done(null, { body, webhook: JSON.parse(body) });
  } catch (error) {
    error.statusCode = 400;
    done(error);
  }
});

const response = {
  200: {
    type: 'object',
    properties: {
      status: { type: 'string' },
      partition: { type: 'integer' },
      offset: { type: 'integer' },
    },
  },
};

app.post('/webhooks/clickpesa', { schema: { response } }, async (request, reply) => {
  const { body, webhook } = request.body ?? {};
  if (webhook === null || typeof webhook !== 'object') {
    return reply.code(400).send({ status: 'no object' });
  }
  if (!isSigned(webhook)) return reply.code(401).send({ status: 'wrong checksum' });
  try {
    return await publish(body, webhook.data?.orderReference);
  } catch (error) {
    return reply.code(503).send({ status: error.message });
  }
});

await connect();
// The acknowledgements are awaited by a thread: with an interval they would wait for its end.
producer.setPollInBackground(true);

const [host, port] = ADDRESS.split(':');
await app.listen({ host, port: Number(port) });

process.once('SIGTERM', async () => {
  await app.close();
  producer.disconnect();
});
