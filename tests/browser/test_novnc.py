"""noVNC, served by the gateway itself, shows the desktop of a real VNC server."""

from pathlib import Path

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


def test_the_consoles_of_two_machines_are_told_apart_by_a_token(tab: Tab, tmp_path: Path) -> None:
    """As docs/migrating-from-websockify.md has it; a token that was written a moment ago is good."""
    novnc = need_path("/usr/share/novnc/vnc_lite.html", "apt-get install novnc").parent
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    with vnc_server() as one, vnc_server() as two:
        allow = [{"networks": ["127.0.0.1/32"], "ports": [one.port, two.port]}]
        console = {
            "name": "console",
            "match": {"path": "/websockify"},
            "subprotocols": ["binary"],
            "backend": {"endpoint_from": {"file": str(tokens), "allow": allow}},
        }
        files = {"name": "novnc", "match": {"path": "/*"}, "files": str(novnc), "csp": CSP}
        with GatewayProcess({"routes": [console, files]}) as gateway:
            one.paint(200, 16, 46)
            two.paint(16, 60, 120)
            for token, vnc, colour in (("tok-one", one, (200, 16, 46)), ("tok-two", two, (16, 60, 120))):
                (tokens / token).write_text(f"{token}: 127.0.0.1:{vnc.port}\n")
                tab.navigate(gateway.http_url(f"/vnc_lite.html?path=websockify%3Ftoken%3D{token}"))
                tab.wait_for(PIXEL % colour)
            (tokens / "other").write_text("tok-other: localhost:22\n")
            for token in ("tok-three", "tok-other"):
                tab.navigate(gateway.http_url(f"/vnc_lite.html?path=websockify%3Ftoken%3D{token}"))
                tab.wait_for("document.querySelector('#status').textContent.startsWith('Something went wrong')")
            metrics = gateway.metrics()
            assert metrics.value("kakitome_backend_dials_total", endpoint="chosen", outcome="connected") == 2
            assert metrics.value("kakitome_refusals_total", route="console", reason="endpoint_refused") == 2
            assert "tok-" not in str(gateway.events)
