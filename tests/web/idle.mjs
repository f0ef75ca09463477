// Opens a conversation and sends nothing; tells as JSON how it was when its way was found dead and made anew.
//
// node idle.mjs URL

import { Kakitome } from "../../gateway/web/kakitome.js";

const line = new Kakitome(process.argv[2], { silenceTimeoutMs: 1000, reconnectMinMs: 10, reconnectMaxMs: 200 });
const errors = [];
line.onopen = () => console.log("idle");
line.onerror = ({ error }) => errors.push(error.name);
line.onresume = () => line.close();
line.onclose = () => {
  console.log(JSON.stringify({ errors, ...line.statistics }));
  process.exit(0); // the dead connection would keep some runtimes until TCP gives it up
};
