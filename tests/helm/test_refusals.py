"""Values that are refused, and what their author is told."""

from typing import Any, Final

import helm_python
import pytest

from tests.helm.chart import render

ROUTE: Final = {"name": "chat", "backend": {"endpoints": ["tcp://chat:9000"]}}


def routed(**keys: Any) -> dict[str, Any]:
    return {"config": {"routes": [ROUTE | keys]}}


BY_SCHEMA: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "unknown key": ({"ingres": {}}, "additional properties 'ingres' not allowed"),
    "unknown key below": ({"image": {"tags": "1"}}, "at '/image': additional properties 'tags' not allowed"),
    "wrong type": ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
    "text for a number": ({"replicaCount": "2"}, "at '/replicaCount': got string, want integer"),
    "section taken out": ({"service": None}, "missing property 'service'"),
    "needed value taken out": ({"service": {"port": None}}, "at '/service': missing property 'port'"),
    "port out of range": ({"service": {"port": 70000}}, "at '/service/port': maximum"),
    "unknown service type": ({"service": {"type": "Loadbalancer"}}, "at '/service/type': value must be one of"),
    "annotation that is no text": ({"podAnnotations": {"a": True}}, "at '/podAnnotations/a': got boolean, want string"),
    "environment that is no text": ({"extraEnv": [{"name": "A", "value": 1}]}, "'/extraEnv/0/value': got number"),
    "environment by name": ({"extraEnv": {"A": "1"}}, "at '/extraEnv': got object, want array"),
    "digest cut short": ({"image": {"digest": "sha256:12"}}, "at '/image/digest': 'sha256:12' does not match pattern"),
    "nobody left": ({"keda": {"minReplicaCount": 0}}, "at '/keda/minReplicaCount': minimum: got 0, want 1"),
    "spread by nothing": ({"topologySpreadConstraints": [{"maxSkew": 1}]}, "missing properties"),
    "path that is none": ({"ingress": {"hosts": [{"host": "a", "paths": [{"path": "ws"}]}]}}, "'ws' does not match"),
    "old TLS": ({"tls": {"minimumVersion": "1.1"}}, "at '/tls/minimumVersion': value must be one of '1.2', '1.3'"),
    "gateway: unknown key": ({"config": {"limits": {}}}, "at '/config': additional properties 'limits' not allowed"),
    "gateway: misspelt key": (
        routed(orgins=["*"]),
        "at '/config/routes/0': additional properties 'orgins' not allowed",
    ),
    "gateway: key of another section": (
        {"config": {"listeners": [{"bind": "0.0.0.0:8080", "token": "x"}]}},
        "at '/config/listeners/0': additional properties 'token' not allowed",
    ),
    "gateway: neither backend nor files": (
        {"config": {"routes": [{"name": "chat"}]}},
        "at '/config/routes/0': missing property 'backend'",
    ),
    "gateway: no endpoint": (
        {"config": {"routes": [{"name": "chat", "backend": {"endpoints": ["http://chat"]}}]}},
        "at '/config/routes/0/backend/endpoints/0': 'http://chat' does not match pattern",
    ),
    "gateway: unknown framing": (
        {"config": {"routes": [{"name": "chat", "backend": {"endpoints": ["tcp://a:1"], "framing": "xml"}}]}},
        "value must be one of 'stream', 'lines', 'length_prefixed', 'records'",
    ),
    "gateway: duration without a unit": (
        routed(timeouts={"idle": "60"}),
        "at '/config/routes/0/timeouts/idle': '60' does not match pattern",
    ),
    "gateway: drain as a number": ({"config": {"timeouts": {"drain": 30}}}, "at '/config/timeouts/drain': got number"),
    "gateway: unknown log level": ({"config": {"log": {"level": "loud"}}}, "at '/config/log/level': value must be one"),
}

BY_TEMPLATE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "too little time to end": (
        {"terminationGracePeriodSeconds": 34},
        (
            "terminationGracePeriodSeconds is 34, but a pod needs 35 seconds to end: the preStop sleep of 5 s and "
            "config.timeouts.drain of 30s. Set it to 35 at least."
        ),
    ),
    "too long a drain": (
        {"config": {"timeouts": {"drain": "1h30m500ms"}}},
        "but a pod needs 5406 seconds to end",
    ),
    "too long a preStop": ({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}, "a pod needs 61 seconds"),
    "a drain by default": ({"config": {"timeouts": None}, "terminationGracePeriodSeconds": 34}, "drain of 30s"),
    "a drain in the dark": ({"config": {"timeouts": {"drain": "${DRAIN:-30s}"}}}, "write the duration out"),
    "no listener": ({"config": {"listeners": []}}, "Nobody could connect: config.listeners has no listener"),
    "only a local listener": ({"config": {"listeners": [{"bind": "127.0.0.1:80"}]}}, "Nobody could connect"),
    "a port in the dark": ({"config": {"listeners": [{"bind": "0.0.0.0:${PORT}"}]}}, "listeners[0].bind is"),
    "a port that is any": ({"config": {"listeners": [{"bind": "0.0.0.0:0"}]}}, "has no port of 1 to 65535"),
    "no admin listener": ({"config": {"admin": None}}, "The probes need the admin listener: set config.admin.bind"),
    "a local admin listener": ({"config": {"admin": {"bind": "127.0.0.1:9090"}}}, "the probes cannot reach it"),
    "an admin socket": ({"config": {"admin": {"bind": "unix:/run/admin.sock"}}}, "the probes cannot reach it"),
    "one port twice": ({"config": {"admin": {"bind": "0.0.0.0:8080"}}}, "have the same port, 8080"),
    "an open token": ({"config": {"admin": {"token": "secret"}}}, "Put it into a Secret and name that in admin.exi"),
    "TLS without certificate": ({"tls": {"enabled": True}}, "tls.enabled needs a certificate"),
    "TLS with two certificates": (
        {"tls": {"enabled": True, "existingSecret": "a", "certManager": {"enabled": True}}},
        "both say where the certificate comes from",
    ),
    "a certificate without TLS": ({"tls": {"certManager": {"enabled": True}}}, "does nothing without tls.enabled"),
    "a certificate of nobody": (
        {"tls": {"enabled": True, "certManager": {"enabled": True, "dnsNames": ["a"]}}},
        "needs tls.certManager.issuerRef",
    ),
    "a certificate for nobody": (
        {"tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": {"name": "a"}}}},
        "needs tls.certManager.dnsNames",
    ),
    "two routes of one name": (
        {"config": {"routes": [ROUTE]}, "routes": {"chat": {"backend": ROUTE["backend"]}}},
        "Two routes are named chat, in config.routes or routes.",
    ),
    "two routes of one name in one list": ({"config": {"routes": [ROUTE, ROUTE]}}, "Two routes are named chat"),
    "egress to nobody": (
        {"config": {"routes": [ROUTE]}, "networkPolicy": {"enabled": True, "egress": {"enabled": True}}},
        "lets the gateway reach DNS and no backend",
    ),
    "IPv6 before listeners without it": (
        {"service": {"ipFamilies": ["IPv6"]}},
        "a listener is bound to 0.0.0.0:8080, which hears IPv4 only. Write [::]:8080",
    ),
    "both families before a TLS listener of one": (
        {
            "service": {"ipFamilyPolicy": "RequireDualStack"},
            "config": {"listeners": [{"bind": "[::]:8080"}]},
            "tls": {"enabled": True, "existingSecret": "a"},
        },
        "Write [::]:8443",
    ),
    "two autoscalers": ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "Enable one of them"),
    "autoscaling by nothing": (
        {"autoscaling": {"enabled": True, "targetCPU": None}},
        "autoscaling.enabled needs something to scale by",
    ),
    "autoscaling upside down": ({"autoscaling": {"enabled": True, "minReplicas": 11}}, "minReplicas is more than"),
    "KEDA by nothing": ({"keda": {"enabled": True}}, "keda.enabled needs something to scale by"),
    "KEDA upside down": (
        {"keda": {"enabled": True, "minReplicaCount": 11, "prometheus": {"serverAddress": "http://p"}}},
        "keda.minReplicaCount is more than keda.maxReplicaCount",
    ),
    "an Ingress for nobody": ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.hosts"),
    "an Ingress to nowhere": (
        {"ingress": {"enabled": True, "servicePort": "wss", "hosts": [{"host": "a"}]}},
        "ingress.servicePort is wss, but the Service has ws.",
    ),
    "an HTTPRoute on nothing": ({"httpRoute": {"enabled": True}}, "httpRoute.enabled needs httpRoute.parentRefs"),
    "two monitors": ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "every pod twice"),
    "a monitor of nothing": (
        {"serviceMonitor": {"enabled": True}, "adminService": {"enabled": False}},
        "serviceMonitor.enabled needs adminService.enabled",
    ),
    "a monitor without its token": (
        {"podMonitor": {"enabled": True, "namespace": "monitoring"}, "admin": {"existingSecret": "secrets"}},
        "Leave podMonitor.namespace empty.",
    ),
}


@pytest.mark.parametrize("case", BY_SCHEMA)
def test_the_schema_refuses(case: str) -> None:
    values, message = BY_SCHEMA[case]
    with pytest.raises(helm_python.HelmValuesError) as caught:
        render(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", BY_TEMPLATE)
def test_the_templates_refuse_what_contradicts_itself(case: str) -> None:
    values, message = BY_TEMPLATE[case]
    with pytest.raises(helm_python.HelmRenderError) as caught:
        render(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("seconds", [35, 36])
def test_just_enough_time_to_end_is_enough(seconds: int) -> None:
    assert render({"terminationGracePeriodSeconds": seconds}).pod["terminationGracePeriodSeconds"] == seconds


def test_values_of_a_parent_chart_are_no_fault() -> None:
    assert render({"global": {"imageRegistry": "registry.example.com"}, "enabled": True}).objects
