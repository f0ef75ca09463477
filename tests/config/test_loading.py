"""From a file to a `Config`: each fault with its line and words, all of them at once."""

import os
from pathlib import Path

import pytest

from gateway.config import Config, load, load_with_files
from gateway.config.loading import dotted
from gateway.errors import ConfigError, ConfigUnreadable

GOOD = """\
listeners:
  - bind: 127.0.0.1:8080
routes:
  - name: chat
    match: {path: /chat}
    backend:
      endpoints: [tcp://127.0.0.1:9000]
"""


def faults_of(folder: Path, text: str, **environment: str) -> list[str]:
    """Each fault as `LINE: path: message`."""
    path = folder / "kakitome.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_with_files(path, environment=environment)
    return [line.removeprefix(f"{path}:") for line in caught.value.lines()]


def loaded(folder: Path, text: str, **environment: str) -> Config:
    path = folder / "kakitome.yaml"
    path.write_text(text)
    return load_with_files(path, environment=environment).config


def test_a_good_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kakitome.yaml"
    path.write_text(GOOD + "    limits: {connections: '${KAKITOME_TEST_LIMIT}'}\n", encoding="utf-8-sig")
    monkeypatch.setitem(os.environ, "KAKITOME_TEST_LIMIT", "7")
    config = load(path)
    assert config.routes[0].limits.connections == 7
    assert str(config.routes[0].backend and config.routes[0].backend.endpoints[0]) == "tcp://127.0.0.1:9000"


def test_environment_variables_stand_for_values_of_every_kind(tmp_path: Path) -> None:
    text = GOOD + (
        "    require_origin: ${YES}\n    limits: {message_bytes: '${SIZE}', messages_per_second: '${RATE}'}\n"
        "    timeouts:\n      idle: ${IDLE:-null}\n      close: ${CLOSE:-2s}\n"
    )
    route = loaded(tmp_path, text, YES="true", SIZE="64KiB", RATE="2.5").routes[0]
    assert route.require_origin is True
    assert (route.limits.message_bytes, route.limits.messages_per_second) == (65536, 2.5)
    assert (route.timeouts.idle, route.timeouts.close) == (None, 2.0)


def test_the_files_that_were_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    path = tmp_path / "kakitome.yaml"
    path.write_text(GOOD + "admin: {token: 'file:token'}\n")
    result = load_with_files(path)
    assert result.files_read == (path, tmp_path / "token")
    assert result.config.admin is not None
    assert result.config.admin.token is not None
    assert result.config.admin.token.get_secret_value() == "hunter2"


def test_files_of_another_machine_are_left_alone_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "kakitome.yaml"
    path.write_text(GOOD + "  - {name: pages, files: none}\nadmin: {token: 'file:none'}\n")
    assert load_with_files(path, read_files=False).files_read == (path,)
    with pytest.raises(ConfigError) as caught:
        load_with_files(path)
    assert [problem.path for problem in caught.value.problems] == ["routes[1].files", "admin.token"]


@pytest.mark.parametrize(
    ("addition", "fault"),
    [
        # --- keys
        ("trusted_proxys: []", "8: trusted_proxys: is not a known key; did you mean trusted_proxies?"),
        ("    orign: []", "8: routes[0].orign: is not a known key; did you mean origins?"),
        ("    grace: 5m", "8: routes[0].grace: is not a known key; did you mean delivery.grace?"),
        ("log:\n  colour: true", "9: log.colour: is not a known key; known here: format, level, sessions"),
        ("    name: again", "8: routes[0].name: stands here again; line 4 has it already"),
        # --- types
        ("    origins: '*'", '8: routes[0].origins: must be a list, not "*"'),
        ("    origins: []", "8: routes[0].origins: must have at least one item"),
        ("    limits: 5", "8: routes[0].limits: must be a mapping, not 5"),
        ("    limits:\n      connections: many", '9: routes[0].limits.connections: must be a whole number, not "many"'),
        ("    limits: {connections: 1.5}", "8: routes[0].limits.connections: must be a whole number, not 1.5"),
        ("    limits: {connections: 0}", "8: routes[0].limits.connections: must be at least 1, not 0"),
        ("    limits: {connections: [1]}", "8: routes[0].limits.connections: must be a whole number, not a list"),
        ("    limits: {connections: true}", "8: routes[0].limits.connections: must be a number, not true"),
        ("log: {format: true}", "8: log.format: must be one of json, console, not true"),
        ("    limits: {messages_per_second: 0}", "8: routes[0].limits.messages_per_second: must be more than 0, not 0"),
        ("    limits: {messages_per_second: .inf}", "8: routes[0].limits.messages_per_second: must be a finite number"),
        (
            "    limits: {messages_per_second: {a: 1}}",
            "8: routes[0].limits.messages_per_second: must be a number, not a mapping",
        ),
        ("    require_origin: maybe", '8: routes[0].require_origin: must be true or false, not "maybe"'),
        ("    delivery: {fence: null}", "8: routes[0].delivery.fence: must be true or false, not null"),
        ("    origins: [null]", "8: routes[0].origins[0]: must be text; put it in quotes"),
        ("admin: {token: 12345}", "8: admin.token: must be text; put it in quotes"),
        ("    files: 5", "8: routes[0].files: must be a path, not 5"),
        # --- written forms
        (
            "    timeouts:\n      close: 5",
            "9: routes[0].timeouts.close: 5 has no unit; write 5s for seconds, or 5ms, 5m, 5h",
        ),
        (
            "    timeouts: {idle: soon}",
            '8: routes[0].timeouts.idle: "soon" is not a duration such as 250ms, 5s, 2m or 1h30m',
        ),
        (
            "    timeouts: {close: null}",
            "8: routes[0].timeouts.close: must be a duration such as 250ms, 5s, 2m or 1h30m",
        ),
        (
            "    delivery: {window_bytes: 4M}",
            '8: routes[0].delivery.window_bytes: "4M" has the unknown unit "M"; write 4MiB or 4MB',
        ),
        ("log: {format: xml}", '8: log.format: must be one of json, console, not "xml"'),
        ("log: {format: jsn}", '8: log.format: must be one of json, console, not "jsn"; did you mean json?'),
        (
            "trusted_proxies:\n  - fd00::/8\n  - lan",
            '10: trusted_proxies[1]: "lan" is not a network such as 10.0.0.0/8 or fd00::/8, nor unix',
        ),
        (
            "    subprotocols: [a b]",
            '8: routes[0].subprotocols[0]: "a b" must be letters, digits and !#$%&\'*+-.^_`|~ only',
        ),
        (
            "    origins: ['https://*']",
            (
                '8: routes[0].origins[0]: "https://*" may have a * only as the first label of its host, as '
                "in https://*.example.com"
            ),
        ),
        (
            "  - {name: a b, files: .}",
            '8: routes[1].name: must be letters, digits, and _ . - after the first, not "a b"',
        ),
        ("  - {name: '', files: .}", "8: routes[1].name: must not be empty"),
        ("  - {name: b, match: {path: b}, files: .}", '8: routes[1].match.path: "b" is no path: it begins with one /'),
        # --- what is lacking
        ("  - match: {path: /b}\n    files: .", "8: routes[1].name: is required"),
        ("  - name: b\n    backend:\n      framing: lines", "9: routes[1].backend: needs endpoints, or endpoint_from"),
        ("  - {name: b, backend: {endpoints: []}}", "8: routes[1].backend.endpoints: must have at least one item"),
        (
            "    csp: ${CSP}",
            "8: routes[0].csp: the environment variable CSP is not set; set it, or write ${CSP:-default}",
        ),
    ],
)
def test_a_fault_has_its_line_its_path_and_words_that_help(tmp_path: Path, addition: str, fault: str) -> None:
    assert faults_of(tmp_path, GOOD + addition + "\n") == [fault]


def test_a_long_value_is_cut_in_messages(tmp_path: Path) -> None:
    assert faults_of(tmp_path, GOOD + f"log: {{format: {'x' * 500}}}\n") == [
        f'8: log.format: must be one of json, console, not "{"x" * 60}..."'
    ]


def test_what_has_no_words_of_ours_has_those_of_the_validator(tmp_path: Path) -> None:
    addition = f"    limits: {{connections: '{'9' * 5000}'}}\n"
    assert faults_of(tmp_path, GOOD + addition) == [
        "8: routes[0].limits.connections: Unable to parse input string as an integer, exceeded maximum size"
    ]


def test_a_name_is_bounded_because_it_becomes_a_label(tmp_path: Path) -> None:
    addition = f"  - {{name: {'a' * 64}, files: .}}\n"
    assert faults_of(tmp_path, GOOD + addition) == ["8: routes[1].name: must be at most 63 characters"]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("log: {}\n", ["1: listeners: is required", "1: routes: is required"]),
        (
            "listeners: []\nroutes: []\n",
            ["1: listeners: must have at least one item", "2: routes: must have at least one item"],
        ),
        (
            "listeners:\nroutes: {}\n",
            ["1: listeners: must be a list, not null", "2: routes: must be a list, not a mapping"],
        ),
        (
            "listeners: [1]\nroutes: [a]\n",
            ["1: listeners[0]: must be a mapping, not 1", '2: routes[0]: must be a mapping, not "a"'],
        ),
        ("", ["1: is empty; listeners and routes are required"]),
        ("routes: [\n", ["1: is not YAML: something is opened here that is never closed; is a ] or } missing?"]),
    ],
)
def test_a_file_that_lacks_everything_says_so(tmp_path: Path, text: str, faults: list[str]) -> None:
    assert faults_of(tmp_path, text) == faults


def test_all_faults_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
listeners:
  - bind: 0.0.0.0:8080
  - bind: nowhere
  - bind: 127.0.0.1:8080
timeout: {}
routes:
  - match: {path: /a}
    files: .
  - name: chat
    match: {path: /chat}
    timeouts: {close: 5}
    backend:
      endpoints: ["http://a", "tcp://${A}:1", unix:///b, unix:///b]
      proxy_protocol: v2
      framing: records
    limits: {message_bytes: 1GiB, connections: -1}
    compression: {enabled: true}
  - name: chat
    name: talk
    match: {path: /chat}
    files: nowhere
"""
    endpoints = "routes[1].backend.endpoints"
    assert faults_of(tmp_path, text) == [
        '3: listeners[1].bind: "nowhere" has no port; write host:port or [v6]:port',
        "4: listeners[2].bind: 127.0.0.1:8080 is taken already; see listeners[0].bind in line 2",
        "5: timeout: is not a known key; did you mean timeouts?",
        "7: routes[0].name: is required",
        "11: routes[1].timeouts.close: 5 has no unit; write 5s for seconds, or 5ms, 5m, 5h",
        f"13: {endpoints}[1]: the environment variable A is not set; set it, or write ${{A:-default}}",
        f'13: {endpoints}[0]: "http://a" must begin with tcp://, tls:// or unix://',
        f"13: {endpoints}[3]: unix:///b stands here already; see {endpoints}[2] in line 13",
        "14: routes[1].backend.proxy_protocol: cannot precede framing records, whose OPEN names the client already",
        "16: routes[1].limits.connections: must be at least 1, not -1",
        "17: routes[1].compression.enabled: needs limits.message_bytes of 64MiB at most, which bounds inflation",
        '18: routes[2].name: "chat" is taken already; see routes[1].name in line 9',
        "19: routes[2].name: stands here again; line 18 has it already",
        "20: routes[2].match: /chat on any host is taken already; see routes[1].match in line 10",
        f"21: routes[2].files: {tmp_path}/nowhere is not a folder",
    ]


def test_the_lines_are_those_of_the_file_also_when_variables_hold_line_breaks(tmp_path: Path) -> None:
    text = "trusted_proxies:\n  - ${NETWORK}\nlog: {level: loud}\n" + GOOD
    assert [fault.split(": ")[:2] for fault in faults_of(tmp_path, text, NETWORK="a\nb\nc")] == [
        ["2", "trusted_proxies[0]"],
        ["3", "log.level"],
    ]


def test_a_secret_is_in_no_message(tmp_path: Path) -> None:
    for token in ("987654321", "[hunter2]", "{hunter2: 1}"):
        faults = faults_of(tmp_path, GOOD + f"admin: {{token: {token}}}\n")
        assert len(faults) == 1
        assert "987654321" not in faults[0]
        assert "hunter2" not in faults[0].removeprefix("8: admin.token")


def test_a_file_that_is_not_there_is_told_from_a_faulty_one(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigUnreadable) as caught:
        load(path)
    assert str(caught.value) == f"{path}: there is no such file; give the path of the configuration"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_that_is_not_utf_8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "kakitome.yaml"
    path.write_bytes(b"# one\nlog: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2: is not UTF-8: it has the byte 0xff"


def test_paths_are_written_as_operators_read_them() -> None:
    assert dotted(("routes", 0, "backend", "endpoints", 1)) == "routes[0].backend.endpoints[1]"
    assert dotted(()) == ""


def test_faults_of_names_and_values_do_not_hide_those_of_files_beside_them(tmp_path: Path) -> None:
    """A required key that is missing or faulty does not take its whole section out of the other rules' sight."""
    file = tmp_path / "kakitome.yaml"
    file.write_text(
        """\
listeners:
  - tls: {certificate: gone.crt, key: gone.key}
  - bind: nowhere
    owner: nobody-of-ours
routes:
  - files: gone
  - name: not a name
    match: {path: /a}
    files: also-gone
  - name: chat
    match: {path: /b}
    timeouts: {close: 5}
    backend:
      endpoints: [9000]
      tls: {ca: gone.ca}
      framing: lines
      headers: [cookie]
  - name: chat
    match: {path: /x}
    files: .
"""
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    told = [(problem.line, problem.path) for problem in caught.value.problems]
    assert told == [
        (2, "listeners[0].bind"),
        (2, "listeners[0].tls.certificate"),
        (2, "listeners[0].tls.key"),
        (3, "listeners[1].bind"),
        (4, "listeners[1].owner"),
        (6, "routes[0].name"),
        (6, "routes[0].files"),
        (7, "routes[1].name"),
        (9, "routes[1].files"),
        (12, "routes[2].timeouts.close"),
        (14, "routes[2].backend.endpoints[0]"),
        (15, "routes[2].backend.tls.ca"),
        (17, "routes[2].backend.headers"),
        (18, "routes[3].name"),
    ]
