import { Kakitome, type KakitomeMessageEvent } from "../../../gateway/web/kakitome.js";
declare const line: Kakitome; declare const event: KakitomeMessageEvent;
const target: EventTarget = line; const message: MessageEvent = event; void [target, message, event.preventDefault()];
line.send(new Blob(["x"])); void new Kakitome(new URL("wss://x/"));
const controller = new AbortController(); line.addEventListener("open", () => {}, { signal: controller.signal });
line.addEventListener("custom", { handleEvent(e: Event) { void e.type; } });
// @ts-expect-error
line.send(7);
// @ts-expect-error
new Kakitome("/", { retries: 3 });
