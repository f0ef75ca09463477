{{/* The gateway's configuration as it is rendered, and what the other objects must know of it. */}}

{{/* All listeners, as a JSON list: those of `config`, and the one that `tls.enabled` adds. */}}
{{- define "kakitome.listeners" -}}
{{- $listeners := default list .Values.config.listeners -}}
{{- if .Values.tls.enabled -}}
  {{- $tls := dict
    "certificate" "/run/secrets/kakitome/tls/tls.crt"
    "key" "/run/secrets/kakitome/tls/tls.key"
    "minimum_version" .Values.tls.minimumVersion -}}
  {{- if .Values.tls.clientCa.existingSecret -}}
    {{- $_ := set $tls "client_ca" (printf "/run/secrets/kakitome/client-ca/%s" .Values.tls.clientCa.key) -}}
    {{- with .Values.tls.clientCa.revocationKey -}}
      {{- $_ := set $tls "client_crl" (printf "/run/secrets/kakitome/client-ca/%s" .) -}}
    {{- end -}}
  {{- end -}}
  {{- $listeners = append $listeners (dict "bind" .Values.tls.bind "tls" $tls) -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{/* The port at the end of a bind address. Takes a dict: bind, key (for the fault). */}}
{{- define "kakitome.port" -}}
{{- if contains "${" .bind -}}
  {{- fail (printf "%s is %s: the chart must know the port, which the environment cannot tell it. Write the port out." .key .bind) -}}
{{- end -}}
{{- $port := regexFind "[0-9]+$" .bind -}}
{{- if or (not $port) (eq (int $port) 0) (gt (int $port) 65535) -}}
  {{- fail (printf "%s is %s, which has no port of 1 to 65535 that the Service could lead to." .key .bind) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "kakitome.isLocal" -}}
{{- if regexMatch "^(unix:|127\\.|localhost:|\\[::1\\]:)" . -}}true{{- end -}}
{{- end -}}

{{/*
The ports that clients connect to, as a JSON list of {name, scheme, containerPort, servicePort, nodePort, appProtocol,
takesAnyClient}. The first plain listener is `ws`, the first with TLS `wss`; others are named by their port. Listeners
for the pod only (loopback, Unix sockets) have none, and two binds of one port (IPv4 and IPv6) have one. Not every
client is taken where a certificate or a PROXY protocol header is asked for.
*/}}
{{- define "kakitome.ports" -}}
{{- $service := .Values.service -}}
{{- $ports := list -}}
{{- $seen := dict -}}
{{- range $index, $listener := include "kakitome.listeners" . | fromJsonArray -}}
  {{- if not (include "kakitome.isLocal" $listener.bind) -}}
    {{- $port := include "kakitome.port" (dict "bind" $listener.bind "key" (printf "config.listeners[%d].bind" $index)) -}}
    {{- if not (hasKey $seen $port) -}}
      {{- $kind := ternary "wss" "ws" (not (empty $listener.tls)) -}}
      {{- $first := not (hasKey $seen $kind) -}}
      {{- $entry := dict
        "name" (ternary $kind (printf "%s-%s" $kind $port) $first)
        "containerPort" (int $port)
        "servicePort" (ternary (ternary $service.tlsPort $service.port (eq $kind "wss")) (int $port) (and $first (ne $service.clusterIP "None")))
        "nodePort" (ternary (ternary $service.tlsNodePort $service.nodePort (eq $kind "wss")) nil $first)
        "appProtocol" (ternary $service.tlsAppProtocol $service.appProtocol (eq $kind "wss"))
        "scheme" $kind
        "takesAnyClient" (not (or $listener.proxy_protocol ($listener.tls).client_ca)) -}}
      {{- $_ := set $seen $port true -}}
      {{- $_ := set $seen $kind true -}}
      {{- $ports = append $ports $entry -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $ports -}}
{{- end -}}

{{- define "kakitome.adminPort" -}}
{{- include "kakitome.port" (dict "bind" .Values.config.admin.bind "key" "config.admin.bind") -}}
{{- end -}}

{{/* Those of `config.routes`, and those of `routes` by their names, as a JSON list. */}}
{{- define "kakitome.routes" -}}
{{- $routes := default list .Values.config.routes -}}
{{- range $name, $route := .Values.routes -}}
  {{- if $route -}}
    {{- $routes = append $routes (merge (dict "name" $name) $route) -}}
  {{- end -}}
{{- end -}}
{{- toJson $routes -}}
{{- end -}}

{{/* Whether the demonstration's backends run beside the gateway: nobody has said where to route to. */}}
{{- define "kakitome.isDemo" -}}
{{- if not (or .Values.config.routes .Values.existingConfigMap (include "kakitome.routes" . | fromJsonArray)) -}}true{{- end -}}
{{- end -}}

{{- define "kakitome.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "listeners" (include "kakitome.listeners" . | fromJsonArray) -}}
{{- if .Values.admin.existingSecret -}}
  {{- $_ := set $config.admin "token" (printf "file:%s" (include "kakitome.adminTokenFile" .)) -}}
{{- else if not (or $config.admin.token $config.admin.tokens (hasKey $config.admin "open_to_network")) -}}
  {{- $_ := set $config.admin "open_to_network" true -}}
{{- end -}}
{{- $_ := set $config "routes" (include "kakitome.routes" . | fromJsonArray) -}}
{{- if include "kakitome.isDemo" . -}}
  {{- $_ := set $config "routes" (.Files.Get "files/demo-routes.yaml" | fromYamlArray) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Of the configuration, what a gateway that runs cannot take up: RESTART_KEYS in gateway/config/model.py. */}}
{{- define "kakitome.restartKeys" -}}
{{- $config := include "kakitome.config" . | fromYaml -}}
{{- dict "listeners" $config.listeners "admin" $config.admin "format" ($config.log).format "state" $config.state | toJson -}}
{{- end -}}

{{/* Seconds, rounded up, of a duration such as 1h30m; the schema has seen to it that it is one. */}}
{{- define "kakitome.seconds" -}}
{{- $milliseconds := dict "d" 86400000 "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9.]+(ms|[dhms])" . -1 -}}
  {{- $unit := regexFind "[a-z]+$" . -}}
  {{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) (get $milliseconds $unit)) -}}
{{- end -}}
{{- divf $sum 1000 | ceil | int64 -}}
{{- end -}}
