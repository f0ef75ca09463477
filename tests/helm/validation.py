"""Judges objects as the API server would: by Kubernetes' own schemas, and by ours for kinds that it does not know.

Strict: a field that does not exist is a fault, while the API server drops it without a word.
"""

from functools import cache
from typing import Any, Final

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import kubernetes_validate.utils  # type: ignore[import-untyped]

from tests.helm.chart import Object
from tests.helm.custom_resources import CUSTOM_RESOURCES

VERSIONS: Final = ("1.30", "1.37")
"""The oldest Kubernetes that Chart.yaml admits, and the newest that kubernetes-validate knows."""

# It reads its 2 MB of definitions again for every object.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def problem_of(subject: Object, version: str) -> str | None:
    """What is wrong with an object, None when nothing is."""
    kind = f"{subject['apiVersion']}/{subject['kind']}"
    try:
        if kind in CUSTOM_RESOURCES:
            _validator(kind).validate(subject)
        else:
            kubernetes_validate.validate(subject, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as fault:
        return f"{kind} {'.'.join(map(str, fault.absolute_path))}: {fault.message}"
    return None


@cache
def _validator(kind: str) -> Any:
    schema = CUSTOM_RESOURCES[kind]
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
