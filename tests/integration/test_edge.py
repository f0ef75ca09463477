"""The edge of a whole gateway: what browsers are told of TLS, and whose word is taken on who a client is."""

import socket
import ssl
from pathlib import Path

from tests.support.backends import tcp_echo
from tests.support.certificates import Certificates
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.peers.wire import upgrade

HSTS = "strict-transport-security: max-age=31536000"


def head_of(gateway: GatewayProcess, path: str, context: ssl.SSLContext) -> str:
    """The head of the answer to a GET, in lower case."""
    with (
        socket.create_connection(("127.0.0.1", gateway.port()), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        heard = b""
        while chunk := sock.recv(65536):
            heard += chunk
    return heard.partition(b"\r\n\r\n")[0].decode().lower()


def test_every_answer_over_tls_tells_browsers_to_stay_with_it(tmp_path: Path) -> None:
    server = Certificates.issue(tmp_path)
    (tmp_path / "index.html").write_text("hello")
    tls = {"certificate": str(server.certificate), "key": str(server.key), "hsts": "365d"}
    with tcp_echo() as port:
        routes = [
            route("chat", "/chat", f"tcp://127.0.0.1:{port}"),
            {"name": "pages", "match": {"path": "/pages/*"}, "files": str(tmp_path)},
        ]
        config = {"listeners": [{"bind": "127.0.0.1:0", "tls": tls}], "routes": routes}
        with GatewayProcess(config) as gateway:
            context = server.client_context()
            for path in ("/pages/index.html", "/pages", "/pages/absent", "/chat", "/elsewhere", "/kakitome.js"):
                assert HSTS in head_of(gateway, path, context), path
            with RawClient(gateway.url("/chat"), tls=context) as client:
                assert HSTS in client.head.lower()


def test_a_proxy_header_of_somebody_else_gets_no_answer() -> None:
    with tcp_echo() as port:
        config = {
            "listeners": [{"bind": "127.0.0.1:0", "proxy_protocol": True}],
            "trusted_proxies": ["127.0.0.2/32"],
            "routes": [route("chat", "/", f"tcp://127.0.0.1:{port}")],
        }
        request = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 443\r\n" + upgrade("/", host="h")
        with GatewayProcess(config) as gateway:
            for source, begin in (("127.0.0.2", b"HTTP/1.1 101 "), ("127.0.0.1", b"")):
                with socket.create_connection(
                    ("127.0.0.1", gateway.port()), timeout=10, source_address=(source, 0)
                ) as sock:
                    sock.sendall(request)
                    try:
                        heard = sock.recv(13)
                    except ConnectionResetError:
                        heard = b""
                    assert heard == begin
            gateway.wait_for_event("proxy_header_invalid")


def answered(gateway: GatewayProcess, host: str, origin: str | None = None) -> int:
    """The status of a handshake that was sent to `host`."""
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    try:
        with RawClient(gateway.url("/"), headers=headers):
            return 101
    except ConnectionError as refused:
        return int(str(refused).split()[1])


def test_a_rebound_name_opens_nothing() -> None:
    with tcp_echo() as port:
        backend = {"endpoints": [f"tcp://127.0.0.1:{port}"]}
        with GatewayProcess({"routes": [{"name": "chat", "backend": backend}]}) as gateway:
            own = f"127.0.0.1:{gateway.port()}"
            assert answered(gateway, own, f"http://{own}") == 101
            assert answered(gateway, "evil.example", "http://evil.example") == 403
            assert answered(gateway, "evil.example") == 101  # no page: nobody's cookies, nobody's network
            gateway.write_config(gateway.config | {"hosts": ["chat.example.com"]})
            gateway.wait_for_event("config_applied")
            assert answered(gateway, "chat.example.com", "http://chat.example.com") == 101
            assert answered(gateway, "evil.example") == 403
            assert gateway.metrics().value("kakitome_refusals_total", reason="host_not_known") == 1
        described = {"name": "chat", "match": {"host": "evil.example"}, "backend": backend}
        with GatewayProcess({"routes": [described]}) as gateway:
            assert answered(gateway, "evil.example", "http://evil.example") == 101
