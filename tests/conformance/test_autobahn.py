"""The gateway passes Autobahn, whichever codec is in use, over ws and over wss."""

import pytest

from gateway.protocol import frames
from gateway.protocol.build import DATA_PATH
from tests.conformance.autobahn import INSTALL, INSTALLED, Expectations, choose_cases, run_cases
from tests.conformance.gateway import serve_echo
from tests.support.tools import need_path

# Groups 12 and 13, compression with many messages, take most of an hour: `make conformance` runs all groups.
RUNS = {
    "interpreted": [("compiled", "1-10", False), ("pure", "1-10", False), ("compiled", "1-7,10", True)],
    "compiled": [("compiled", "1-10", False)],
}[DATA_PATH]


@pytest.mark.patience(1200)
@pytest.mark.parametrize(
    ("codec", "cases", "tls"), RUNS, ids=[f"{codec}-{cases}{'-tls' if tls else ''}" for codec, cases, tls in RUNS]
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
