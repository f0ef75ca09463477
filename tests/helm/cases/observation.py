"""Monitors, rules and dashboards, the helm test, and more objects."""

from collections.abc import Mapping
from typing import Final

from tests.helm.cases.case import Case
from tests.helm.chart import ABSENT

CASES: Final[Mapping[str, Case]] = {
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
            "ServiceMonitor: spec.jobLabel": ABSENT,
            "ServiceMonitor: spec.endpoints[0].relabelings[0]": {"targetLabel": "job", "replacement": "kakitome"},
            "ServiceMonitor: spec.targetLabels": ["team"],
            'ServiceMonitor: spec.selector.matchLabels."app.kubernetes.io/component"': "admin",
            "ServiceMonitor: spec.endpoints[0].port": "admin",
            "ServiceMonitor: spec.endpoints[0].interval": "15s",
            "ServiceMonitor: spec.endpoints[0].scrapeTimeout": "10s",
            "ServiceMonitor: spec.endpoints[0].authorization.credentials": {"name": "secrets", "key": "token"},
            "ServiceMonitor: spec.endpoints[0].relabelings[1].targetLabel": "cluster",
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
            "PodMonitor: spec.podMetricsEndpoints[0].relabelings[1].targetLabel": "cluster",
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
