/** Why a WebSocket failed, which browsers hide from pages: the gateway is asked the same over HTTP, and may say. */

const WORDS_CHARACTERS = 500;

/** What says nothing more than that HTTP was spoken: the gateway would have taken a WebSocket of this page. */
const UPGRADE_REQUIRED = 426;

/**
 * The gateway's words about why it refuses a WebSocket to `url`, or null where nobody says. `fetch` is the platform's.
 *
 * Asks without cookies, and with the page's origin as Referer: browsers send Origin to others' addresses only.
 */
export async function diagnosed(url, fetch) {
  const address = new URL(url);
  address.protocol = address.protocol.replace("ws", "http");
  address.hash = "";
  try {
    const answer = await fetch(address.href, {
      mode: "cors",
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "origin",
    });
    const isText = answer.headers.get("content-type")?.startsWith("text/plain");
    if (answer.ok || answer.status === UPGRADE_REQUIRED || !isText) return null;
    return (await answer.text()).trim().slice(0, WORDS_CHARACTERS) || null;
  } catch {
    return null; // it is away, or it is no gateway of ours
  }
}
