// What test_mqttjs.py says through MQTT.js: node client.mjs URL. Prints one line of JSON, or fails.

import assert from "node:assert/strict";
import { once } from "node:events";
import mqtt from "mqtt";

const url = process.argv[2];
const options = { reconnectPeriod: 0, protocolVersion: 4, connectTimeout: 8000 };
const connect = (more) => mqtt.connectAsync(url, { ...options, ...more });

async function next(client) {
  const [topic, payload, packet] = await once(client, "message", { signal: AbortSignal.timeout(8000) });
  return { topic, text: payload.toString(), qos: packet.qos, retain: packet.retain, dup: packet.dup };
}

async function everyQos(pub, sub) {
  const seen = [];
  for (const granted of [0, 1, 2]) {
    const [answer] = await sub.subscribeAsync(`q${granted}/#`, { qos: granted });
    assert.equal(answer.qos, granted);
    for (const qos of [0, 1, 2]) {
      const message = next(sub);
      await pub.publishAsync(`q${granted}/x`, `m${qos}`, { qos });
      const got = await message;
      assert.deepEqual(got, { topic: `q${granted}/x`, text: `m${qos}`, qos: Math.min(qos, granted), retain: false, dup: false });
      seen.push(got.qos);
    }
  }
  return seen;
}

async function manyInOrder(pub, sub) {
  await sub.subscribeAsync("n", { qos: 1 });
  const numbers = [];
  const all = new Promise((resolve) => {
    sub.on("message", (topic, payload) => {
      if (topic === "n" && numbers.push(Number(payload)) === 500) resolve();
    });
  });
  for (let number = 0; number < 500; number += 1) pub.publish("n", String(number), { qos: 1 });
  await all;
  assert.deepEqual(numbers, [...Array(500).keys()]);
}

async function retained(pub) {
  await pub.publishAsync("r", "kept", { qos: 1, retain: true });
  const late = await connect({ clientId: "late" });
  const message = next(late);
  await late.subscribeAsync("r", { qos: 1 });
  assert.deepEqual(await message, { topic: "r", text: "kept", qos: 1, retain: true, dup: false });
  await late.endAsync();
}

async function will(sub) {
  await sub.subscribeAsync("gone", { qos: 1 });
  const message = next(sub);
  const doomed = await connect({ clientId: "doomed", will: { topic: "gone", payload: Buffer.from("w"), qos: 1, retain: false } });
  doomed.stream.destroy();
  assert.equal((await message).text, "w");
}

async function persistent(pub) {
  const first = await connect({ clientId: "stays", clean: false });
  await first.subscribeAsync("p", { qos: 2 });
  await first.endAsync();
  await pub.publishAsync("p", "meanwhile", { qos: 2 });
  const again = mqtt.connect(url, { ...options, clientId: "stays", clean: false });
  const [message, [connack]] = await Promise.all([next(again), once(again, "connect")]);
  assert.equal(connack.sessionPresent, true);
  assert.deepEqual(message, { topic: "p", text: "meanwhile", qos: 2, retain: false, dup: false });
  await again.endAsync();
}

async function fallback() {
  const newer = mqtt.connect(url, { ...options, protocolVersion: 5 });
  const [error] = await once(newer, "error", { signal: AbortSignal.timeout(8000) });
  newer.end(true);
  const older = await connect({ clientId: "older" });
  await older.endAsync();
  return error.code;
}

const pub = await connect({ clientId: "pub" });
const sub = await connect({ clientId: "sub" });
const seen = await everyQos(pub, sub);
await manyInOrder(pub, sub);
await retained(pub);
await will(sub);
await persistent(pub);
const refusal = await fallback();
await Promise.all([pub.endAsync(), sub.endAsync()]);
console.log(JSON.stringify({ seen, refusal }));
