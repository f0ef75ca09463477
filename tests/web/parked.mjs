// Opens a conversation, says when it is parked, closes it at SIGUSR2, and tells as JSON how it ended.
//
// node parked.mjs URL

import { Kakitome } from "../../gateway/web/kakitome.js";

const HOUR_MS = 3_600_000;
const line = new Kakitome(process.argv[2], { reconnectMinMs: HOUR_MS, reconnectMaxMs: HOUR_MS });
line.onstate = ({ state }) => console.log(state);
line.onclose = ({ code, wasClean }) => {
  console.log(JSON.stringify({ code, wasClean }));
  process.exit(0); // the listener for the signal would keep some runtimes
};
process.on("SIGUSR2", () => line.close(4000, "done"));
