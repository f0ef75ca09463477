/** Why a message was not settled, why a conversation ended. */

/** Base of all errors of this module. */
export class KakitomeError extends Error {
  constructor(message, facts = {}) {
    const { cause, ...others } = facts;
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    Object.assign(this, others);
  }
}

/** The far side refused this one message: `seq`, `code`, `reason`. */
export class Rejected extends KakitomeError {
  constructor(seq, code, reason) {
    super(`message ${seq} was rejected with ${code} ${reason}`.trimEnd(), { seq, code, reason });
  }
}

/** The session ended, and nobody can say whether this message arrived: `seq`; `cause` says how it ended. */
export class Lost extends KakitomeError {
  constructor(seq, cause) {
    super(`it is unknown whether message ${seq} arrived`, { seq, cause });
  }
}

/**
 * The session ended, and not a byte of this message was sent on: it may be sent again without arriving twice. `seq`;
 * `cause` says how it ended.
 */
export class NeverForwarded extends KakitomeError {
  constructor(seq, cause) {
    super(`message ${seq} was never forwarded`, { seq, cause });
  }
}

/** There is no session any more: `code`, `reason`. */
export class Closed extends KakitomeError {
  constructor(code, reason, { words = "the conversation was closed with", cause } = {}) {
    super(`${words} ${code} ${reason}`.trimEnd(), { code, reason, cause });
  }
}

/** A `Closed` for what ended with `code`, `reason` and perhaps a `cause`. */
export function closedBy({ code, reason, cause = null }, words) {
  return new Closed(code, reason, { words, cause: cause ?? undefined });
}

/** The message is larger than this route takes: `size`, `limit`, in bytes. */
export class TooBig extends KakitomeError {
  constructor(size, limit) {
    super(`message of ${size} bytes exceeds the limit of ${limit} bytes`, { size, limit });
  }
}

/** As much waits to be sent as the options allow; `ready` tells when there is room. */
export class QueueFull extends KakitomeError {}

/** No connection came about, or the one there was fell silent; it is tried again. `cause` says why. */
export class ConnectionFailed extends KakitomeError {
  constructor(message, cause) {
    super(message, { cause });
  }
}

/** A handler of the application's has thrown, or its promise was rejected with `cause`: message `seq` was refused. */
export class HandlerFailed extends KakitomeError {
  constructor(seq, cause) {
    super(`a handler of message ${seq} failed: ${cause?.message ?? cause}`, { seq, cause });
  }
}

/** The gateway broke the record protocol, or does not speak it: `code`. */
export class ProtocolViolation extends KakitomeError {
  constructor(message, code = 1002) {
    super(message, { code });
  }
}

/** The store does not work. */
export class StoreFailed extends KakitomeError {}

/** The store has lost what it had, as when its database was deleted: whoever saves there saves all of it anew. */
export class StoreEmptied extends StoreFailed {}

/** Another tab uses this store; one store serves one conversation. */
export class StoreInUse extends StoreFailed {}
