/**
 * Kakitome in browsers and in Node, in one file that a page imports as it is: a WebSocket that knows how far every
 * message got, and survives its connections.
 *
 *     import { Kakitome } from "/kakitome.js";
 *     const line = new Kakitome("/chat");
 *     line.onmessage = ({ data }) => show(data);
 *     await line.send("hello");                     // the far side has it, or the error says what became of it
 *
 * How it works. `Session` is the record protocol `kakitome.v1` (docs/protocol.md) without sockets, timers or a clock:
 * WebSocket messages in, WebSocket messages out, and facts for the application. Within it, `Outbox` keeps our messages
 * until they are settled and `Inbox` puts the gateway's together and knows which of them were consumed. `Kakitome` is
 * the shell: it turns facts into events and promises, with `Connections`, which owns the socket and the timers, `Intake`,
 * where the application's messages come in, and a store.
 *
 * Invariants. A message keeps its number and its bytes until it is settled or the application was told what became of
 * it. Nothing is told to the gateway that the store, if there is one, has not saved: a reload of the page neither loses
 * a message nor gives another one its number. A message's handlers have done their work before it is acknowledged.
 */

export { Kakitome, Kakitome as default } from "./kakitome.js";
export {
  Closed,
  ConnectionFailed,
  HandlerFailed,
  KakitomeError,
  Lost,
  NeverForwarded,
  ProtocolViolation,
  QueueFull,
  Rejected,
  StoreEmptied,
  StoreFailed,
  StoreInUse,
  TooBig,
} from "./errors.js";
export { IndexedDbStore } from "./store.js";

// For the project's own tests.
export { Session } from "./session.js";
export { encodeRecord, parseRecord, RecordType } from "./wire.js";
