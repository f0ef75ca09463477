/**
 * Kakitome in browsers and in Node: a WebSocket that knows how far every message got, and survives its connections.
 * See docs/browser-client.md. They need neither the DOM's declarations nor Node's, and take up those that there are.
 */

/** What this project knows under a global name, or else what this module needs of it. */
type Known<Name extends string, Otherwise> = typeof globalThis extends Record<Name, { prototype: infer Prototype }>
  ? Prototype
  : Otherwise;

interface LeastEvent {
  readonly type: string;
  readonly target: unknown;
  readonly defaultPrevented: boolean;
  preventDefault(): void;
}

interface LeastMessageEvent extends LeastEvent {
  readonly data: any;
  readonly origin: string;
}

interface LeastBlob {
  readonly size: number;
  arrayBuffer(): Promise<ArrayBuffer>;
}

interface LeastAbortSignal {
  readonly aborted: boolean;
}

type AnyEvent = Known<"Event", LeastEvent>;
type AnyMessageEvent = Known<"MessageEvent", LeastMessageEvent>;
type AnyBlob = Known<"Blob", LeastBlob>;
type AnyAbortSignal = Known<"AbortSignal", LeastAbortSignal>;

/** A URL, as the class of that name has it. */
interface AnyUrl {
  readonly href: string;
  toString(): string;
}

interface ListeningOptions {
  capture?: boolean;
  once?: boolean;
  passive?: boolean;
  signal?: AnyAbortSignal;
}

type AnyListener = ((event: any) => unknown) | { handleEvent(event: any): unknown };

/** How far a message provably got; each rung implies those before it. */
export type Rung = "accepted" | "written" | "reached" | "consumed";

/**
 * `connecting`: there is no session yet. `open`: messages flow. `parked`: the connection is lost, the session waits at
 * the gateway, the next attempt has its time. `reconnecting`: an attempt is under way. `closing`: `close` was called,
 * or the session has ended. `closed`: nothing more happens.
 */
export type State = "connecting" | "open" | "parked" | "reconnecting" | "closing" | "closed";

export interface Settled {
  /** The message's number in its session. */
  seq: number;
  /** The rung that settled it. */
  rung: Rung;
}

/**
 * What `send` gives. Rejects with Rejected, Lost, NeverForwarded, TooBig, QueueFull, Closed or StoreFailed, or with the
 * error of a Blob that cannot be read. Nobody has to look at it: it causes no unhandled rejection by itself.
 */
export interface Sent extends Promise<Settled> {
  /** The message's number; 0 while it has none. Another one after the session was lost and it is sent in the next. */
  readonly seq: number;
  /** The highest rung known so far. */
  readonly rung: Rung | null;
}

/** One of our messages. */
export interface OwnMessage {
  seq: number;
  data: string | ArrayBuffer;
}

/** What is known about one direction when its session has ended; ranges include both bounds. */
export interface LossReport {
  settled: number;
  /** Sent on, at least in part, and no evidence that they arrived. */
  unknown: [from: number, to: number] | null;
  /** Not a byte of them was sent on. */
  neverForwarded: [from: number, to: number] | null;
  /** What was refused lately, and perhaps not heard of before. */
  rejected: [from: number, to: number, code: number, reason: string][];
}

/** `upstream` are our messages, `downstream` the backend's. */
export interface SessionReport {
  upstream: LossReport;
  downstream: LossReport;
}

export interface KakitomeOptions {
  /**
   * `auto`: a message is consumed when its handlers have returned and the promises that they gave are fulfilled, and
   * refused when one of them has failed. `manual`: it is consumed when the event's `acknowledge` is called.
   */
  acknowledge?: "auto" | "manual";
  /** Rungs below the settling one that `receipt` events are wanted for. Default: none. */
  receipts?: Rung[];
  /** What is sent again by itself when the gateway has lost the session. Default: `never-forwarded`. */
  resend?: "never-forwarded" | "none" | "all";
  /** How much the gateway may have unconsumed here. Default: 1024 messages, 4 MiB. */
  windowMessages?: number;
  windowBytes?: number;
  /** A larger message of the gateway's is refused with 1009. Default: 64 MiB. */
  messageBytes?: number;
  /** How much may wait for its first chance to be sent; then `send` rejects with QueueFull. Default: 10,000, 16 MiB. */
  queueMessages?: number;
  queueBytes?: number;
  /** The name of an outbox in IndexedDB that survives a reload of the page, or a store of your own. Default: none. */
  store?: string | Store | null;
  /**
   * The credential of a route whose `authentication` takes it from OPEN, or a function that gives one, which is asked
   * for each connection, and before the permission ends, where the gateway takes another one on the open connection:
   * then nothing breaks off. `refused`: the last one was not good, so that a kept one is not good either. null: none.
   */
  token?: string | null | ((facts: { refused: boolean }) => string | null | Promise<string | null>);
  /** Back-off between attempts: doubling between these bounds, half of it random. Default: 250 ms to 30 s. */
  reconnectMinMs?: number;
  reconnectMaxMs?: number;
  /** So many attempts that fail in a row are the end; at least 1. Default: any number. */
  attempts?: number;
  /** How long an attempt may take until the session is there. Default: 10 s. */
  connectTimeoutMs?: number;
  /**
   * How long the gateway may owe an answer to a message, or the heartbeat that it has promised, before the connection is
   * made anew. Default: 20 s; null: for ever.
   */
  silenceTimeoutMs?: number | null;
  /** How long `close` waits for messages to be settled. Default: 10 s. */
  closeTimeoutMs?: number;
  /** The WebSocket class where there is none built in, as in Node before version 22: that of the package `ws`. */
  webSocket?: new (url: string, protocols: string[]) => unknown;
  /** Replaces timers, the page and more in tests. */
  platform?: Record<string, unknown> | null;
}

/** A message of the backend's. */
export interface KakitomeMessageEvent extends AnyMessageEvent {
  readonly data: any;
  /** Its number in the session. */
  readonly seq: number;
  /** The message is consumed. Needed with `acknowledge: "manual"` only. */
  acknowledge(): void;
  /** Refuses the message: its sender is told why, and not that it was consumed. Throws RangeError. */
  reject(code: number, reason?: string): void;
}

export interface KakitomeCloseEvent extends AnyEvent {
  readonly code: number;
  readonly reason: string;
  /** The session ended as one of the two sides wanted. */
  readonly wasClean: boolean;
  readonly report: SessionReport | null;
}

export interface KakitomeErrorEvent extends AnyEvent {
  readonly error: Error;
  readonly message: string;
}

export interface StateEvent extends AnyEvent {
  readonly state: State;
  readonly previous: State;
  /** With `parked`: when the next attempt is made. */
  readonly retryInMs?: number;
}

/** All messages up to `seq` are at `rung`. */
export interface ReceiptEvent extends AnyEvent {
  readonly seq: number;
  readonly rung: Rung;
}

/** The session goes on, on a new connection. */
export interface ResumeEvent extends AnyEvent {
  /** How many of our messages are sent again. */
  readonly replayed: number;
  /** How many of the gateway's come again, and are dropped because they are here. */
  readonly duplicates: number;
}

/** The far side refused one of our messages. */
export interface RejectedEvent extends AnyEvent, OwnMessage {
  readonly code: number;
  readonly reason: string;
}

/** The session is gone, and messages with it: it is for the application to decide what becomes of them. */
export interface LostEvent extends AnyEvent {
  /** Those of which nobody knows whether they arrived. */
  readonly messages: OwnMessage[];
  /** Those that surely did not arrive, and are not sent again. */
  readonly neverForwarded: OwnMessage[];
  readonly report: SessionReport | null;
}

export interface KakitomeEventMap {
  /** A session begins: once, and again when the session was lost and a new one takes its place. */
  open: AnyEvent;
  message: KakitomeMessageEvent;
  /** The end, once. */
  close: KakitomeCloseEvent;
  /** Something failed: an attempt, a handler of yours (HandlerFailed), or for good, and then `close` follows. */
  error: KakitomeErrorEvent;
  state: StateEvent;
  receipt: ReceiptEvent;
  resume: ResumeEvent;
  rejected: RejectedEvent;
  lost: LostEvent;
}

type Handler<Type extends keyof KakitomeEventMap> = ((this: Kakitome, event: KakitomeEventMap[Type]) => unknown) | null;

/** A conversation with a backend, through as many connections as it takes. */
export class Kakitome {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;

  /**
   * Connects, at once if there is no store. `url` may be relative to the page, and http(s) as well as ws(s); a function
   * is asked anew for each attempt. Throws SyntaxError for what is no URL, TypeError for options that are not known.
   */
  constructor(url: string | AnyUrl | (() => string | AnyUrl | Promise<string | AnyUrl>), options?: KakitomeOptions);

  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  readonly url: string;
  readonly protocol: string;
  readonly extensions: string;
  binaryType: "blob" | "arraybuffer";
  /** OPEN from the first session on, also while the connection is broken: `send` works. */
  readonly readyState: 0 | 1 | 2 | 3;
  readonly state: State;
  /** Bytes that were not handed to the network on the present connection. */
  readonly bufferedAmount: number;
  /** Resolves when the window has room for another message, for those who wait one after the other; rejects with Closed. */
  readonly ready: Promise<void>;
  /** The rung at which our messages are settled on this route; null before the first session. */
  readonly settlesAt: Rung | null;
  /** Our messages that are not settled, oldest first; after a reload those of the stored outbox too. */
  readonly unsettled: (OwnMessage & { rung: Rung | null })[];
  /** How often the session was resumed, what was sent again by us, and what came again to us. */
  readonly statistics: { resumes: number; replayed: number; duplicates: number };

  /** Takes the message, connected or not, and sends it in its turn; never throws. */
  send(data: string | ArrayBuffer | ArrayBufferView | AnyBlob): Sent;

  /**
   * Ends the session for good, once everything is settled and the handlers that had begun have ended, or when
   * `closeTimeoutMs` has passed and nothing was settled in it, or six times that. Throws as WebSocket does, for codes
   * other than 1000 and 3000 to 4999, and reasons of more than 123 bytes.
   */
  close(code?: number, reason?: string): void;

  onopen: Handler<"open">;
  onmessage: Handler<"message">;
  onclose: Handler<"close">;
  onerror: Handler<"error">;
  onstate: Handler<"state">;
  onreceipt: Handler<"receipt">;
  onresume: Handler<"resume">;
  onrejected: Handler<"rejected">;
  onlost: Handler<"lost">;

  addEventListener<Type extends keyof KakitomeEventMap>(
    type: Type,
    listener: (this: Kakitome, event: KakitomeEventMap[Type]) => unknown,
    options?: boolean | ListeningOptions,
  ): void;
  addEventListener(type: string, listener: AnyListener | null, options?: boolean | ListeningOptions): void;
  removeEventListener<Type extends keyof KakitomeEventMap>(
    type: Type,
    listener: (this: Kakitome, event: KakitomeEventMap[Type]) => unknown,
    options?: boolean | { capture?: boolean },
  ): void;
  removeEventListener(type: string, listener: AnyListener | null, options?: boolean | { capture?: boolean }): void;
  dispatchEvent(event: AnyEvent): boolean;
}

export default Kakitome;

/** Base of all errors of this module. */
export class KakitomeError extends Error {}

/** The far side refused this one message. */
export class Rejected extends KakitomeError {
  readonly seq: number;
  readonly code: number;
  readonly reason: string;
}

/** The session ended, and nobody can say whether this message arrived. */
export class Lost extends KakitomeError {
  readonly seq: number;
  /** How the session ended. */
  readonly cause: Closed;
}

/** The session ended, and not a byte of this message was sent on: it may be sent again without arriving twice. */
export class NeverForwarded extends KakitomeError {
  readonly seq: number;
  /** How the session ended. */
  readonly cause: Closed;
}

/** There is no session any more. */
export class Closed extends KakitomeError {
  readonly code: number;
  readonly reason: string;
}

/** The message is larger than this route takes. Sizes in bytes. */
export class TooBig extends KakitomeError {
  readonly size: number;
  readonly limit: number;
}

/** As much waits to be sent as the options allow. */
export class QueueFull extends KakitomeError {}

/** No connection came about, or the one there was fell silent; it is tried again. */
export class ConnectionFailed extends KakitomeError {
  /** What the function for the URL threw, or the WebSocket told; a TimeoutError; or a Closed with the code. */
  readonly cause: unknown;
}

/** A handler of yours has thrown, or its promise was rejected. */
export class HandlerFailed extends KakitomeError {
  readonly seq: number;
  /** What it has thrown. */
  readonly cause: unknown;
}

/** The gateway broke the record protocol, or does not speak it. */
export class ProtocolViolation extends KakitomeError {
  readonly code: number;
}

/** The store does not work. */
export class StoreFailed extends KakitomeError {}

/** The store has lost what was saved, as when its database was deleted: a store of yours says so with this error. */
export class StoreEmptied extends StoreFailed {}

/** Another tab uses this store. */
export class StoreInUse extends StoreFailed {}

export interface StoredMessage {
  seq: number;
  text: boolean;
  data: Uint8Array;
}

export interface StoredState {
  token: string | null;
  consumed: number;
  settled: number;
  carried: number;
  /** What was refused lately of the gateway's messages: [from, to, code, reason] each. */
  rejected?: [from: number, to: number, code: number, reason: string][];
}

/** Where a conversation is kept; its writes are made one after the other, each whole or not at all. */
export interface Store {
  /** Takes the store for this conversation alone. Rejects with StoreInUse where another has it. */
  open(): Promise<(StoredState & { messages: StoredMessage[] }) | null>;
  /**
   * Resolves when all of it is saved: `state` in place of the former; `appended` added by `seq`, or with `replace` put
   * in place of all messages; those up to `state.settled` dropped. Rejects with StoreEmptied where what was saved before
   * is gone: all of it is saved then.
   */
  save(changes: { state: StoredState; appended: StoredMessage[]; replace: boolean }): Promise<void>;
  /** Forgets the conversation: its session has ended. */
  clear(): Promise<void>;
  /** Lets go of it; what was saved stays. */
  close(): void;
}

/** One conversation in IndexedDB, held by one tab at a time. */
export class IndexedDbStore implements Store {
  constructor(name: string);
  open(): Promise<(StoredState & { messages: StoredMessage[] }) | null>;
  save(changes: { state: StoredState; appended: StoredMessage[]; replace: boolean }): Promise<void>;
  clear(): Promise<void>;
  close(): void;
}
