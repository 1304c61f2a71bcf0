// Creates a topic, produces a batch, consumes it and commits an offset, with nothing but grpc-js and the .proto.
//
//   npm install
//   node orders.js [HOST:PORT]        (default: TAKHIN_SERVER, else 127.0.0.1:9092)

import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const TOPIC = "orders";
const GROUP = "javascript";

const proto = fileURLToPath(new URL("../../proto/takhin/v1/takhin.proto", import.meta.url));
const { takhin } = grpc.loadPackageDefinition(
  protoLoader.loadSync(proto, {
    keepCase: true, // names as in the .proto
    longs: String, // an offset may be larger than a Number can hold exactly
    enums: String,
    defaults: true, // an error that is not set is ""
    oneofs: true,
  }),
);

const address = process.argv[2] ?? process.env.TAKHIN_SERVER ?? "127.0.0.1:9092";
const client = new takhin.v1.TakhinService(address, grpc.credentials.createInsecure());

/** One unary call. If the broker refuses it, the response has an error, which this throws. */
async function call(method, request) {
  const response = await promisify(client[method]).call(client, request, { deadline: Date.now() + 10_000 });
  if (response.error) {
    throw Object.assign(new Error(response.error), { code: response.error_code });
  }
  return response;
}

async function createTopic(name) {
  try {
    await call("CreateTopic", { name, num_partitions: 1 });
  } catch (error) {
    if (error.code !== "ERROR_CODE_TOPIC_EXISTS") throw error;
  }
}

/** The records of a partition from one offset up to, but not including, another, where the stream ends. */
async function* consume(topic, partition, offset, stop_offset) {
  for await (const response of client.ConsumeMessages({ topic, partition, offset, stop_offset })) {
    yield* response.records;
  }
}

await createTopic(TOPIC);

const records = ["tea", "jam", "größer"].map((item, number) => ({
  key: Buffer.from(`customer-${number}`),
  value: Buffer.from(JSON.stringify({ item })),
  headers: [{ key: "source", value: Buffer.from("javascript") }],
}));
// The answer means that all records are on disk, at consecutive offsets.
const produced = await call("ProduceMessage", { topic: TOPIC, partition: 0, records });
console.log(`produced ${records.length} records at offset ${produced.offset}`);

const end = BigInt(produced.offset) + BigInt(records.length);
for await (const record of consume(TOPIC, 0, produced.offset, end.toString())) {
  const [header] = record.headers;
  console.log(`${record.offset} ${record.key} ${record.value} ${header.key}=${header.value}`);
}

await call("CommitOffset", { group_id: GROUP, offsets: [{ topic: TOPIC, partition: 0, offset: end.toString() }] });
console.log(`group ${GROUP} continues at offset ${end}`);
client.close();
