"""What a request shows of whoever sent it, and that it is in no log by accident."""

from tests.access.doubles import evidence


def test_evidence_is_shown_without_the_credential_or_anything_of_the_request() -> None:
    shown = evidence("s3cret", headers=(("authorization", "Bearer s3cret"),), target="/chat?token=s3cret")
    assert "s3cret" not in repr(shown)
    assert "s3cret" not in f"{shown} {[shown]}"
    assert "chat" in repr(shown)
