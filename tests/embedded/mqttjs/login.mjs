// What test_mqttjs.py says of users: node login.mjs URL. Prints the CONNACK's codes as one line of JSON.

import mqtt from "mqtt";

async function code(login) {
  try {
    const client = await mqtt.connectAsync(process.argv[2], { reconnectPeriod: 0, connectTimeout: 8000, protocolVersion: 4, ...login }, false);
    await client.publishAsync("home/lamp", "on", { qos: 1 });
    await client.endAsync();
    return 0;
  } catch (error) {
    return error.code;
  }
}

const nobody = await code({});
const wrong = await code({ username: "bob", password: "wrong" });
const right = await code({ username: "bob", password: "correct horse" });
console.log(JSON.stringify({ nobody, wrong, right }));
