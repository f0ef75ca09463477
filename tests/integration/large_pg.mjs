// node-postgres asks for one large parameter back, over WebSocket: `node large_pg.mjs NODE_MODULES URL BYTES`.
import { createRequire } from "node:module"

const [modules, url, size] = process.argv.slice(2)
const need = createRequire(`${modules}/`)
const { Client } = need("pg")
const { WebSocket, createWebSocketStream } = need("ws")

// What node-postgres asks of a socket.
function stream() {
  const ws = new WebSocket(url, ["binary"])
  const duplex = createWebSocketStream(ws)
  return Object.assign(duplex, {
    connect() { ws.on("open", () => duplex.emit("connect")) },
    setNoDelay() {},
    setKeepAlive() {},
    ref() {},
    unref() {},
  })
}

const text = "x".repeat(Number(size))
const client = new Client({ user: "postgres", database: "postgres", password: "", stream })
await client.connect()
const { rows } = await client.query("SELECT length($1::text) AS length, $1::text AS echo", [text])
console.log(JSON.stringify({ same: rows[0].echo === text, length: rows[0].length }))
await client.end()
process.exit(0)
