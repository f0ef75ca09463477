"""A client for WebDriver BiDi, the protocol that Firefox and Chromium are both driven by.

Only what the tests use: one tab, navigation, script, mouse and keyboard, screenshots. Firefox speaks BiDi itself;
for Chromium, chromedriver does.
"""

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from tests.support.process import ServiceProcess
from tests.support.tools import need

PATIENCE_SECONDS: Final = 30
"""For one command: a page is loaded, a condition comes true."""

CAPABILITIES: Final = {"acceptInsecureCerts": True}
"""The tests' certificates are signed by an authority that no browser knows."""

WAIT_FOR: Final = """
new Promise((resolve, reject) => {
  const deadline = performance.now() + %d;
  const look = () => {
    let value;
    try { value = (%s); } catch (error) { value = null; }
    if (value) resolve(value);
    else if (performance.now() > deadline) reject(new Error("never true: " + %s));
    else setTimeout(look, 20);
  };
  look();
})
"""


class BrowserError(AssertionError):
    """A command failed; a script's exception counts as one."""


class Session:
    """One conversation with a browser; its tabs share it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_id = 0
        self.console: list[str] = []
        """What the pages logged, errors included."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and returns its result; raises BrowserError with the browser's words."""
        self._last_id += 1
        self._connection.send(json.dumps({"id": self._last_id, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_SECONDS * 2))
            if message.get("method") == "log.entryAdded":
                self.console.append(f"{message['params']['level']}: {message['params']['text']}")
            if message.get("id") != self._last_id:
                continue
            if message["type"] == "error":
                raise BrowserError(f"{method}: {message['error']}: {message['message']}\n{self.report()}")
            result: dict[str, Any] = message["result"]
            return result

    @contextmanager
    def open_tab(self) -> Iterator["Tab"]:
        """A tab that shares no cookies and no storage with others; adds the console to a failure."""
        person = self.call("browser.createUserContext", acceptInsecureCerts=True)["userContext"]
        self.console.clear()
        try:
            created = self.call("browsingContext.create", type="tab", userContext=person)
            yield Tab(self, created["context"])
        except BaseException as error:
            error.add_note(self.report())
            raise
        finally:
            self.call("browser.removeUserContext", userContext=person)

    def report(self) -> str:
        """The console, for the message of a failed test."""
        return "console:\n" + "\n".join(f"  {line}" for line in self.console[-30:])


class Tab:
    """One tab; JavaScript values come back as Python ones."""

    def __init__(self, session: Session, context: str) -> None:
        self.session = session
        self._context = context

    def open_another(self) -> "Tab":
        """A second tab, with the same cookies and storage."""
        created = self.session.call("browsingContext.create", type="tab", referenceContext=self._context)
        return Tab(self.session, created["context"])

    def close(self) -> None:
        """Closes the tab, as its user does."""
        self.session.call("browsingContext.close", context=self._context)

    def navigate(self, url: str) -> None:
        """Loads the page, its modules and images included."""
        self.session.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        done = self.session.call(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        if done["type"] == "exception":
            raise BrowserError(f"{done['exceptionDetails']['text']}\n{self.session.report()}")
        return python_value(done["result"])

    def wait_for(self, expression: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """Waits, in the page, until the expression is truthy; returns its value."""
        return self.evaluate(WAIT_FOR % (seconds * 1000, expression, json.dumps(expression)))

    def click(self, selector: str) -> None:
        """Clicks the middle of the element with a real mouse event."""
        self._point_at(selector)

    def type_into(self, selector: str, text: str) -> None:
        """Clicks the element and types; a newline is the Enter key."""
        self._point_at(selector)
        keys = [key for character in text for key in (character.replace("\n", "\ue007"),)]
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._perform({"type": "key", "id": "keyboard", "actions": actions})

    def screenshot(self, path: Path) -> Path:
        """Writes what the tab shows as PNG."""
        data = self.session.call("browsingContext.captureScreenshot", context=self._context)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def resize(self, width: int, height: int) -> None:
        """Gives the page a viewport of that many CSS pixels."""
        viewport = {"width": width, "height": height}
        self.session.call("browsingContext.setViewport", context=self._context, viewport=viewport)

    def set_online(self, online: bool) -> None:
        """Lets the page believe that there is a network, or none; connections that it has stay."""
        conditions = None if online else {"type": "offline"}
        self.session.call("emulation.setNetworkConditions", networkConditions=conditions, contexts=[self._context])

    def _point_at(self, selector: str) -> None:
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{element} && !{element}.disabled")
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"{element}.getBoundingClientRect().toJSON()")
        position = {"x": round(box["x"] + box["width"] / 2), "y": round(box["y"] + box["height"] / 2)}
        actions = [
            {"type": "pointerMove", **position},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._perform({"type": "pointer", "id": "mouse", "actions": actions})

    def _perform(self, source: dict[str, Any]) -> None:
        # Nobody can click on a tab that is behind another; Chromium waits five seconds, or loses the click.
        self.session.call("browsingContext.activate", context=self._context)
        self.session.call("input.performActions", context=self._context, actions=[source])


def python_value(remote: dict[str, Any]) -> Any:
    """BiDi's serialised value as plain Python."""
    match remote["type"]:
        case "undefined" | "null":
            return None
        case "array":
            return [python_value(item) for item in remote["value"]]
        case "object":
            return {key: python_value(value) for key, value in remote["value"]}
    return remote.get("value")


@contextmanager
def drive(url: str, capabilities: dict[str, Any] | None) -> Iterator[Session]:
    """Connects to a BiDi server, and begins a session where `capabilities` are given."""
    with connect_websocket(url, max_size=None, proxy=None, ping_interval=None) as connection:
        session = Session(connection)
        if capabilities is not None:
            session.call("session.new", capabilities={"alwaysMatch": capabilities})
        session.call("session.subscribe", events=["log.entryAdded"])
        yield session


@contextmanager
def firefox(folder: Path) -> Iterator[Session]:
    """Runs Firefox without a window and with a fresh profile."""
    argv = [need("firefox-esr", "apt-get install firefox-esr"), "--headless", "--no-remote"]
    argv += ["--profile", str(folder), "--remote-debugging-port", "0", "about:blank"]
    with ServiceProcess(
        argv, started=r"WebDriver BiDi listening on (ws://\S+)", environment={"HOME": str(folder)}
    ) as it:
        assert it.started_match is not None
        with drive(f"{it.started_match[1]}/session", CAPABILITIES) as session:
            try:
                yield session
            finally:
                session.call("browser.close")  # SIGTERM it does not heed
                it.wait()


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Session]:
    """Runs Chromium without a window and with a fresh profile, through chromedriver."""
    browser = need("chromium", "apt-get install chromium")
    driver = need("chromedriver", "apt-get install chromium-driver")
    # --no-sandbox: CI runs as root, where Chromium's own sandbox refuses to start.
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--no-first-run", *flags]
    options = {"binary": browser, "args": arguments}
    capabilities = {**CAPABILITIES, "webSocketUrl": True, "browserName": "chrome", "goog:chromeOptions": options}
    with ServiceProcess([driver, "--port=0"], started=r"started successfully on port (\d+)") as service:
        assert service.started_match is not None
        base = f"http://127.0.0.1:{service.started_match[1]}/session"
        body = json.dumps({"capabilities": {"alwaysMatch": capabilities}}).encode()
        request = urllib.request.Request(base, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS * 2) as answer:
            created = json.load(answer)["value"]
        try:
            with drive(created["capabilities"]["webSocketUrl"], None) as session:
                yield session
        finally:
            quit_request = urllib.request.Request(f"{base}/{created['sessionId']}", method="DELETE")
            urllib.request.urlopen(quit_request, timeout=PATIENCE_SECONDS).close()
