"""The chart's features, each alone: the values that ask for it, and what must come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.helm.chart import ABSENT, Values

CONTAINER: Final = "Deployment: spec.template.spec.containers[name=kakitome]."
POD: Final = "Deployment: spec.template.spec."
ROUTES: Final = [{"name": "chat", "match": {"path": "/chat"}, "backend": {"endpoints": ["tcp://chat:9000"]}}]
DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Values, and what they make."""

    values: Values = field(default_factory=dict)
    expected: Mapping[str, Any]
    """By `Object: path`, as `tests.helm.chart` has both; `Object` alone, `...` for whatever it is; `config` is the
    gateway's configuration."""
    name: str = "kakitome"
    """Of the release."""
    fullname: str = "kakitome"


def _routed(**config: Any) -> dict[str, Any]:
    """Values with a route, so that the demonstration is off."""
    return {"config": {"routes": ROUTES, **config}}


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
        "config: admin": {"bind": "0.0.0.0:9090"},
        'Pod/-test: metadata.annotations."helm.sh/hook"': "test",
        "Pod/-test: spec.containers[0].command": ["python", "-c"],
        "Ingress": ABSENT,
        "HTTPRoute": ABSENT,
        "HorizontalPodAutoscaler": ABSENT,
        "NetworkPolicy": ABSENT,
    }
)

FEATURES: Final[Mapping[str, Case]] = {
    # --- the gateway ----------------------------------------------------------------------------------------------
    "demonstration": Case(
        values={"demo": {"resources": {"limits": {"memory": "1Gi"}}}},
        expected={
            POD + "initContainers[name=demo-backends].command": ["python", "-m", "gateway.demo"],
            POD + "initContainers[name=demo-backends].restartPolicy": "Always",
            POD + "initContainers[name=demo-backends].resources.limits.memory": "1Gi",
            POD + "initContainers[name=demo-backends].securityContext.readOnlyRootFilesystem": True,
            "config: routes[name=hello].backend.endpoints": ["tcp://127.0.0.1:9001"],
            "config: routes[name=chat].backend.framing": "records",
        },
    ),
    "routes": Case(
        values=_routed(
            trusted_proxies=["10.0.0.0/8"],
            timeouts={"drain": "25s", "handshake": "3s"},
            log={"format": "console", "level": "debug"},
            sessions={"parked_bytes": 123456789012},
        ),
        expected={
            POD + "initContainers": ABSENT,
            "config: routes": ROUTES,
            "config: trusted_proxies": ["10.0.0.0/8"],
            "config: timeouts": {"drain": "25s", "handshake": "3s"},
            "config: log": {"format": "console", "level": "debug"},
            # Not 1.23456789012e+11.
            "config: sessions.parked_bytes": 123456789012,
        },
    ),
    "several listeners": Case(
        values=_routed(
            listeners=[
                {"bind": "[::]:8081"},
                {"bind": "0.0.0.0:8081"},
                {"bind": "0.0.0.0:8082", "proxy_protocol": True},
                {"bind": "127.0.0.1:8083"},
                {"bind": "unix:/run/kakitome.sock"},
            ],
            admin={"bind": "[::]:9191"},
        )
        | {"service": {"port": 8000}},
        expected={
            CONTAINER + "ports[name=ws].containerPort": 8081,
            CONTAINER + "ports[name=ws-8082].containerPort": 8082,
            CONTAINER + "ports[name=admin].containerPort": 9191,
            CONTAINER + "ports[3]": ABSENT,
            "Service: spec.ports[name=ws].port": 8000,
            "Service: spec.ports[name=ws-8082].port": 8082,
            "Service: spec.ports[2]": ABSENT,
            "config: listeners[4].bind": "unix:/run/kakitome.sock",
        },
    ),
    "admin token": Case(
        values={"admin": {"existingSecret": "secrets", "existingSecretKey": "admin"}},
        expected={
            "config: admin": {"bind": "0.0.0.0:9090", "token": "file:/run/secrets/kakitome/admin/admin"},
            POD + "volumes[name=admin-token].secret": {"secretName": "secrets", "defaultMode": 0o440},
            CONTAINER + "volumeMounts[name=admin-token]": {
                "name": "admin-token",
                "mountPath": "/run/secrets/kakitome/admin",
                "readOnly": True,
            },
        },
    ),
    "admin token from the environment": Case(
        values={
            "config": {"admin": {"token": "${ADMIN_TOKEN}"}},
            "extraEnv": [{"name": "ADMIN_TOKEN", "valueFrom": {"secretKeyRef": {"name": "secrets", "key": "admin"}}}],
            "extraEnvFrom": [{"configMapRef": {"name": "settings"}}],
        },
        expected={
            "config: admin.token": "${ADMIN_TOKEN}",
            CONTAINER + "env[name=ADMIN_TOKEN].valueFrom.secretKeyRef.name": "secrets",
            CONTAINER + "envFrom": [{"configMapRef": {"name": "settings"}}],
            "Pod/-test: spec.containers[0].env[name=ADMIN_TOKEN].valueFrom.secretKeyRef.name": "secrets",
        },
    ),
    "reload instead of a roll": Case(
        values={"rollOnConfigChange": False},
        expected={"Deployment: spec.template.metadata.annotations": ABSENT},
    ),
    # --- TLS ------------------------------------------------------------------------------------------------------
    "TLS from a Secret": Case(
        values={
            "tls": {"enabled": True, "existingSecret": "web-tls", "minimumVersion": "1.3", "bind": "[::]:9443"},
            "service": {"tlsPort": 8443, "tlsAppProtocol": "https"},
        },
        expected={
            "config: listeners[1]": {
                "bind": "[::]:9443",
                "tls": {
                    "certificate": "/run/secrets/kakitome/tls/tls.crt",
                    "key": "/run/secrets/kakitome/tls/tls.key",
                    "minimum_version": "1.3",
                },
            },
            POD + "volumes[name=tls].secret": {"secretName": "web-tls", "defaultMode": 0o440},
            CONTAINER + "volumeMounts[name=tls].mountPath": "/run/secrets/kakitome/tls",
            CONTAINER + "ports[name=ws].containerPort": 8080,
            CONTAINER + "ports[name=wss].containerPort": 9443,
            "Service: spec.ports[name=wss]": {
                "name": "wss",
                "port": 8443,
                "targetPort": "wss",
                "protocol": "TCP",
                "appProtocol": "https",
            },
            "Certificate": ABSENT,
        },
    ),
    "TLS from cert-manager, and nothing else": Case(
        values=_routed(listeners=[])
        | {
            "tls": {
                "enabled": True,
                "certManager": {
                    "enabled": True,
                    "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"},
                    "dnsNames": ["chat.example.com"],
                    "duration": "2160h",
                    "renewBefore": "720h",
                    "privateKey": {"size": 384},
                    "annotations": {"team": "chat"},
                },
            }
        },
        expected={
            "Certificate: spec": {
                "secretName": "kakitome-tls",
                "dnsNames": ["chat.example.com"],
                "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"},
                "usages": ["digital signature", "key encipherment", "server auth"],
                "privateKey": {"algorithm": "ECDSA", "size": 384, "rotationPolicy": "Always"},
                "duration": "2160h",
                "renewBefore": "720h",
            },
            "Certificate: metadata.annotations.team": "chat",
            POD + "volumes[name=tls].secret.secretName": "kakitome-tls",
            CONTAINER + "ports[0]": {"name": "wss", "containerPort": 8443, "protocol": "TCP"},
            "Service: spec.ports[0].port": 443,
            "Service: spec.ports[0].appProtocol": "kubernetes.io/wss",
            "Service: spec.ports[1]": ABSENT,
            "Pod/-test: spec.containers[0].args[3]": "--url=wss://kakitome:443",
        },
    ),
    "certificates of clients": Case(
        values=_routed(listeners=[])
        | {
            "tls": {
                "enabled": True,
                "existingSecret": "web-tls",
                "clientCa": {"existingSecret": "clients", "key": "clients.pem"},
            }
        },
        expected={
            "config: listeners[0].tls.client_ca": "/run/secrets/kakitome/client-ca/clients.pem",
            POD + "volumes[name=client-ca].secret.secretName": "clients",
            CONTAINER + "volumeMounts[name=client-ca].mountPath": "/run/secrets/kakitome/client-ca",
            # It has no certificate to show, so it asks for the readiness only.
            "Pod/-test: spec.containers[0].args[3]": "--timeout=30",
        },
    ),
    # --- image and names ------------------------------------------------------------------------------------------
    "image by tag": Case(
        values={
            "image": {"registry": "registry.example.com", "repository": "a/b", "tag": "7", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
        },
        expected={
            CONTAINER + "image": "registry.example.com/a/b:7",
            CONTAINER + "imagePullPolicy": "Always",
            POD + "imagePullSecrets": [{"name": "registry"}],
            POD + "initContainers[0].image": "registry.example.com/a/b:7",
            "Pod/-test: spec.containers[0].image": "registry.example.com/a/b:7",
            'Deployment: metadata.labels."app.kubernetes.io/version"': "7",
        },
    ),
    "image by digest": Case(
        values={"image": {"tag": "7", "digest": DIGEST}}, expected={CONTAINER + "image": f"kakitome@{DIGEST}"}
    ),
    "another release name": Case(
        name="chat", fullname="chat-kakitome", expected={"Deployment: metadata.name": "chat-kakitome"}
    ),
    "another chart name": Case(
        values={"nameOverride": "relay"},
        fullname="kakitome-relay",
        expected={
            'Deployment: metadata.labels."app.kubernetes.io/name"': "relay",
            'Service: spec.selector."app.kubernetes.io/name"': "relay",
        },
    ),
    "another full name": Case(
        values={"fullnameOverride": "x" * 70},
        fullname="x" * 52,
        expected={"Deployment": ..., "Service/-admin: metadata.name": "x" * 52 + "-admin"},
    ),
    "labels and annotations": Case(
        values={
            "commonLabels": {"team": "chat"},
            "commonAnnotations": {"owner": "chat"},
            "deploymentAnnotations": {"a": "1"},
            "podAnnotations": {"b": "2"},
            "podLabels": {"c": "3", "app.kubernetes.io/name": "theirs"},
            "serviceAccount": {"annotations": {"role": "relay"}},
            "service": {"annotations": {"d": "4"}, "labels": {"e": "5"}},
            "adminService": {"annotations": {"f": "6"}, "labels": {"g": "7"}},
        },
        expected={
            "ConfigMap: metadata.labels.team": "chat",
            "ConfigMap: metadata.annotations": {"owner": "chat"},
            "Deployment: metadata.annotations": {"owner": "chat", "a": "1"},
            "Deployment: spec.template.metadata.annotations.b": "2",
            "Deployment: spec.template.metadata.annotations.owner": "chat",
            "Deployment: spec.template.metadata.labels.c": "3",
            "Deployment: spec.template.metadata.labels.team": "chat",
            # What the Services select by is not theirs to change.
            'Deployment: spec.template.metadata.labels."app.kubernetes.io/name"': "kakitome",
            "Deployment: spec.selector.matchLabels.team": ABSENT,
            "ServiceAccount: metadata.annotations": {"owner": "chat", "role": "relay"},
            "Service: metadata.annotations": {"owner": "chat", "d": "4"},
            "Service: metadata.labels.e": "5",
            "Service/-admin: metadata.annotations": {"owner": "chat", "f": "6"},
            "Service/-admin: metadata.labels.g": "7",
        },
    ),
    # --- pods -----------------------------------------------------------------------------------------------------
    "rolling": Case(
        values={
            "replicaCount": 3,
            "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
            "minReadySeconds": 5,
            "revisionHistoryLimit": 2,
        },
        expected={
            "Deployment: spec.replicas": 3,
            "Deployment: spec.strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
            },
            "Deployment: spec.minReadySeconds": 5,
            "Deployment: spec.revisionHistoryLimit": 2,
        },
    ),
    "one after the other": Case(
        values={"strategy": {"type": "Recreate", "rollingUpdate": None}, "replicaCount": 0},
        expected={"Deployment: spec.strategy": {"type": "Recreate"}, "Deployment: spec.replicas": 0},
    ),
    "another service account": Case(
        values={"serviceAccount": {"create": False, "name": "relay", "automount": True}},
        expected={
            "ServiceAccount": ABSENT,
            POD + "serviceAccountName": "relay",
            POD + "automountServiceAccountToken": True,
        },
    ),
    "the default service account": Case(
        values={"serviceAccount": {"create": False}}, expected={POD + "serviceAccountName": "default"}
    ),
    "security contexts": Case(
        # As a platform that chooses the ids itself wants it.
        values={
            "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "securityContext": {"privileged": False},
        },
        expected={
            POD + "securityContext": {
                "runAsNonRoot": True,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            CONTAINER + "securityContext.privileged": False,
        },
    ),
    "resources": Case(
        values={"resources": {"limits": {"cpu": "1"}}},
        expected={
            CONTAINER + "resources": {
                "requests": {"cpu": "250m", "memory": "256Mi"},
                "limits": {"cpu": "1", "memory": "1Gi"},
            }
        },
    ),
    "probes": Case(
        values={
            "startupProbe": {"failureThreshold": 5},
            "livenessProbe": None,
            "readinessProbe": {"httpGet": None, "tcpSocket": {"port": "ws"}},
        },
        expected={
            CONTAINER + "startupProbe.failureThreshold": 5,
            CONTAINER + "livenessProbe": ABSENT,
            CONTAINER + "readinessProbe.httpGet": ABSENT,
            CONTAINER + "readinessProbe.tcpSocket.port": "ws",
        },
    ),
    "a long drain": Case(
        values={
            "config": {"timeouts": {"drain": "1h30m500ms"}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 20}}},
            "terminationGracePeriodSeconds": 5421,
        },
        expected={
            POD + "terminationGracePeriodSeconds": 5421,
            CONTAINER + "lifecycle.preStop.sleep.seconds": 20,
            "config: timeouts.drain": "1h30m500ms",
        },
    ),
    "no wait before SIGTERM": Case(
        values={"lifecycle": None, "terminationGracePeriodSeconds": 30},
        expected={CONTAINER + "lifecycle": ABSENT},
    ),
    "placement": Case(
        values={
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "relay", "operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}
            },
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
                {
                    "maxSkew": 1,
                    "topologyKey": "host",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"a": "b"}},
                },
            ],
            "priorityClassName": "high",
            "runtimeClassName": "gvisor",
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["chat"]}],
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["10.0.0.2"]},
        },
        expected={
            POD + "nodeSelector": {"disk": "ssd"},
            POD + "tolerations[0].key": "relay",
            POD + "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms": [{}],
            POD + "topologySpreadConstraints[0].labelSelector.matchLabels": {
                "app.kubernetes.io/name": "kakitome",
                "app.kubernetes.io/instance": "kakitome",
            },
            POD + "topologySpreadConstraints[1].labelSelector.matchLabels": {"a": "b"},
            POD + "priorityClassName": "high",
            POD + "runtimeClassName": "gvisor",
            POD + "hostAliases[0].ip": "10.0.0.1",
            POD + "dnsPolicy": "None",
            POD + "dnsConfig.nameservers": ["10.0.0.2"],
            "Pod/-test: spec.nodeSelector": {"disk": "ssd"},
        },
    ),
    "sidecars and volumes": Case(
        values=_routed()
        | {
            "extraVolumes": [{"name": "pages", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "pages", "mountPath": "/srv/pages"}],
            "extraContainers": [{"name": "exporter", "image": "exporter:1"}],
            "initContainers": [{"name": "backend", "image": "backend:1", "restartPolicy": "Always"}],
        },
        expected={
            POD + "volumes[name=pages]": {"name": "pages", "emptyDir": {}},
            CONTAINER + "volumeMounts[name=pages].mountPath": "/srv/pages",
            POD + "containers[name=exporter].image": "exporter:1",
            POD + "initContainers": [{"name": "backend", "image": "backend:1", "restartPolicy": "Always"}],
        },
    ),
    "disruption budget in percent": Case(
        values={"podDisruptionBudget": {"minAvailable": "50%", "unhealthyPodEvictionPolicy": "IfHealthyBudget"}},
        expected={
            "PodDisruptionBudget: spec.minAvailable": "50%",
            "PodDisruptionBudget: spec.maxUnavailable": ABSENT,
            "PodDisruptionBudget: spec.unhealthyPodEvictionPolicy": "IfHealthyBudget",
        },
    ),
    "disruption budget in pods": Case(
        values={"podDisruptionBudget": {"maxUnavailable": 2}},
        expected={"PodDisruptionBudget: spec.maxUnavailable": 2, "PodDisruptionBudget: spec.minAvailable": ABSENT},
    ),
    "no disruption budget": Case(
        values={"podDisruptionBudget": {"enabled": False}}, expected={"PodDisruptionBudget": ABSENT}
    ),
    # --- scaling --------------------------------------------------------------------------------------------------
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
    "autoscaling by CPU, slowly down": Case(
        values={"autoscaling": {"enabled": True}},
        expected={
            "HorizontalPodAutoscaler: spec.metrics[0].resource.name": "cpu",
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
    # --- network --------------------------------------------------------------------------------------------------
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
            "tls": {"enabled": True, "existingSecret": "web-tls"},
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
    "a headless Service": Case(values={"service": {"clusterIP": "None"}}, expected={"Service: spec.clusterIP": "None"}),
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
    # --- observation ----------------------------------------------------------------------------------------------
    "a ServiceMonitor": Case(
        values={
            "admin": {"existingSecret": "secrets"},
            "serviceMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "annotations": {"a": "1"},
                "interval": "15s",
                "scrapeTimeout": "10s",
                "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
                "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
                "targetLabels": ["team"],
            },
        },
        expected={
            "ServiceMonitor: metadata.namespace": "relay",
            "ServiceMonitor: metadata.labels.release": "prometheus",
            "ServiceMonitor: metadata.annotations.a": "1",
            "ServiceMonitor: spec.jobLabel": "app.kubernetes.io/name",
            "ServiceMonitor: spec.targetLabels": ["team"],
            'ServiceMonitor: spec.selector.matchLabels."app.kubernetes.io/component"': "admin",
            "ServiceMonitor: spec.endpoints[0].port": "admin",
            "ServiceMonitor: spec.endpoints[0].interval": "15s",
            "ServiceMonitor: spec.endpoints[0].scrapeTimeout": "10s",
            "ServiceMonitor: spec.endpoints[0].authorization.credentials": {"name": "secrets", "key": "token"},
            "ServiceMonitor: spec.endpoints[0].relabelings[0].targetLabel": "cluster",
            "ServiceMonitor: spec.endpoints[0].metricRelabelings[0].action": "drop",
        },
    ),
    "a ServiceMonitor elsewhere": Case(
        values={"serviceMonitor": {"enabled": True, "namespace": "monitoring"}},
        expected={
            "ServiceMonitor: metadata.namespace": "monitoring",
            "ServiceMonitor: spec.namespaceSelector.matchNames": ["relay"],
            "ServiceMonitor: spec.endpoints[0].authorization": ABSENT,
        },
    ),
    "a PodMonitor": Case(
        values={
            "adminService": {"enabled": False},
            "podMonitor": {
                "enabled": True,
                "namespace": "monitoring",
                "labels": {"release": "prometheus"},
                "annotations": {"a": "1"},
                "interval": "15s",
                "scrapeTimeout": "10s",
                "relabelings": [{"targetLabel": "cluster", "replacement": "one"}],
                "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
                "podTargetLabels": ["team"],
            },
        },
        expected={
            "PodMonitor: metadata.namespace": "monitoring",
            "PodMonitor: metadata.labels.release": "prometheus",
            "PodMonitor: metadata.annotations.a": "1",
            "PodMonitor: spec.namespaceSelector.matchNames": ["relay"],
            'PodMonitor: spec.selector.matchLabels."app.kubernetes.io/component"': ABSENT,
            "PodMonitor: spec.podTargetLabels": ["team"],
            "PodMonitor: spec.podMetricsEndpoints[0].port": "admin",
            "PodMonitor: spec.podMetricsEndpoints[0].interval": "15s",
            "PodMonitor: spec.podMetricsEndpoints[0].scrapeTimeout": "10s",
            "PodMonitor: spec.podMetricsEndpoints[0].relabelings[0].targetLabel": "cluster",
            "PodMonitor: spec.podMetricsEndpoints[0].metricRelabelings[0].action": "drop",
        },
    ),
    "alerts": Case(
        values={
            "prometheusRule": {
                "enabled": True,
                "namespace": "monitoring",
                "labels": {"release": "prometheus"},
                "annotations": {"a": "1"},
                "disabledAlerts": ["NotOne"],
                "additionalAlertLabels": {"team": "chat"},
                "additionalGroups": [{"name": "ours", "rules": [{"alert": "Ours", "expr": "vector(1)", "for": "5m"}]}],
            }
        },
        expected={
            "PrometheusRule: metadata.namespace": "monitoring",
            "PrometheusRule: metadata.labels.release": "prometheus",
            "PrometheusRule: metadata.annotations.a": "1",
            "PrometheusRule: spec.groups[name=ours].rules[0].alert": "Ours",
        },
    ),
    "dashboards": Case(
        values={
            "grafanaDashboards": {
                "enabled": True,
                "namespace": "grafana",
                "labels": {"dashboards": "yes"},
                "annotations": {"grafana_folder": "Relays"},
            }
        },
        expected={
            "ConfigMap/-dashboards: metadata.namespace": "grafana",
            "ConfigMap/-dashboards: metadata.labels.grafana_dashboard": "1",
            "ConfigMap/-dashboards: metadata.labels.dashboards": "yes",
            "ConfigMap/-dashboards: metadata.annotations.grafana_folder": "Relays",
        },
    ),
    # --- the rest -------------------------------------------------------------------------------------------------
    "helm test": Case(
        values={"helmTest": {"timeoutSeconds": 90}},
        expected={
            "Pod/-test: spec.restartPolicy": "Never",
            "Pod/-test: spec.containers[0].args[1]": "--config=/etc/kakitome/kakitome.yaml",
            "Pod/-test: spec.containers[0].args[2]": "--admin=http://kakitome-admin:9090",
            "Pod/-test: spec.containers[0].args[3]": "--url=ws://kakitome:80",
            "Pod/-test: spec.containers[0].args[4]": "--timeout=90",
            "Pod/-test: spec.containers[0].securityContext.readOnlyRootFilesystem": True,
        },
    ),
    "no helm test": Case(values={"helmTest": {"enabled": False}}, expected={"Pod/-test": ABSENT}),
    "more objects": Case(
        values={
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": '{{ include "kakitome.fullname" . }}-extra'},
                    "stringData": {"token": "x"},
                },
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-more",
            ]
        },
        expected={"Secret/-extra: stringData.token": "x", "ConfigMap/-more: metadata.name": "kakitome-more"},
    ),
}


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
        "no helm test",
        "no wait before SIGTERM",
        "probes",
        "certificates of clients",
        "a load balancer",
        "an Ingress to wss",
        "a network policy",
        "a ServiceMonitor elsewhere",
    }
)
"""Features that switch others off."""

EVERYTHING: Final = merged(
    *(case.values for name, case in FEATURES.items() if name not in _CONTRARY),
    {"config": {"listeners": [{"bind": "0.0.0.0:8080"}]}},
)
"""All features that can be on together."""
