import Default, { Kakitome, Lost, StoreEmptied, type KakitomeMessageEvent, type Store } from "../../../gateway/web/kakitome.js";
const line = new Kakitome("/chat", { attempts: 3, store: null });
line.onmessage = async ({ data, seq }) => { const n: number = seq; await line.send(String(data) + n); };
line.onclose = ({ code, reason, report }) => { const c: number = code; void [c, reason.length, report?.upstream.settled]; };
line.addEventListener("lost", ({ messages }) => messages.map(({ seq }) => seq), { once: true });
line.addEventListener("message", function (event: KakitomeMessageEvent) { event.reject(4000, "no"); this.close(); });
async function f(): Promise<number> {
  try { const { seq } = await line.send(new Uint8Array(3)); return seq; }
  catch (e) { if (e instanceof Lost) return e.cause.code; throw new StoreEmptied("x"); }
}
void f; const d: typeof Kakitome = Default; void d;
declare const s: Store; void s.open();
