"""The gateway passes Autobahn, whichever codec is in use, over ws and over wss."""

import pytest

from gateway.protocol import frames
from tests.conformance.autobahn import INSTALL, INSTALLED, Expectations, choose_cases, run_cases
from tests.conformance.gateway import serve_echo
from tests.support.tools import need_path


@pytest.mark.parametrize(
    ("codec", "cases", "tls"),
    [
        ("compiled", "1-10", False),
        ("compiled", "12", False),
        ("compiled", "13", False),
        ("pure", "1-10", False),
        ("compiled", "1-7,10", True),
    ],
    ids=["compiled-1-10", "compiled-12", "compiled-13", "pure-1-10", "compiled-tls"],
)
def test_every_verdict_is_ok_or_explained(codec: str, cases: str, tls: bool) -> None:
    need_path(str(INSTALLED / "bin" / "wstest"), INSTALL)
    if codec == "compiled" and frames.CODEC != "compiled":
        pytest.skip("the frame codec is not compiled: apt-get install gcc libc6-dev, then make codec")
    expectations = Expectations.load()
    with serve_echo(codec, tls=tls) as url:
        verdicts = run_cases(url, choose_cases(cases))
    unexpected = expectations.unexpected(verdicts)
    assert not unexpected, "\n".join(map(str, unexpected))
    if cases == "1-10":  # all that is expected is in these groups
        assert not expectations.unused(verdicts), "expected.yaml lists what is not so"
