"""What every mapping of the configuration file is made of."""

from typing import get_args

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every mapping in the file: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def section_in(annotation: object) -> type[Section] | None:
    """The section that a field's annotation is made of: itself, optional, or in a list; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)
