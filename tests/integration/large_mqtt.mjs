// MQTT.js publishes one large message at QoS 2 and gets it back: `node large_mqtt.mjs NODE_MODULES URL BYTES`.
import { createRequire } from "node:module"

const [modules, url, size] = process.argv.slice(2)
const mqtt = createRequire(`${modules}/`)("mqtt")
const payload = Buffer.alloc(Number(size), "どやさ")

let connects = 0
const client = mqtt.connect(url)
client.on("connect", () => { if (++connects > 1) fail("it had to connect again") })
client.on("error", (error) => fail(error.message))
client.on("message", (_topic, message) => {
  console.log(JSON.stringify({ same: payload.equals(message), connects }))
  client.end(true, () => process.exit(0))
})
await client.subscribeAsync("large", { qos: 2 })
await client.publishAsync("large", payload, { qos: 2 })

function fail(problem) {
  console.error(problem)
  process.exit(1)
}
