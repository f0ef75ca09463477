{{/* Names, labels, and what several objects share. */}}

{{- define "kakitome.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters: the longest suffix, `-dashboards`, must fit into a name of 63. */}}
{{- define "kakitome.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kakitome.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kakitome.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "kakitome.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kakitome.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kakitome.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kakitome.selectorLabels" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the pods: another version of the chart alone is no cause to replace them, and to close every connection. */}}
{{- define "kakitome.podOwnLabels" -}}
{{- omit (include "kakitome.labels" . | fromYaml) "helm.sh/chart" (ternary "app.kubernetes.io/version" "" (not (empty .Values.image.digest))) | toYaml -}}
{{- end -}}

{{/* The metadata of an object. Takes a dict: root, and where they apply name, namespace, labels, annotations. */}}
{{- define "kakitome.metadata" -}}
name: {{ default (include "kakitome.fullname" .root) .name }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- merge (include "kakitome.labels" .root | fromYaml) (default dict .labels) | toYaml | nindent 2 }}
{{- with merge (deepCopy (default dict .annotations)) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kakitome.image" -}}
{{- with default (.Values.global).imageRegistry .Values.image.registry -}}{{ . }}/{{- end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest -}}@{{ .Values.image.digest }}{{- else -}}:{{ default .Chart.AppVersion .Values.image.tag }}{{- end -}}
{{- end -}}

{{/* The chart's own, and those that a chart above this one gives to all its parts, by name or as {name}. */}}
{{- define "kakitome.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat .Values.imagePullSecrets (default list (.Values.global).imagePullSecrets) -}}
  {{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- toJson (uniq $secrets) -}}
{{- end -}}

{{- define "kakitome.configMapName" -}}
{{- default (include "kakitome.fullname" .) .Values.existingConfigMap -}}
{{- end -}}

{{/* Environment variables, as a container has them. */}}
{{- define "kakitome.environment" -}}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kakitome.adminTokenFile" -}}{{ printf "%s/%s" "/run/secrets/kakitome/admin" .Values.admin.existingSecretKey }}{{- end -}}

{{- define "kakitome.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "kakitome.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* How a monitor proves to the admin listener that it may read the metrics. */}}
{{- define "kakitome.scrapeAuthorization" -}}
{{- with .Values.admin.existingSecret }}
authorization:
  type: Bearer
  credentials:
    name: {{ . }}
    key: {{ $.Values.admin.existingSecretKey }}
{{- end }}
{{- end -}}

{{/* Selects all connections of this release's pods, whichever monitor scrapes them. */}}
{{- define "kakitome.connectionsQuery" -}}
sum(kakitome_connections{namespace="{{ .Release.Namespace }}",pod=~"{{ include "kakitome.fullname" . }}-[a-z0-9]+-[a-z0-9]+"})
{{- end -}}
