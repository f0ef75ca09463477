"""Scaling, Services, and the ways in."""

from collections.abc import Mapping
from typing import Final

from tests.helm.cases.case import CONTAINER, Case
from tests.helm.chart import ABSENT

CASES: Final[Mapping[str, Case]] = {
    "autoscaling": Case(
        values={
            "autoscaling": {
                "enabled": True,
                "minReplicas": 3,
                "maxReplicas": 30,
                "targetCPUUtilizationPercentage": 60,
                "targetMemoryUtilizationPercentage": 80,
                "targetConnections": 12345678,
                "connectionsMetric": "relay_connections",
                "metrics": [
                    {"type": "Resource", "resource": {"name": "disk", "target": {"type": "Value", "value": 1}}}
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
            }
        },
        expected={
            "Deployment: spec.replicas": ABSENT,
            "HorizontalPodAutoscaler: spec.scaleTargetRef.name": "kakitome",
            "HorizontalPodAutoscaler: spec.minReplicas": 3,
            "HorizontalPodAutoscaler: spec.maxReplicas": 30,
            "HorizontalPodAutoscaler: spec.metrics[0].resource.target.averageUtilization": 60,
            "HorizontalPodAutoscaler: spec.metrics[1].resource.name": "memory",
            "HorizontalPodAutoscaler: spec.metrics[1].resource.target.averageUtilization": 80,
            "HorizontalPodAutoscaler: spec.metrics[2]": {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "relay_connections"},
                    "target": {"type": "AverageValue", "averageValue": "12345678"},
                },
            },
            "HorizontalPodAutoscaler: spec.metrics[3].resource.name": "disk",
            "HorizontalPodAutoscaler: spec.behavior.scaleDown.stabilizationWindowSeconds": 60,
        },
    ),
    "autoscaling by another share of the core": Case(
        values={"autoscaling": {"enabled": True, "targetCPU": "500m"}},
        expected={
            "HorizontalPodAutoscaler: spec.metrics[0].resource.target": {"type": "AverageValue", "averageValue": "500m"}
        },
    ),
    "autoscaling by CPU, slowly down": Case(
        values={"autoscaling": {"enabled": True}},
        expected={
            "HorizontalPodAutoscaler: spec.metrics[0].resource.name": "cpu",
            "HorizontalPodAutoscaler: spec.metrics[0].resource.target": {
                "type": "AverageValue",
                "averageValue": "700m",
            },
            "HorizontalPodAutoscaler: spec.metrics[1]": ABSENT,
            "HorizontalPodAutoscaler: spec.behavior.scaleUp.stabilizationWindowSeconds": 0,
            "HorizontalPodAutoscaler: spec.behavior.scaleDown.stabilizationWindowSeconds": 900,
            "HorizontalPodAutoscaler: spec.behavior.scaleDown.policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 300}
            ],
        },
    ),
    "KEDA": Case(
        values={
            "keda": {
                "enabled": True,
                "minReplicaCount": 1,
                "maxReplicaCount": 20,
                "pollingInterval": 15,
                "cooldownPeriod": 60,
                "prometheus": {
                    "serverAddress": "http://prometheus.monitoring:9090",
                    "threshold": 500,
                    "authenticationRef": {"name": "prometheus"},
                },
                "triggers": [{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "60"}}],
                "fallback": {"failureThreshold": 3, "replicas": 6},
                "annotations": {"autoscaling.keda.sh/paused": "false"},
            }
        },
        expected={
            "Deployment: spec.replicas": ABSENT,
            "ScaledObject: spec.scaleTargetRef": {"name": "kakitome"},
            "ScaledObject: spec.minReplicaCount": 1,
            "ScaledObject: spec.maxReplicaCount": 20,
            "ScaledObject: spec.pollingInterval": 15,
            "ScaledObject: spec.cooldownPeriod": 60,
            "ScaledObject: spec.fallback.replicas": 6,
            "ScaledObject: spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.selectPolicy": "Min",
            "ScaledObject: spec.triggers[0]": {
                "type": "prometheus",
                "metricType": "AverageValue",
                "metadata": {
                    "serverAddress": "http://prometheus.monitoring:9090",
                    "query": 'sum(kakitome_connections{namespace="relay",pod=~"kakitome-[a-z0-9]+-[a-z0-9]+"})',
                    "threshold": "500",
                },
                "authenticationRef": {"name": "prometheus"},
            },
            "ScaledObject: spec.triggers[1].type": "cpu",
            "ScaledObject: metadata.annotations": {"autoscaling.keda.sh/paused": "false"},
            "HorizontalPodAutoscaler": ABSENT,
        },
    ),
    "KEDA with a query of one's own": Case(
        values={"keda": {"enabled": True, "prometheus": {"serverAddress": "http://p:9090", "query": "vector(1)"}}},
        expected={"ScaledObject: spec.triggers[0].metadata.query": "vector(1)"},
    ),
    "a load balancer": Case(
        values={
            "service": {
                "type": "LoadBalancer",
                "nodePort": 30080,
                "tlsNodePort": 30443,
                "appProtocol": None,
                "loadBalancerClass": "cloud/nlb",
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
                "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Cluster",
                "trafficDistribution": "PreferClose",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3600}},
                "ipFamilyPolicy": "PreferDualStack",
                "ipFamilies": ["IPv6", "IPv4"],
                "externalIPs": ["192.0.2.1"],
            },
            "tls": {"enabled": True, "existingSecret": "web-tls", "bind": "[::]:8443"},
            "config": {"listeners": [{"bind": "[::]:8080"}], "admin": {"bind": "[::]:9090"}},
        },
        expected={
            "Service: spec.type": "LoadBalancer",
            "Service: spec.ports[name=ws].nodePort": 30080,
            "Service: spec.ports[name=ws].appProtocol": ABSENT,
            "Service: spec.ports[name=wss].nodePort": 30443,
            "Service: spec.loadBalancerClass": "cloud/nlb",
            "Service: spec.loadBalancerSourceRanges": ["192.0.2.0/24"],
            "Service: spec.externalTrafficPolicy": "Local",
            "Service: spec.internalTrafficPolicy": "Cluster",
            "Service: spec.trafficDistribution": "PreferClose",
            "Service: spec.sessionAffinity": "ClientIP",
            "Service: spec.sessionAffinityConfig.clientIP.timeoutSeconds": 3600,
            "Service: spec.ipFamilyPolicy": "PreferDualStack",
            "Service: spec.ipFamilies": ["IPv6", "IPv4"],
            "Service: spec.externalIPs": ["192.0.2.1"],
        },
    ),
    "a headless Service": Case(
        values={"service": {"clusterIP": "None"}},
        expected={"Service: spec.clusterIP": "None", "Service: spec.ports[name=ws].port": 8080},
    ),
    "another admin Service": Case(
        values={"adminService": {"type": "NodePort", "port": 80, "appProtocol": None}},
        expected={
            "Service/-admin: spec.type": "NodePort",
            "Service/-admin: spec.ports[0]": {"name": "admin", "port": 80, "targetPort": "admin", "protocol": "TCP"},
            "Pod/-test: spec.containers[0].args[2]": "--admin=http://kakitome-admin:80",
        },
    ),
    "no admin Service": Case(
        values={"adminService": {"enabled": False}},
        expected={
            "Service/-admin": ABSENT,
            CONTAINER + "ports[name=admin].containerPort": 9090,
            "Pod/-test: spec.containers[0].args[2]": "--url=ws://kakitome:80",
        },
    ),
    "an Ingress": Case(
        values={
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "annotations": {"a": "1"},
                "labels": {"b": "2"},
                "hosts": [
                    {"host": "chat.example.com"},
                    {"host": "*.example.com", "paths": [{"path": "/ws", "pathType": "Exact"}]},
                    {"paths": [{"path": "/"}]},
                ],
                "tls": [{"hosts": ["chat.example.com"], "secretName": "chat"}],
            }
        },
        expected={
            "Ingress: spec.ingressClassName": "nginx",
            "Ingress: metadata.annotations.a": "1",
            "Ingress: metadata.labels.b": "2",
            "Ingress: spec.rules[0].host": "chat.example.com",
            "Ingress: spec.rules[0].http.paths[0].path": "/",
            "Ingress: spec.rules[0].http.paths[0].backend.service": {"name": "kakitome", "port": {"name": "ws"}},
            "Ingress: spec.rules[1].host": "*.example.com",
            "Ingress: spec.rules[1].http.paths[0].pathType": "Exact",
            "Ingress: spec.rules[2].host": ABSENT,
            "Ingress: spec.tls[0].secretName": "chat",
        },
    ),
    "an Ingress to wss": Case(
        values={
            "tls": {"enabled": True, "existingSecret": "web-tls"},
            "ingress": {"enabled": True, "servicePort": "wss", "hosts": [{"host": "chat.example.com"}]},
        },
        expected={"Ingress: spec.rules[0].http.paths[0].backend.service.port.name": "wss"},
    ),
    "an HTTPRoute": Case(
        values={
            "httpRoute": {
                "enabled": True,
                "annotations": {"a": "1"},
                "labels": {"b": "2"},
                "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
                "hostnames": ["chat.example.com"],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/chat"}}],
                        "timeouts": {"request": "0s", "backendRequest": "0s"},
                    }
                ],
            }
        },
        expected={
            "HTTPRoute: metadata.annotations.a": "1",
            "HTTPRoute: metadata.labels.b": "2",
            "HTTPRoute: spec.parentRefs[0].namespace": "gateways",
            "HTTPRoute: spec.hostnames": ["chat.example.com"],
            "HTTPRoute: spec.rules[0].timeouts": {"request": "0s", "backendRequest": "0s"},
            "HTTPRoute: spec.rules[0].backendRefs": [{"name": "kakitome", "port": 80}],
        },
    ),
    "an HTTPRoute without timeouts": Case(
        values={"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "port": 8000}},
        expected={
            "HTTPRoute: spec.rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"name": "kakitome", "port": 8000}],
                }
            ],
            "HTTPRoute: spec.hostnames": ABSENT,
        },
    ),
    "a network policy": Case(
        values={"networkPolicy": {"enabled": True}, "tls": {"enabled": True, "existingSecret": "web-tls"}},
        expected={
            "NetworkPolicy: spec.policyTypes": ["Ingress"],
            "NetworkPolicy: spec.ingress": [
                {"ports": [{"port": 8080, "protocol": "TCP"}, {"port": 8443, "protocol": "TCP"}]},
                {"ports": [{"port": 9090, "protocol": "TCP"}], "from": [{"podSelector": {}}]},
            ],
            "NetworkPolicy: spec.egress": ABSENT,
        },
    ),
    "a strict network policy": Case(
        values={
            "networkPolicy": {
                "enabled": True,
                "ingress": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
                "admin": {"from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
                "extraIngress": [{"from": [{"podSelector": {"matchLabels": {"app": "shell"}}}]}],
                "egress": {
                    "enabled": True,
                    "rules": [{"to": [{"podSelector": {"matchLabels": {"app": "chat"}}}], "ports": [{"port": 9000}]}],
                },
            }
        },
        expected={
            "NetworkPolicy: spec.policyTypes": ["Ingress", "Egress"],
            "NetworkPolicy: spec.ingress[0].from[0].namespaceSelector.matchLabels.name": "ingress",
            "NetworkPolicy: spec.ingress[1].from[0].namespaceSelector.matchLabels.name": "monitoring",
            "NetworkPolicy: spec.ingress[1].from[1]": ABSENT,
            "NetworkPolicy: spec.ingress[2].from[0].podSelector.matchLabels.app": "shell",
            "NetworkPolicy: spec.egress[0].ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
            "NetworkPolicy: spec.egress[1].ports[0].port": 9000,
        },
    ),
}
