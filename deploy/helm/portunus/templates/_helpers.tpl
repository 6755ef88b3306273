{{- define "portunus.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Unique in the cluster, for objects without a namespace: two releases may have one name. */}}
{{- define "portunus.clusterName" -}}
{{- $name := include "portunus.fullname" . -}}
{{- if eq $name .Release.Namespace -}}{{ $name }}{{- else -}}{{ printf "%s-%s" .Release.Namespace $name }}{{- end -}}
{{- end -}}

{{- define "portunus.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portunus.labels" -}}
{{ include "portunus.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: portunus
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "portunus.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "portunus.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "portunus.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "portunus.electionId" -}}
{{ include "portunus.fullname" . }}-leader
{{- end -}}

{{- define "portunus.webhookName" -}}
{{ include "portunus.fullname" . }}-webhook
{{- end -}}

{{- define "portunus.webhookSecret" -}}
{{- .Values.webhook.certificate.existingSecret | default (printf "%s-webhook-tls" (include "portunus.fullname" .)) -}}
{{- end -}}

{{/* NAMESPACE/NAME of the Service whose addresses are published, or nothing. */}}
{{- define "portunus.publishService" -}}
{{- if .Values.publish.statusAddresses -}}
{{- else if .Values.publish.service -}}
{{- .Values.publish.service -}}
{{- else if and .Values.service.enabled (ne .Values.service.type "ClusterIP") -}}
{{- printf "%s/%s" .Release.Namespace (include "portunus.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The rules for one watched namespace, or for all. */}}
{{- define "portunus.watchRules" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
# Portunus asks for the type kubernetes.io/tls, and for what annotations name; RBAC can't say so.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, get, patch]
{{- end -}}

{{- define "portunus.gracePeriod" -}}
{{- $sum := add .Values.preStopDelaySeconds .Values.drainTimeoutSeconds -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $sum 5 -}}
{{- else -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $sum -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but preStopDelaySeconds and drainTimeoutSeconds are %d together: requests would be cut off" (int64 .Values.terminationGracePeriodSeconds) $sum) -}}
{{- end -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* What only makes sense together. The schema says what each value may be. */}}
{{- define "portunus.validate" -}}
{{- if and .Values.watchNamespaces .Values.watchNamespaceSelector -}}
{{- fail "watchNamespaces and watchNamespaceSelector: set one of them" -}}
{{- end -}}
{{- if and .Values.proxyProtocol (not .Values.trustedProxies) -}}
{{- fail "proxyProtocol needs trustedProxies: the networks of the load balancer; all other connections are closed" -}}
{{- end -}}
{{- if and .Values.publish.service .Values.publish.statusAddresses -}}
{{- fail "publish.service and publish.statusAddresses: set one of them" -}}
{{- end -}}
{{- end -}}

{{- define "portunus.subjects" }}
subjects:
  - kind: ServiceAccount
    name: {{ include "portunus.serviceAccountName" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}

{{/* An object of another namespace that a flag names: one Role for the one name. */}}
{{- define "portunus.named" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .role }}
  namespace: {{ .namespace }}
  labels: {{- include "portunus.labels" .root | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [{{ .resource }}]
    resourceNames: [{{ .name }}]
    verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .role }}
  namespace: {{ .namespace }}
  labels: {{- include "portunus.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .role }}
{{- include "portunus.subjects" .root }}
{{- end }}
