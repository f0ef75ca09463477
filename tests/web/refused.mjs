// Tries to connect where nobody listens, and tells as JSON what it was told.
//
// node refused.mjs URL ATTEMPTS

import { Kakitome } from "../../gateway/web/kakitome.js";

const [url, attempts] = process.argv.slice(2);
const HOUR_MS = 3_600_000;
const options = { attempts: Number(attempts), reconnectMinMs: 1, reconnectMaxMs: 1, connectTimeoutMs: HOUR_MS };
const line = new Kakitome(url, options);
const errors = [];
line.onerror = ({ error }) => errors.push(error);
line.onclose = ({ code, reason }) => {
  const names = errors.map(({ name }) => name);
  const causes = errors.map(({ cause }) => String(cause?.message ?? ""));
  console.log(JSON.stringify({ code, reason, errors: names, causes }));
};
