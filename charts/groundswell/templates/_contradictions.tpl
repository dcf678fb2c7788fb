{{- /* Values that contradict each other, and that the schema cannot compare. Each is refused by
name. */}}

{{- define "groundswell.contradictions" -}}
{{- if and .Values.caBundle.configMap .Values.caBundle.secret }}
{{- fail "caBundle.configMap and caBundle.secret are both set; set only one of them" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled are both set, so every series would be scraped twice; set only one of them" }}
{{- end }}
{{- if and .Values.hints.enabled (not .Values.hints.tokens.secret) }}
{{- fail "hints.enabled is set and hints.tokens.secret is empty, so nobody could give a hint; set it to a Secret with tokens" }}
{{- end }}
{{- if and .Values.hints.enabled (eq (regexFind "[0-9]+$" .Values.listen | int) (.Values.hints.port | int)) }}
{{- fail (printf "hints.port is the port of listen, %d; set it to another one" (.Values.hints.port | int)) }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty, so no ServiceAccount would exist; set serviceAccount.name to one that does" }}
{{- end }}
{{- if and .Values.rbac.aggregate (not .Values.rbac.create) }}
{{- fail "rbac.aggregate needs rbac.create, which is false; set rbac.aggregate to false, and create the roles of users yourself" }}
{{- end }}
{{- if or (hasPrefix "127." .Values.listen) (hasPrefix "[::1]" .Values.listen) (hasPrefix "localhost" .Values.listen) }}
{{- fail (printf "listen: the kubelet cannot reach %s, so both probes would fail; listen on all addresses, such as [::]:8080" .Values.listen) }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- range .Values.registries.plainHttp }}
{{- include "groundswell.egress" (dict "values" $.Values "path" "registries.plainHttp" "url" (printf "http://%s" .)) }}
{{- end }}
{{- range $registry, $mirrors := .Values.registries.mirrors }}
{{- range $mirrors }}
{{- include "groundswell.egress" (dict "values" $.Values "path" (printf "registries.mirrors.%s" $registry) "url" .) }}
{{- end }}
{{- end }}
{{- range $scheme := list "http" "https" }}
{{- with index $.Values.proxy $scheme }}
{{- include "groundswell.egress" (dict "values" $.Values "path" (printf "proxy.%s" $scheme) "url" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Fails if the NetworkPolicy forbids the port of a URL. */}}
{{- define "groundswell.egress" -}}
{{- $port := (urlParse .url).host | regexFind ":[0-9]+$" | trimPrefix ":" }}
{{- if not $port }}{{- $port = ternary "443" "80" (hasPrefix "https:" .url) }}{{- end }}
{{- $allowed := list }}
{{- range .values.networkPolicy.egressPorts }}{{- $allowed = append $allowed (toString .) }}{{- end }}
{{- if not (has $port $allowed) }}
{{- fail (printf "%s: %s needs port %s, which networkPolicy.egressPorts does not list; add it there" .path .url $port) }}
{{- end }}
{{- end }}
