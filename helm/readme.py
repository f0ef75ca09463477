"""The chart's README.md: an introduction, and a table of every value made from values.yaml.

Invariant: every described value has one row, in the order and the words of values.yaml.
"""

import json
from collections.abc import Iterator
from typing import Final

from helm.values import Section, Value

EXAMPLE: Final = """\
replicaCount: 2
config:
  trusted_proxies: [10.0.0.0/8]
  routes:
    - name: chat
      match: {host: chat.example.com, path: /chat}
      origins: [https://app.example.com]
      backend:
        endpoints: ["tcp://chat-0.chat:9000", "tcp://chat-1.chat:9000"]
        framing: records
ingress:
  enabled: true
  className: nginx
  annotations:
    nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"
    nginx.ingress.kubernetes.io/proxy-send-timeout: "3600"
  hosts:
    - host: chat.example.com
      paths: [{path: /, pathType: Prefix}]
  tls:
    - {hosts: [chat.example.com], secretName: chat-example-com}
admin:
  existingSecret: kakitome-admin
autoscaling: {enabled: true, targetConnections: 2000}
serviceMonitor: {enabled: true}
prometheusRule: {enabled: true}
grafanaDashboards: {enabled: true}
topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}
"""
"""Values of a whole installation. A test renders them, so they stay true."""

ADAPTER_RULE: Final = """\
rules:
  custom:
    - seriesQuery: kakitome_connections{namespace!="",pod!=""}
      resources:
        overrides: {namespace: {resource: namespace}, pod: {resource: pod}}
      name: {as: kakitome_connections}
      metricsQuery: sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)
"""
"""Values of the prometheus-adapter chart that make `kakitome_connections` a metric of pods."""

_INTRODUCTION: Final = f"""\
# Kakitome's Helm chart

Kakitome is a WebSocket gateway that knows how far every message got. This chart runs it on Kubernetes 1.30 or newer,
with Helm 3.8 or newer. This page is made from `values.yaml` by `make chart`.

## Install

```console
$ helm install kakitome helm/kakitome --namespace kakitome --create-namespace --wait
$ helm test kakitome --namespace kakitome
```

Without further values this is the demonstration: its backends run in the gateway's pod and answer at `/hello`,
`/doyasa`, `/chat` and `/echo`. As soon as `config.routes` names yours, they are gone. `helm test` shakes hands with
every route.

The image is in no registry yet. Build it in a checkout, and bring it where the nodes find it:

```console
$ docker build --tag kakitome:0.1.0 .
$ kind load docker-image kakitome:0.1.0                                                # a cluster of kind's
$ docker tag kakitome:0.1.0 registry.example.com/kakitome:0.1.0 && docker push registry.example.com/kakitome:0.1.0
$ helm install kakitome helm/kakitome --set image.registry=registry.example.com        # any other
```

## A whole installation

```yaml
{EXAMPLE}```

`config` is the gateway's own configuration file, as `docs/configuration.md` describes it, and `values.schema.json`
holds the gateway's own schema: a wrong key or value fails at `helm install`, which says where. Values that contradict
each other fail too, with what to change; a `terminationGracePeriodSeconds` too short for a pod to end in, for one.

Routes may also stand in `routes`, by name: several values files, or the parts of an umbrella chart, each add theirs.
`existingConfigMap` takes a configuration that something else has made. For IPv6, or both families, bind `[::]:8080` and
`[::]:9090`; a Service that takes IPv6 before listeners that do not is refused.

## Secrets

No secret stands in the values. `admin.existingSecret` and `tls.existingSecret` name Secrets, which are mounted as
files; `${{NAME}}` in `config` is taken from the environment, which `extraEnv` and `extraEnvFrom` fill. A renewed
certificate is taken up by itself and closes no connection; a new admin token waits for the next start.

```console
$ kubectl -n kakitome create secret generic kakitome-admin --from-literal=token="$(openssl rand -hex 32)"
```

## How a pod is replaced

1. The new pod starts. `/readyz` says yes once it listens.
2. The old pod leaves the Services, and goes on serving while `lifecycle.preStop.sleep` lasts: load balancers learn of
   it late.
3. SIGTERM. The gateway takes no more connections and closes those it has with 1012, spread over
   `config.timeouts.drain`, each after its last messages are settled. Clients connect again, to the other pods; with
   records backends, sessions are resumed there and nothing is lost or doubled.
4. What has not ended after `terminationGracePeriodSeconds` is killed.

Every roll closes every connection. A new `config` makes none, unless `listeners`, `admin`, `log.format` or `state`
change: it is read by the pods that run, once the kubelet has brought it there, and established connections stay. Nor
does a new version of the chart with the same image. Before an upgrade a Job has `kakitome check`
look at the new `config`; if that is not good, the upgrade fails and nothing has changed (`configCheck`).

Sessions of *plain* backends live in one pod: there a client can resume only where it was. `service.sessionAffinity`
leads it back as long as that pod lives; so does an affinity of the Ingress's by cookie.

## Health

| | `/healthz` | `/readyz` |
| --- | --- | --- |
| asks | does the process run and its event loop turn? | should new connections come here? |
| no while | it hangs | it drains (with `config.admin.readiness: any_route` also: no backend answers) |
| used by | `startupProbe`, `livenessProbe` | `readinessProbe`, `helm test` |

## Scaling

A pod uses one core at most, so more load needs more pods. CPU follows messages and memory follows connections: scale by
both. Connections stay where they are when a pod is added, and a pod that is taken away closes its own, so `behavior`
adds at once and removes slowly.

`autoscaling.targetConnections` needs a metrics adapter that knows `kakitome_connections`; for prometheus-adapter:

```yaml
{ADAPTER_RULE}```

`keda` needs no adapter: it asks Prometheus itself.

## Values
"""


def readme(sections: tuple[Section, ...]) -> str:
    """The whole page, in Markdown."""
    return _INTRODUCTION + "".join(f"\n{line}\n" for section in sections for line in _table(section))


def _table(section: Section) -> Iterator[str]:
    """The section's paragraphs."""
    yield f"### {section.name}"
    if section.description:
        yield section.description
    rows = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{value.key}` | {_kind(value.default)} | {_default(value)} | {_cell(value.description)} |"
        for value in section.values
    ]
    yield "\n".join(rows)


def _kind(default: object) -> str:
    match default:
        case bool():
            return "bool"
        case int() | None:
            return "int"
        case str():
            return "string"
        case list():
            return "list"
        case _:
            return "object"


def _default(value: Value) -> str:
    if value.default_text is not None:
        return _cell(value.default_text)
    if value.default is None:
        return "`null`"
    return f"`{_cell(json.dumps(value.default, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
