{{- /* What the controller and the pod of `helm test` share: both must reach registries in the same
way. */}}

{{- define "groundswell.environment" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: OPERATOR_IMAGE
  value: {{ include "groundswell.image" . | quote }}
- name: OPERATOR_IMAGE_PULL_POLICY
  value: {{ .Values.image.pullPolicy }}
{{- with .Values.buildImagePullSecrets }}
- name: BUILD_IMAGE_PULL_SECRETS
  value: {{ join "," . | quote }}
{{- end }}
- name: REGISTRIES_CONFIG
  value: /etc/groundswell/registries.yaml
- name: BUILDS_CONFIG
  value: /etc/groundswell/builds.yaml
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: CA_BUNDLE
  value: /etc/groundswell-ca/ca.crt
{{- end }}
{{- with .Values.proxy.http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.proxy.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "groundswell.mounts" -}}
- name: configuration
  mountPath: /etc/groundswell
  readOnly: true
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: ca-bundle
  mountPath: /etc/groundswell-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "groundswell.volumes" -}}
- name: configuration
  configMap:
    name: {{ include "groundswell.name" . }}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: ca-bundle
  configMap:
    name: {{ .configMap }}
    items:
    - key: {{ .key }}
      path: ca.crt
{{- else if .secret }}
- name: ca-bundle
  secret:
    secretName: {{ .secret }}
    items:
    - key: {{ .key }}
      path: ca.crt
{{- end }}
{{- end }}
{{- end }}
