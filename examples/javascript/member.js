// Shares the work of a topic with the other members of its group, with nothing but grpc-js and the .proto.
//
//   npm install
//   node member.js TOPIC GROUP [HOST:PORT]        (default: TAKHIN_SERVER, else 127.0.0.1:9092)
//
// The stream of JoinConsumerGroup is the membership. The broker says on it which partitions the member may hold; the
// member lets go of the others first, says what it holds, and gives a sign of life now and then.

import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const proto = fileURLToPath(new URL("../../proto/takhin/v1/takhin.proto", import.meta.url));
const { takhin } = grpc.loadPackageDefinition(
  protoLoader.loadSync(proto, { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }),
);

const [topic, group_id, address = process.env.TAKHIN_SERVER ?? "127.0.0.1:9092"] = process.argv.slice(2);
if (!group_id) {
  console.error("usage: node member.js TOPIC GROUP [HOST:PORT]");
  process.exit(2);
}
const client = new takhin.v1.TakhinService(address, grpc.credentials.createInsecure());

/** One unary call. If the broker refuses it, the response has an error, which this throws. */
async function call(method, request) {
  const response = await promisify(client[method]).call(client, request, { deadline: Date.now() + 10_000 });
  if (response.error) {
    throw Object.assign(new Error(response.error), { code: response.error_code });
  }
  return response;
}

let member_id = "";
let member_epoch = "0";
let beating;
const reading = new Map(); // partition number -> {tail, done}
const membership = client.JoinConsumerGroup();

function owned() {
  return { partitions: [...reading.keys()].map((partition) => ({ topic, partition })) };
}

/** Read a partition from where the group stands in it, until its tail is cancelled. */
async function read(partition, held) {
  const { offsets } = await call("GetCommittedOffsets", { group_id, partitions: [{ topic, partition }] });
  const committed = offsets[0]?.offset ?? "-1"; // -1, none, is also the earliest offset
  if (reading.get(partition) !== held) return;
  held.tail = client.ConsumeMessages({ topic, partition, offset: committed });
  for await (const { records } of held.tail) {
    if (!records.length) continue; // the stream is alive
    for (const { offset, value } of records) {
      console.log(`${partition} ${offset} ${value}`);
    }
    const next = (BigInt(records.at(-1).offset) + 1n).toString();
    await call("CommitOffset", { group_id, member_id, member_epoch, offsets: [{ topic, partition, offset: next }] });
  }
}

function take(partition) {
  const held = {};
  reading.set(partition, held);
  held.done = read(partition, held).catch((error) => {
    // A cancelled tail was let go of; a fenced commit belongs to another member by now.
    if (error.code !== grpc.status.CANCELLED && error.code !== "ERROR_CODE_FENCED_MEMBER") {
      membership.destroy(error);
    }
  });
}

async function letGo(partition) {
  const { tail, done } = reading.get(partition);
  tail?.cancel();
  await done; // the commit of what was printed is answered
  reading.delete(partition);
}

/** Hold exactly what the assignment names: first let go, say so, then take. */
async function hold({ partitions, member_epoch: epoch }) {
  const wanted = new Set(partitions.map(({ partition }) => partition));
  await Promise.all([...reading.keys()].filter((partition) => !wanted.has(partition)).map(letGo));
  member_epoch = epoch;
  for (const partition of wanted) {
    if (!reading.has(partition)) take(partition);
  }
  membership.write({ heartbeat: { member_epoch, owned: owned() } });
}

let settled = Promise.resolve();
membership.on("data", ({ joined, assignment }) => {
  if (joined) {
    ({ member_id, member_epoch } = joined);
    beating = setInterval(() => membership.write({ heartbeat: { member_epoch } }), joined.heartbeat_interval_ms);
    console.log(`joined ${group_id}`);
  } else if (assignment) {
    settled = settled.then(() => hold(assignment)); // one after the other, in the order in which they come
  }
});
membership.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
membership.on("end", () => {
  clearInterval(beating);
  client.close();
});

// In order: let go of everything, then leave, so that the others need not wait for the session to end.
process.on("SIGTERM", async () => {
  await settled;
  await Promise.all([...reading.keys()].map(letGo));
  membership.write({ leave: {} });
  membership.end();
});

membership.write({ join: { group_id, topics: [topic], client_id: "member.js" } });
