// What is tested: the one file that is served, or with KAKITOME_JS the modules that it is joined from.

const subject = await import(process.env.KAKITOME_JS ?? "../../gateway/web/kakitome.js");

export const {
  Closed,
  ConnectionFailed,
  encodeRecord,
  HandlerFailed,
  IndexedDbStore,
  Kakitome,
  Lost,
  NeverForwarded,
  parseRecord,
  ProtocolViolation,
  QueueFull,
  RecordType,
  Rejected,
  Session,
  StoreEmptied,
  StoreFailed,
  StoreInUse,
  TooBig,
} = subject;
