"""JSON Schemas of the custom resources that the chart makes, cut down to the fields that it may set.

They are strict: a field that is not here is a fault, so a new one in a template has to be looked up and added, in the
resources' published definitions: Gateway API v1, Prometheus operator v1, KEDA v1alpha1, cert-manager v1.
"""

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string", "minLength": 1}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
PORT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}


def _mapping(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _list(items: Schema, **more: int) -> Schema:
    return {"type": "array", "items": items, **more}


def _matching(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _resource(api_version: str, kind: str, spec: Schema) -> Schema:
    metadata = _mapping("name", "namespace", "labels", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return _mapping(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


_SELECTOR: Final = _mapping("matchLabels", matchLabels=TEXTS)

# --- Gateway API --------------------------------------------------------------------------------------------------

_GATEWAY_DURATION: Final = _matching("^([0-9]{1,5}(h|m|s|ms)){1,4}$")
_HTTP_ROUTE: Final = _mapping(
    "parentRefs",
    "rules",
    parentRefs=_list(
        _mapping("name", group=TEXT, kind=TEXT, name=TEXT, namespace=TEXT, sectionName=TEXT, port=PORT), maxItems=32
    ),
    hostnames=_list(_matching(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")),
    rules=_list(
        _mapping(
            "backendRefs",
            name=TEXT,
            matches=_list(
                _mapping(
                    path=_mapping(
                        "value",
                        type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                        value=_matching("^/"),
                    ),
                    headers=_list({"type": "object"}),
                )
            ),
            filters=_list({"type": "object", "required": ["type"]}),
            backendRefs=_list(_mapping("name", "port", name=TEXT, port=PORT, weight=COUNT)),
            timeouts=_mapping(request=_GATEWAY_DURATION, backendRequest=_GATEWAY_DURATION),
            sessionPersistence={"type": "object"},
        ),
        minItems=1,
        maxItems=16,
    ),
)

# --- Prometheus operator ------------------------------------------------------------------------------------------

_PROMETHEUS_DURATION: Final = _matching(
    "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
)
_RELABELINGS: Final = _list(
    _mapping(
        sourceLabels=_list(TEXT),
        separator={"type": "string"},
        targetLabel=TEXT,
        regex={"type": "string"},
        modulus=COUNT,
        replacement={"type": "string"},
        action=TEXT,
    )
)
_ENDPOINT: Final = _mapping(
    "port",
    port=TEXT,
    path=_matching("^/"),
    interval=_PROMETHEUS_DURATION,
    scrapeTimeout=_PROMETHEUS_DURATION,
    honorLabels={"type": "boolean"},
    authorization=_mapping("credentials", type=TEXT, credentials=_mapping("key", name=TEXT, key=TEXT)),
    relabelings=_RELABELINGS,
    metricRelabelings=_RELABELINGS,
)
_NAMESPACES: Final = _mapping(matchNames=_list(TEXT))
_SERVICE_MONITOR: Final = _mapping(
    "endpoints",
    "selector",
    namespaceSelector=_NAMESPACES,
    selector=_SELECTOR,
    jobLabel=TEXT,
    targetLabels=_list(TEXT),
    endpoints=_list(_ENDPOINT),
)
_POD_MONITOR: Final = _mapping(
    "podMetricsEndpoints",
    "selector",
    namespaceSelector=_NAMESPACES,
    selector=_SELECTOR,
    jobLabel=TEXT,
    podTargetLabels=_list(TEXT),
    podMetricsEndpoints=_list(_ENDPOINT),
)
_RULE: Final = _mapping(
    "expr",
    alert=TEXT,
    record=_matching("^[a-zA-Z_:][a-zA-Z0-9_:]*$"),
    expr={"type": ["string", "integer"]},
    labels=TEXTS,
    annotations=TEXTS,
    keep_firing_for=_PROMETHEUS_DURATION,
    **{"for": _PROMETHEUS_DURATION},
)
_PROMETHEUS_RULE: Final = _mapping(
    "groups",
    groups=_list(
        _mapping(
            "name",
            "rules",
            name=TEXT,
            interval=_PROMETHEUS_DURATION,
            rules=_list({**_RULE, "oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}, minItems=1),
        )
    ),
)

# --- KEDA ---------------------------------------------------------------------------------------------------------

_SCALED_OBJECT: Final = _mapping(
    "scaleTargetRef",
    "triggers",
    scaleTargetRef=_mapping("name", name=TEXT, apiVersion=TEXT, kind=TEXT),
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    fallback=_mapping("failureThreshold", "replicas", failureThreshold=COUNT, replicas=COUNT, behavior=TEXT),
    advanced=_mapping(horizontalPodAutoscalerConfig=_mapping(behavior={"type": "object"})),
    triggers=_list(
        _mapping(
            "type",
            "metadata",
            type=TEXT,
            name=TEXT,
            metadata=TEXTS,
            metricType={"enum": ["AverageValue", "Value", "Utilization"]},
            authenticationRef=_mapping("name", name=TEXT, kind=TEXT),
        ),
        minItems=1,
    ),
)

# --- cert-manager -------------------------------------------------------------------------------------------------

_CERTIFICATE: Final = _mapping(
    "secretName",
    "issuerRef",
    secretName=TEXT,
    dnsNames=_list(TEXT, minItems=1),
    issuerRef=_mapping("name", name=TEXT, kind=TEXT, group=TEXT),
    duration=_matching("^([0-9]+(h|m|s))+$"),
    renewBefore=_matching("^([0-9]+(h|m|s))+$"),
    usages=_list({"enum": ["digital signature", "key encipherment", "server auth"]}),
    privateKey=_mapping(
        algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
        encoding={"enum": ["PKCS1", "PKCS8"]},
        rotationPolicy={"enum": ["Never", "Always"]},
        size=COUNT,
    ),
)

CUSTOM_RESOURCES: Final = {
    f"{api_version}/{kind}": _resource(api_version, kind, spec)
    for api_version, kind, spec in (
        ("gateway.networking.k8s.io/v1", "HTTPRoute", _HTTP_ROUTE),
        ("monitoring.coreos.com/v1", "ServiceMonitor", _SERVICE_MONITOR),
        ("monitoring.coreos.com/v1", "PodMonitor", _POD_MONITOR),
        ("monitoring.coreos.com/v1", "PrometheusRule", _PROMETHEUS_RULE),
        ("keda.sh/v1alpha1", "ScaledObject", _SCALED_OBJECT),
        ("cert-manager.io/v1", "Certificate", _CERTIFICATE),
    )
}
"""By `apiVersion/kind`."""
