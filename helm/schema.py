"""The chart's values.schema.json: every value's type, and the gateway's own schema for `config`.

Most of it follows from values.yaml: which keys there are, and of what type. What a default cannot tell stands here.

Invariant: a key that values.yaml does not have is refused, and so is the removal (null) of one that templates need.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.config.schema import schema as config_schema
from helm.values import KeyPath, Section, Value

Schema = dict[str, Any]

NAME: Final[Schema] = {"type": "string", "minLength": 1}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
"""Labels and annotations: Kubernetes refuses numbers and booleans there, so they need quotes."""
PORT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
ONE_OR_MORE: Final[Schema] = {"type": "integer", "minimum": 1}
SCRAPE_DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))*$"}
GO_DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+(h|m|s))*$"}


def _maybe(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _either(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _listed(*required: str, **properties: Schema) -> Schema:
    """A list of mappings that have these keys at least."""
    items: Schema = {"type": "object", "required": list(required)}
    if properties:
        items["properties"] = properties
    return {"type": "array", "items": items}


_MONITOR: Final = {
    "labels": TEXTS,
    "annotations": TEXTS,
    "interval": SCRAPE_DURATION,
    "scrapeTimeout": SCRAPE_DURATION,
    "relabelings": _listed(),
    "metricRelabelings": _listed(),
}

PARTICULARS: Final[Mapping[str, Schema]] = {
    "admin.existingSecretKey": NAME,
    "tls.bind": {"type": "string", "pattern": "^.+:[0-9]{1,5}$"},
    "tls.minimumVersion": _either("1.2", "1.3"),
    "tls.certManager.dnsNames": {"type": "array", "items": NAME},
    "tls.certManager.issuerRef": {
        "type": "object",
        "properties": {"name": NAME, "kind": NAME, "group": NAME},
        "additionalProperties": False,
    },
    "tls.certManager.duration": GO_DURATION,
    "tls.certManager.renewBefore": GO_DURATION,
    "tls.certManager.annotations": TEXTS,
    "tls.clientCa.key": NAME,
    "image.repository": NAME,
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": _either("Always", "IfNotPresent", "Never"),
    "routes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
    "secrets": {"type": "array", "items": NAME, "uniqueItems": True},
    "existingConfigMap": {"type": "string"},
    "global.imagePullSecrets": {"type": "array", "items": {"type": ["string", "object"]}},
    "imagePullSecrets": _listed("name", name=NAME),
    "commonLabels": TEXTS,
    "commonAnnotations": TEXTS,
    "replicaCount": COUNT,
    "strategy": {
        "type": "object",
        "properties": {"type": _either("RollingUpdate", "Recreate"), "rollingUpdate": {"type": ["object", "null"]}},
        "additionalProperties": False,
    },
    "minReadySeconds": COUNT,
    "revisionHistoryLimit": COUNT,
    "serviceAccount.annotations": TEXTS,
    "deploymentAnnotations": TEXTS,
    "podAnnotations": TEXTS,
    "podLabels": TEXTS,
    "terminationGracePeriodSeconds": COUNT,
    "nodeSelector": TEXTS,
    "tolerations": _listed(),
    "podAntiAffinity": _either("soft", "hard", "none"),
    "topologySpreadConstraints": _listed("topologyKey", "maxSkew", "whenUnsatisfiable"),
    "hostAliases": _listed("ip"),
    "dnsPolicy": _either("", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "extraEnv": _listed("name", name=NAME, value={"type": "string"}),
    "extraEnvFrom": _listed(),
    "extraVolumes": _listed("name"),
    "extraVolumeMounts": _listed("name", "mountPath"),
    "extraContainers": _listed("name"),
    "initContainers": _listed("name"),
    "podDisruptionBudget.minAvailable": {"type": ["integer", "string", "null"], "pattern": "^([0-9]+%)?$"},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string", "null"], "pattern": "^([0-9]+%)?$"},
    "podDisruptionBudget.unhealthyPodEvictionPolicy": _either("AlwaysAllow", "IfHealthyBudget"),
    "autoscaling.minReplicas": ONE_OR_MORE,
    "autoscaling.maxReplicas": ONE_OR_MORE,
    "autoscaling.targetCPU": {"type": ["string", "null"], "pattern": "^[0-9.]+m?$"},
    "autoscaling.targetCPUUtilizationPercentage": _maybe(ONE_OR_MORE),
    "autoscaling.targetMemoryUtilizationPercentage": _maybe(ONE_OR_MORE),
    "autoscaling.targetConnections": _maybe(ONE_OR_MORE),
    "autoscaling.connectionsMetric": NAME,
    "autoscaling.metrics": _listed("type"),
    "keda.minReplicaCount": ONE_OR_MORE,
    "keda.maxReplicaCount": ONE_OR_MORE,
    "keda.pollingInterval": ONE_OR_MORE,
    "keda.cooldownPeriod": COUNT,
    "keda.prometheus.threshold": ONE_OR_MORE,
    "keda.triggers": _listed("type"),
    "keda.annotations": TEXTS,
    "service.type": _either("ClusterIP", "NodePort", "LoadBalancer"),
    "service.port": PORT,
    "service.tlsPort": PORT,
    "service.nodePort": _maybe(PORT),
    "service.tlsNodePort": _maybe(PORT),
    "service.appProtocol": {"type": ["string", "null"]},
    "service.tlsAppProtocol": {"type": ["string", "null"]},
    "service.annotations": TEXTS,
    "service.labels": TEXTS,
    "service.sessionAffinity": _either("None", "ClientIP"),
    "service.externalTrafficPolicy": _either("", "Cluster", "Local"),
    "service.internalTrafficPolicy": _either("", "Cluster", "Local"),
    "service.loadBalancerSourceRanges": {"type": "array", "items": NAME},
    "service.externalIPs": {"type": "array", "items": NAME},
    "service.ipFamilyPolicy": _either("", "SingleStack", "PreferDualStack", "RequireDualStack"),
    "service.ipFamilies": {"type": "array", "items": _either("IPv4", "IPv6")},
    "adminService.type": _either("ClusterIP", "NodePort", "LoadBalancer"),
    "adminService.port": PORT,
    "adminService.appProtocol": {"type": ["string", "null"]},
    "adminService.annotations": TEXTS,
    "adminService.labels": TEXTS,
    "ingress.annotations": TEXTS,
    "ingress.labels": TEXTS,
    "ingress.servicePort": {"type": "string", "pattern": "^wss?(-[0-9]+)?$"},
    "ingress.hosts": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "host": {"type": "string"},
                "paths": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["path"],
                        "properties": {
                            "path": {"type": "string", "pattern": "^/"},
                            "pathType": _either("Prefix", "Exact", "ImplementationSpecific"),
                        },
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
    },
    "ingress.tls": _listed(),
    "httpRoute.annotations": TEXTS,
    "httpRoute.labels": TEXTS,
    "httpRoute.parentRefs": _listed("name", name=NAME),
    "httpRoute.hostnames": {"type": "array", "items": NAME},
    "httpRoute.port": _maybe(PORT),
    "httpRoute.rules": _listed() | {"minItems": 1},
    "networkPolicy.ingress.from": _listed(),
    "networkPolicy.admin.from": _listed(),
    "networkPolicy.extraIngress": _listed(),
    "networkPolicy.egress.rules": _listed(),
    **{f"serviceMonitor.{key}": schema for key, schema in _MONITOR.items()},
    **{f"podMonitor.{key}": schema for key, schema in _MONITOR.items()},
    "serviceMonitor.targetLabels": {"type": "array", "items": NAME},
    "podMonitor.podTargetLabels": {"type": "array", "items": NAME},
    "prometheusRule.labels": TEXTS,
    "prometheusRule.annotations": TEXTS,
    "prometheusRule.disabledAlerts": {"type": "array", "items": NAME},
    "prometheusRule.additionalAlertLabels": TEXTS,
    "prometheusRule.additionalGroups": _listed("name", "rules"),
    "grafanaDashboards.labels": TEXTS,
    "grafanaDashboards.annotations": TEXTS,
    "helmTest.timeoutSeconds": ONE_OR_MORE,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}
"""By key: what the type of the default value does not tell."""

_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def values_schema(sections: tuple[Section, ...]) -> Schema:
    """The whole schema."""
    root = _object()
    values = [value for section in sections for value in section.values]
    for value in values:
        if value.path[0] != "config":
            _add(root, value.path, _leaf(value), is_required=_is_required(value))
    unknown = PARTICULARS.keys() - {value.key for value in values}
    assert not unknown, f"values.yaml has no {sorted(unknown)}"
    root["properties"]["config"] = chart_config_schema()
    root["required"].append("config")
    # What Helm itself hands to a chart that is a dependency of another one.
    # Other charts of a release have values of their own in it.
    root["properties"]["global"]["additionalProperties"] = True
    root["properties"]["enabled"] = {"type": "boolean", "description": "The condition of a dependency on this chart."}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the Kakitome chart", **root}


def chart_config_schema() -> Schema:
    """The gateway's schema, with what the chart adds to a configuration allowed to be missing from it."""
    schema = config_schema()
    del schema["$schema"]
    properties = schema["properties"]
    for key in ("listeners", "routes"):  # tls.enabled adds a listener; without routes there are the demonstration's
        del properties[key]["minItems"]
    properties["admin"] = next(choice for choice in properties["admin"]["anyOf"] if "properties" in choice)
    return schema


def _object() -> Schema:
    return {"type": "object", "additionalProperties": False, "required": [], "properties": {}}


def _add(root: Schema, path: KeyPath, schema: Schema, *, is_required: bool) -> None:
    parent = root
    for key in path[:-1]:
        if key not in parent["properties"]:
            parent["properties"][key] = _object()
            parent["required"].append(key)
        parent = parent["properties"][key]
    parent["properties"][path[-1]] = schema
    if is_required:
        parent["required"].append(path[-1])


def _leaf(value: Value) -> Schema:
    # A null default has no type: PARTICULARS must have it.
    schema = PARTICULARS.get(value.key) or {"type": _TYPES[type(value.default)]}
    return {"description": value.description, **schema}


def _is_required(value: Value) -> bool:
    """Whether templates put the value into an object as it is: null would remove it, and leave a hole there."""
    may_be_null = "null" in PARTICULARS.get(value.key, {}).get("type", ())
    return isinstance(value.default, bool | int | str) and value.default != "" and not may_be_null
