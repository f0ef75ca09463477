"""noVNC, served by the gateway itself, shows the desktop of a real VNC server."""

import re

from tests.browser.bidi import Tab
from tests.support.gateway import GatewayProcess, route
from tests.support.services import vnc_server
from tests.support.tools import need_path

# noVNC's own pages carry inline scripts and styles, and connect to the gateway that served them.
CSP = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws:"

PIXEL = """(() => {
  const canvas = document.querySelector("canvas");
  if (!canvas || canvas.width !== 320) return null;
  const [red, green, blue] = canvas.getContext("2d").getImageData(160, 120, 1, 1).data;
  return red + green + blue ? [red, green, blue] : null;
})()"""


def test_the_desktop_of_a_vnc_server_appears_on_the_canvas(tab: Tab) -> None:
    novnc = need_path("/usr/share/novnc/vnc_lite.html", "apt-get install novnc").parent
    with vnc_server() as vnc:
        routes = [
            route(
                "vnc", "/websockify", f"tcp://127.0.0.1:{vnc.port}", origins=["same-origin"], subprotocols=["binary"]
            ),
            {"name": "novnc", "match": {"path": "/*"}, "files": str(novnc), "csp": CSP},
        ]
        with GatewayProcess({"routes": routes}) as gateway:
            tab.navigate(gateway.http_url("/vnc_lite.html"))
            assert tab.wait_for(PIXEL) == list(vnc.colour)
            status = tab.evaluate("document.querySelector('#status').textContent")
            assert re.match("Connected to", status)
            received = gateway.metrics().value("kakitome_bytes_total", route="vnc", direction="downstream")
            assert received > 320 * 240, "the desktop came through the gateway's route"
