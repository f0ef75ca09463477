"""Users and groups by name or number, as an operator writes them."""

import grp
import os
import pwd
from collections.abc import Callable

import pytest

from gateway.config.accounts import group_id, user_id


def test_this_machines_own_names_are_known() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    assert user_id(user.pw_name) == user.pw_uid
    assert group_id(group.gr_name) == group.gr_gid


@pytest.mark.parametrize("number_of", [user_id, group_id])
def test_a_number_needs_no_name(number_of: Callable[[str], int]) -> None:
    """In a container the number of a user outside has no name."""
    assert number_of("4294967") == 4294967


@pytest.mark.parametrize(("number_of", "kind"), [(user_id, "user"), (group_id, "group")])
@pytest.mark.parametrize("name", ["nobody-of-ours", "-1", "1.5", "٣x", ""])
def test_an_unknown_name_is_told_with_what_to_do(number_of: Callable[[str], int], kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=f'there is no {kind} "{name}" on this machine; write another name'):
        number_of(name)
