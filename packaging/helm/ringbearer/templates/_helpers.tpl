{{- define "ringbearer.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ringbearer.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ringbearer.labels" -}}
{{ include "ringbearer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What cannot work is said before anything is installed. */}}
{{- define "ringbearer.refuse" -}}
{{- if not (has .Values.mode (list "sidecar" "shared")) -}}
{{- fail "mode must be \"sidecar\" or \"shared\"" -}}
{{- end -}}
{{- if not .Values.application.secret -}}
{{- fail "application.secret is missing: name the Secret that has client_id and client_secret" -}}
{{- end -}}
{{- if not .Values.identities -}}
{{- fail "identities is empty: add one with name, secret and jwtKey" -}}
{{- end -}}
{{- if and (eq .Values.mode "sidecar") (not .Values.app.image) -}}
{{- fail "app.image is missing: in sidecar mode the pod is your app's, with a proxy beside it" -}}
{{- end -}}
{{- if and (eq .Values.mode "shared") (not .Values.clients) (not .Values.allowAnyone) -}}
{{- fail "clients is empty, so whoever reaches the Service would act as the identity: add clients (ringbearer keygen), or set allowAnyone if the network keeps strangers out" -}}
{{- end -}}
{{- if and (eq .Values.mode "shared") (gt (int .Values.replicas) 1) (not .Values.redis.secret) -}}
{{- fail "redis.secret is missing: replicas share sessions and the budget of token requests through it; or set replicas to 1" -}}
{{- end -}}
{{- end -}}

{{/* The proxy's container, for either mode. */}}
{{- define "ringbearer.container" -}}
name: ringbearer
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["serve", "--config", "/etc/ringbearer/proxy.toml"]
ports:
  {{- if eq .Values.mode "shared" }}
  - name: http
    containerPort: {{ .Values.port }}
  {{- end }}
  - name: admin
    containerPort: {{ .Values.adminPort }}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 3
{{- if gt (int .Values.preStopSleepSeconds) 0 }}
lifecycle:
  preStop:
    sleep: {seconds: {{ .Values.preStopSleepSeconds }}}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - name: configuration
    mountPath: /etc/ringbearer
    readOnly: true
  - name: ringbearer-secrets
    mountPath: /run/secrets/ringbearer
    readOnly: true
  {{- if .Values.redis.caConfigMap }}
  - name: redis-ca
    mountPath: /run/redis-ca
    readOnly: true
  {{- end }}
{{- end -}}
