"""The gateway's configuration, the demonstration, and TLS."""

from collections.abc import Mapping
from typing import Final

from tests.helm.cases.case import CONTAINER, POD, ROUTES, Case, routed
from tests.helm.chart import ABSENT

CASES: Final[Mapping[str, Case]] = {
    "routes by name": Case(
        values={
            "config": {"routes": ROUTES},
            "routes": {
                "news": {"match": {"path": "/news"}, "backend": {"endpoints": ["tcp://news:9000"]}},
                "old": None,
            },
        },
        expected={
            "config: routes[0].name": "chat",
            "config: routes[1]": {
                "name": "news",
                "match": {"path": "/news"},
                "backend": {"endpoints": ["tcp://news:9000"]},
            },
            "config: routes[2]": ABSENT,
            POD + "initContainers": ABSENT,
        },
    ),
    "a configuration of one's own": Case(
        values={"existingConfigMap": "mine"},
        expected={
            "ConfigMap": ABSENT,
            "ConfigMap/-check": ABSENT,
            POD + "volumes[name=config].configMap.name": "mine",
            POD + "initContainers": ABSENT,
            "Job/-check: spec.template.spec.volumes[name=config].configMap.name": "mine",
            "Pod/-test: spec.volumes[0].configMap.name": "mine",
        },
    ),
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
        values=routed(
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
        values=routed(
            listeners=[
                {"bind": "[::]:8081"},
                {"bind": "0.0.0.0:8081"},
                {"bind": "0.0.0.0:8082", "proxy_protocol": True},
                {"bind": "127.0.0.1:8083"},
                {"bind": "unix:/run/kakitome.sock"},
            ],
            admin={"bind": "[::]:9191"},
            trusted_proxies=["10.0.0.0/8"],
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
            "config: admin": {"bind": "0.0.0.0:9090", "token": "${ADMIN_TOKEN}"},
            CONTAINER + "env[name=ADMIN_TOKEN].valueFrom.secretKeyRef.name": "secrets",
            CONTAINER + "envFrom": [{"configMapRef": {"name": "settings"}}],
            "Pod/-test: spec.containers[0].env[name=ADMIN_TOKEN].valueFrom.secretKeyRef.name": "secrets",
        },
    ),
    "a check with little time": Case(
        values={"configCheck": {"enabled": True, "activeDeadlineSeconds": 60}},
        expected={
            "Job/-check: spec.activeDeadlineSeconds": 60,
            'Job/-check: metadata.annotations."helm.sh/hook"': "pre-upgrade",
            "Job/-check: spec.template.spec.serviceAccountName": ABSENT,
        },
    ),
    "no check": Case(
        values={"configCheck": {"enabled": False}}, expected={"Job/-check": ABSENT, "ConfigMap/-check": ABSENT}
    ),
    "reload instead of a roll": Case(
        values={"rollOnConfigChange": False},
        expected={"Deployment: spec.template.metadata.annotations": ABSENT},
    ),
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
        values=routed(listeners=[])
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
        values=routed(listeners=[])
        | {
            "tls": {
                "enabled": True,
                "existingSecret": "web-tls",
                "clientCa": {"existingSecret": "clients", "key": "clients.pem", "revocationKey": "clients.crl"},
            }
        },
        expected={
            "config: listeners[0].tls.client_ca": "/run/secrets/kakitome/client-ca/clients.pem",
            "config: listeners[0].tls.client_crl": "/run/secrets/kakitome/client-ca/clients.crl",
            POD + "volumes[name=client-ca].secret.secretName": "clients",
            CONTAINER + "volumeMounts[name=client-ca].mountPath": "/run/secrets/kakitome/client-ca",
            # It has no certificate to show, so it asks for the readiness only.
            "Pod/-test: spec.containers[0].args[3]": "--timeout=30",
        },
    ),
    "secrets that the configuration refers to": Case(
        values={"secrets": ["kakitome-auth", "machines"]},
        expected={
            POD + "volumes[name=secret-1].secret.secretName": "machines",
            CONTAINER + "volumeMounts[name=secret-0].mountPath": "/run/secrets/kakitome/named/kakitome-auth",
            CONTAINER + "volumeMounts[name=secret-1].mountPath": "/run/secrets/kakitome/named/machines",
        },
    ),
}
