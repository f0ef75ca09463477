"""Image, names and labels, and all that belongs to pods."""

from collections.abc import Mapping
from typing import Final

from tests.helm.cases.case import CONTAINER, DIGEST, POD, Case, routed
from tests.helm.chart import ABSENT

CASES: Final[Mapping[str, Case]] = {
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
    "image and secrets of a chart above": Case(
        values={
            "global": {
                "imageRegistry": "all.example.com",
                "imagePullSecrets": ["all", {"name": "registry"}],
                "other": 1,
            },
            "imagePullSecrets": [{"name": "registry"}],
        },
        expected={
            CONTAINER + "image": "all.example.com/kakitome:0.1.0",
            POD + "imagePullSecrets": [{"name": "registry"}, {"name": "all"}],
        },
    ),
    "another scheduler, and nodes of their own": Case(
        values={"schedulerName": "packing", "podAntiAffinity": "hard"},
        expected={
            POD + "schedulerName": "packing",
            POD + "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution": ABSENT,
            POD + "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey": (
                "kubernetes.io/hostname"
            ),
        },
    ),
    "anywhere": Case(values={"podAntiAffinity": "none"}, expected={POD + "affinity": ABSENT}),
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
        values=routed()
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
}
