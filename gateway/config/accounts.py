"""Users and groups of this machine, by the name or number that an operator writes."""

import grp
import pwd


def user_id(text: str) -> int:
    """The number of the user. Raises ValueError for a name that this machine does not know."""
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f'there is no user "{text}" on this machine; write another name, or a number') from None


def group_id(text: str) -> int:
    """The number of the group. Raises ValueError for a name that this machine does not know."""
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f'there is no group "{text}" on this machine; write another name, or a number') from None
