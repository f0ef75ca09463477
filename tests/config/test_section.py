"""Sections of the configuration: frozen, closed, and found through what stands around them."""

import pytest
from pydantic import ValidationError

from gateway.config import (
    Backend,
    Config,
    Endpoint,
    Listener,
    Route,
    TcpAddress,
    Timeouts,
)
from gateway.config.section import section_in

ENDPOINT = Endpoint(scheme="tcp", address=TcpAddress(host="127.0.0.1", port=9000))
CONFIG = Config(
    listeners=(Listener(bind=TcpAddress(host="127.0.0.1", port=0)),),
    routes=(Route(name="chat", backend=Backend(endpoints=(ENDPOINT,))),),
)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.timeouts = Timeouts()


def test_a_section_is_found_through_optional_and_list() -> None:
    assert section_in(Route.model_fields["backend"].annotation) is Backend
    assert section_in(Config.model_fields["routes"].annotation) is Route
    assert section_in(Config.model_fields["trusted_proxies"].annotation) is None
