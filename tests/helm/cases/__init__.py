"""The chart's features, each alone: the values that ask for it, and what must come out."""

from collections.abc import Mapping
from typing import Any, Final

from tests.helm.cases import gateway, network, observation, pods
from tests.helm.cases.case import CONTAINER, POD, Case
from tests.helm.chart import ABSENT, Values

__all__ = ["DEFAULTS", "EVERYTHING", "FEATURES", "Case"]

DEFAULTS: Final = Case(
    expected={
        "Deployment: spec.replicas": 1,
        POD + "terminationGracePeriodSeconds": 60,
        POD + "automountServiceAccountToken": False,
        POD + "enableServiceLinks": False,
        POD + "securityContext.runAsNonRoot": True,
        POD + "securityContext.runAsUser": 65532,
        POD + "securityContext.runAsGroup": 65532,
        POD + "securityContext.fsGroup": 65532,
        POD + "securityContext.seccompProfile.type": "RuntimeDefault",
        POD + "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]": {
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {
                    "matchLabels": {"app.kubernetes.io/name": "kakitome", "app.kubernetes.io/instance": "kakitome"}
                },
            },
        },
        CONTAINER + "image": "kakitome:0.1.0",
        CONTAINER + "imagePullPolicy": "IfNotPresent",
        CONTAINER + "command": ["kakitome"],
        CONTAINER + "args": ["serve", "--config", "/etc/kakitome/kakitome.yaml"],
        CONTAINER + "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        CONTAINER + "ports[name=ws].containerPort": 8080,
        CONTAINER + "ports[name=wss]": ABSENT,
        CONTAINER + "ports[name=admin].containerPort": 9090,
        CONTAINER + "startupProbe.httpGet": {"path": "/healthz", "port": "admin"},
        CONTAINER + "livenessProbe.httpGet": {"path": "/healthz", "port": "admin"},
        CONTAINER + "readinessProbe.httpGet": {"path": "/readyz", "port": "admin"},
        CONTAINER + "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        CONTAINER + "resources.limits.cpu": ABSENT,
        CONTAINER + "env": ABSENT,
        CONTAINER + "volumeMounts[0].mountPath": "/etc/kakitome",
        CONTAINER + "volumeMounts[0].subPath": ABSENT,
        CONTAINER + "volumeMounts[1]": ABSENT,
        "Service: spec.type": "ClusterIP",
        "Service: spec.ports": [
            {"name": "ws", "port": 80, "targetPort": "ws", "protocol": "TCP", "appProtocol": "kubernetes.io/ws"}
        ],
        "Service/-admin: spec.ports": [
            {"name": "admin", "port": 9090, "targetPort": "admin", "protocol": "TCP", "appProtocol": "http"}
        ],
        "ServiceAccount: automountServiceAccountToken": False,
        "PodDisruptionBudget: spec.maxUnavailable": 1,
        "PodDisruptionBudget: spec.unhealthyPodEvictionPolicy": "AlwaysAllow",
        "config: listeners": [{"bind": "0.0.0.0:8080"}],
        "config: admin": {"bind": "0.0.0.0:9090", "open_to_network": True},
        'Pod/-test: metadata.annotations."helm.sh/hook"': "test",
        "Pod/-test: spec.containers[0].command": ["python", "-c"],
        "Ingress": ABSENT,
        "HTTPRoute": ABSENT,
        "HorizontalPodAutoscaler": ABSENT,
        "NetworkPolicy": ABSENT,
    }
)

FEATURES: Final[Mapping[str, Case]] = {**gateway.CASES, **pods.CASES, **network.CASES, **observation.CASES}


def merged(*layers: Values) -> dict[str, Any]:
    """As Helm merges values: mappings key by key, the last one wins."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


_CONTRARY: Final = frozenset(
    {
        "TLS from a Secret",
        "another chart name",
        "another full name",
        "a PodMonitor",
        "KEDA",
        "KEDA with a query of one's own",
        "a headless Service",
        "no admin Service",
        "no disruption budget",
        "no check",
        "no helm test",
        "no wait before SIGTERM",
        "probes",
        "certificates of clients",
        "a load balancer",
        "an Ingress to wss",
        "a network policy",
        "a configuration of one's own",
        "anywhere",
        "a ServiceMonitor elsewhere",
    }
)
"""Features that switch others off."""

EVERYTHING: Final = merged(
    *(case.values for name, case in FEATURES.items() if name not in _CONTRARY),
    {"config": {"listeners": [{"bind": "0.0.0.0:8080"}]}},
)
"""All features that can be on together."""
