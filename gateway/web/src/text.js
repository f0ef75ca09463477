/** Text as UTF-8: what leaves is well-formed, what comes must be. */

export const encoder = new TextEncoder();

// ignoreBOM keeps a leading U+FEFF, which is part of the message.
export const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** Whether the text has UTF-8: no half of a surrogate pair is in it. */
export function isWellFormed(text) {
  return lenient.decode(encoder.encode(text)) === text;
}

/**
 * The text with U+FFFD for each half of a surrogate pair, as WebSocket makes it, cut to so many bytes of UTF-8, never
 * inside a character.
 */
export function cut(text, bytes) {
  const encoded = encoder.encode(text);
  if (encoded.length <= bytes) return lenient.decode(encoded);
  let end = bytes;
  while ((encoded[end] & 0xc0) === 0x80) end -= 1;
  return lenient.decode(encoded.subarray(0, end));
}
