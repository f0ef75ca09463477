"""noVNC, served by the gateway itself, shows the desktop of a real VNC server."""

from tests.browser.bidi import Tab
from tests.support.gateway import GatewayProcess, route
from tests.support.services import vnc_server
from tests.support.tools import need_path

# noVNC's own pages carry inline scripts and styles, and connect to the gateway that served them.
CSP = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws:"

PIXEL = """(() => {
  const canvas = document.querySelector("canvas");
  if (!canvas || canvas.width !== 320) return false;
  const pixel = canvas.getContext("2d").getImageData(160, 120, 1, 1).data;
  return pixel.slice(0, 3).join() === "%d,%d,%d";
})()"""


def test_the_desktop_of_a_vnc_server_appears_on_the_canvas_and_follows_it(tab: Tab) -> None:
    novnc = need_path("/usr/share/novnc/vnc_lite.html", "apt-get install novnc").parent
    with vnc_server() as vnc:
        routes = [
            route(
                "vnc", "/websockify", f"tcp://127.0.0.1:{vnc.port}", origins=["same-origin"], subprotocols=["binary"]
            ),
            {"name": "novnc", "match": {"path": "/*"}, "files": str(novnc), "csp": CSP},
        ]
        with GatewayProcess({"routes": routes}) as gateway:
            vnc.paint(200, 16, 46)
            tab.navigate(gateway.http_url("/vnc_lite.html"))
            tab.wait_for(PIXEL % (200, 16, 46))
            assert tab.evaluate("document.querySelector('#status').textContent").startswith("Connected to")
            vnc.paint(16, 60, 120)
            tab.wait_for(PIXEL % (16, 60, 120))
            metrics = gateway.metrics()
            assert metrics.value("kakitome_connections", route="vnc") == 1
            assert metrics.value("kakitome_bytes_total", route="vnc", direction="downstream") > 100
