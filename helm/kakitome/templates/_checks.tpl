{{/*
Ends the rendering for a secret that is written out: it would stand in the ConfigMap, and in the release that Helm keeps.
Walks through `value`, whose place is `path`; claims are not secrets, whatever their names.
*/}}
{{- define "kakitome.openSecrets" -}}
{{- $path := .path -}}
{{- if kindIs "map" .value -}}
  {{- range $key, $value := .value -}}
    {{- $where := ternary $key (printf "%s.%s" $path $key) (empty $path) -}}
    {{- if and (kindIs "string" $value) (has $key (list "token" "client_secret")) -}}
      {{- include "kakitome.openSecret" (dict "value" $value "path" $where) -}}
    {{- else if and (kindIs "slice" $value) (eq $key "secrets") -}}
      {{- range $index, $secret := $value -}}
        {{- include "kakitome.openSecret" (dict "value" $secret "path" (printf "%s[%d]" $where $index)) -}}
      {{- end -}}
    {{- else if ne $key "claims" -}}
      {{- include "kakitome.openSecrets" (dict "value" $value "path" $where) -}}
    {{- end -}}
  {{- end -}}
{{- else if kindIs "slice" .value -}}
  {{- range $index, $value := .value -}}
    {{- include "kakitome.openSecrets" (dict "value" $value "path" (printf "%s[%d]" $path $index)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "kakitome.openSecret" -}}
{{- if not (or (hasPrefix "file:" .value) (contains "${" .value)) -}}
  {{- fail (printf "%s would stand in a ConfigMap for all to read. Put it into a Secret, name that in secrets, and write file:/run/secrets/kakitome/named/SECRET/KEY here." .path) -}}
{{- end -}}
{{- end -}}

{{/* Values that contradict each other, which no schema can see. Each fault ends the rendering and says what to change. */}}
{{- define "kakitome.checks" -}}
{{- $config := .Values.config -}}

{{- if not (include "kakitome.ports" . | fromJsonArray) -}}
  {{- fail "Nobody could connect: config.listeners has no listener that can be reached from outside the pod. Add one, such as {bind: 0.0.0.0:8080}, or set tls.enabled." -}}
{{- end -}}

{{- if not ($config.admin).bind -}}
  {{- fail "The probes need the admin listener: set config.admin.bind, such as 0.0.0.0:9090." -}}
{{- end -}}
{{- if include "kakitome.isLocal" $config.admin.bind -}}
  {{- fail (printf "config.admin.bind is %s, where the probes cannot reach it. Write 0.0.0.0:PORT or [::]:PORT." $config.admin.bind) -}}
{{- end -}}
{{- $adminPort := include "kakitome.adminPort" . | int -}}
{{- range include "kakitome.ports" . | fromJsonArray -}}
  {{- if eq (int .containerPort) $adminPort -}}
    {{- fail (printf "config.admin.bind and a listener have the same port, %d. Give each its own." $adminPort) -}}
  {{- end -}}
{{- end -}}

{{- with $config.admin.token -}}
  {{- if not (or (hasPrefix "file:" .) (contains "${" .)) -}}
    {{- fail "config.admin.token would stand in a ConfigMap for all to read. Put it into a Secret and name that in admin.existingSecret." -}}
  {{- end -}}
{{- end -}}

{{- include "kakitome.openSecrets" (dict "value" (dict "config" $config "routes" .Values.routes) "path" "") -}}
{{- $mounted := .Values.secrets -}}
{{- range regexFindAll "/run/secrets/kakitome/named/[^/\"]*" (toJson (dict "config" $config "routes" .Values.routes)) -1 -}}
  {{- $name := base . -}}
  {{- if not (has $name $mounted) -}}
    {{- fail (printf "config names a file of the Secret %s, which is not mounted. Add it to secrets." $name) -}}
  {{- end -}}
{{- end -}}

{{- $drain := default "30s" ($config.timeouts).drain -}}
{{- if contains "${" $drain -}}
  {{- fail (printf "config.timeouts.drain is %s: write the duration out, for terminationGracePeriodSeconds must hold it." $drain) -}}
{{- end -}}
{{- $preStop := default 0 (((.Values.lifecycle).preStop).sleep).seconds | int64 -}}
{{- $needed := add $preStop (include "kakitome.seconds" $drain) -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $needed -}}
  {{- fail (printf "terminationGracePeriodSeconds is %d, but a pod needs %d seconds to end: the preStop sleep of %d s and config.timeouts.drain of %s. Set it to %d at least." (int64 .Values.terminationGracePeriodSeconds) $needed $preStop $drain $needed) -}}
{{- end -}}

{{- if .Values.tls.enabled -}}
  {{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
    {{- fail "tls.existingSecret and tls.certManager.enabled both say where the certificate comes from. Set one of them." -}}
  {{- end -}}
  {{- if not (or .Values.tls.existingSecret .Values.tls.certManager.enabled) -}}
    {{- fail "tls.enabled needs a certificate: name its Secret in tls.existingSecret, or set tls.certManager.enabled." -}}
  {{- end -}}
  {{- if .Values.tls.certManager.enabled -}}
    {{- if not .Values.tls.certManager.issuerRef.name -}}
      {{- fail "tls.certManager.enabled needs tls.certManager.issuerRef, such as {name: letsencrypt, kind: ClusterIssuer}." -}}
    {{- end -}}
    {{- if not .Values.tls.certManager.dnsNames -}}
      {{- fail "tls.certManager.enabled needs tls.certManager.dnsNames: the names that the certificate is for." -}}
    {{- end -}}
  {{- end -}}
{{- else if .Values.tls.certManager.enabled -}}
  {{- fail "tls.certManager.enabled does nothing without tls.enabled. Set both." -}}
{{- end -}}

{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
  {{- fail "autoscaling.enabled and keda.enabled would pull in two directions: KEDA makes an autoscaler of its own. Enable one of them." -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
  {{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
    {{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas." -}}
  {{- end -}}
  {{- if not (or .Values.autoscaling.targetCPU .Values.autoscaling.targetCPUUtilizationPercentage .Values.autoscaling.targetMemoryUtilizationPercentage .Values.autoscaling.targetConnections .Values.autoscaling.metrics) -}}
    {{- fail "autoscaling.enabled needs something to scale by: targetCPU, targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage, targetConnections or metrics." -}}
  {{- end -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
  {{- if gt (int .Values.keda.minReplicaCount) (int .Values.keda.maxReplicaCount) -}}
    {{- fail "keda.minReplicaCount is more than keda.maxReplicaCount." -}}
  {{- end -}}
  {{- if not (or .Values.keda.prometheus.serverAddress .Values.keda.triggers) -}}
    {{- fail "keda.enabled needs something to scale by: keda.prometheus.serverAddress, such as http://prometheus.monitoring:9090, or keda.triggers." -}}
  {{- end -}}
{{- end -}}

{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
  {{- fail "ingress.enabled needs ingress.hosts, such as [{host: ws.example.com, paths: [{path: /, pathType: Prefix}]}]." -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
  {{- $names := list -}}
  {{- range include "kakitome.ports" . | fromJsonArray -}}{{- $names = append $names .name -}}{{- end -}}
  {{- if not (has .Values.ingress.servicePort $names) -}}
    {{- fail (printf "ingress.servicePort is %s, but the Service has %s." .Values.ingress.servicePort (join ", " $names)) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
  {{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway that it hangs on, such as [{name: public}]." -}}
{{- end -}}

{{- $named := dict -}}
{{- range include "kakitome.routes" . | fromJsonArray -}}
  {{- if hasKey $named .name -}}
    {{- fail (printf "Two routes are named %s, in config.routes or routes. Give each its own name." .name) -}}
  {{- end -}}
  {{- $_ := set $named .name true -}}
{{- end -}}

{{- if and .Values.networkPolicy.enabled .Values.networkPolicy.egress.enabled (not .Values.networkPolicy.egress.rules) (not (include "kakitome.isDemo" .)) -}}
  {{- fail "networkPolicy.egress.enabled without networkPolicy.egress.rules lets the gateway reach DNS and no backend. Name them, such as [{to: [{podSelector: {matchLabels: {app: chat}}}], ports: [{port: 9000}]}]." -}}
{{- end -}}

{{- if or (has "IPv6" .Values.service.ipFamilies) (has .Values.service.ipFamilyPolicy (list "PreferDualStack" "RequireDualStack")) -}}
  {{- range $index, $listener := include "kakitome.listeners" . | fromJsonArray -}}
    {{- if hasPrefix "0.0.0.0:" $listener.bind -}}
      {{- fail (printf "The Service takes IPv6 (service.ipFamilies, service.ipFamilyPolicy), but a listener is bound to %s, which hears IPv4 only. Write [::]:%s, which hears both, in config.listeners (tls.bind)." $listener.bind (trimPrefix "0.0.0.0:" $listener.bind)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
  {{- fail "serviceMonitor.enabled and podMonitor.enabled would scrape every pod twice. Enable one of them." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.adminService.enabled) -}}
  {{- fail "serviceMonitor.enabled needs adminService.enabled; podMonitor.enabled does without a Service." -}}
{{- end -}}
{{- range $key := list "serviceMonitor" "podMonitor" -}}
  {{- $monitor := get $.Values $key -}}
  {{- if and $monitor.enabled $.Values.admin.existingSecret $monitor.namespace (ne $monitor.namespace $.Release.Namespace) -}}
    {{- fail (printf "%s.namespace is %s, but Prometheus reads the token of admin.existingSecret from the monitor's own namespace, and the Secret is in %s. Leave %s.namespace empty." $key $monitor.namespace $.Release.Namespace $key) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
