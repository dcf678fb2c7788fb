{{- /* A BuildStrategy: a builder of files/strategies with the settings of `buildStrategies.NAME`.
Takes root, name and settings. What a parameter of the builder decides cannot be set directly,
because a family's parameter would then have no effect. */}}

{{- define "groundswell.strategy" -}}
{{- $path := printf "buildStrategies.%s" .name }}
{{- $builder := .settings.builder | default .name }}
{{- $text := .root.Files.Get (printf "files/strategies/%s.yaml" $builder) }}
{{- if not $text }}
{{- $files := list }}
{{- range $file, $_ := .root.Files.Glob "files/strategies/*.yaml" }}
{{- $files = append $files (base $file | trimSuffix ".yaml") }}
{{- end }}
{{- fail (printf "%s.builder: this chart has no builder %q; it has %s" $path $builder (join ", " $files)) }}
{{- end }}
{{- $strategy := fromYaml $text }}
{{- $spec := $strategy.spec }}
{{- $pod := $spec.template.spec }}
{{- $container := first $pod.containers }}
{{- range $field := list "description" "timeout" "ttlAfterFinished" }}
{{- with index $.settings $field }}{{- $_ := set $spec $field . }}{{- end }}
{{- end }}
{{- if kindIs "slice" .settings.namespaces }}
{{- $_ := set $spec "namespaces" .settings.namespaces }}
{{- else if dig "securityContext" "privileged" false $container }}
{{- fail (printf "%s.namespaces: builds of %s are root on the node; list the namespaces whose families may use it, or [\"*\"]" $path $builder) }}
{{- end }}
{{- with .settings.image }}{{- $_ := set $container "image" . }}{{- end }}
{{- with .settings.digest }}
{{- if contains "@" $container.image }}
{{- fail (printf "%s.digest: %s.image has a digest already; set only one of them" $path $path) }}
{{- end }}
{{- $_ := set $container "image" (printf "%s@%s" $container.image .) }}
{{- end }}
{{- with .settings.nodeSelector }}
{{- $target := $pod.nodeSelector | default dict }}
{{- include "groundswell.override" (dict "path" (printf "%s.nodeSelector" $path) "strategy" $path "target" $target "values" .) }}
{{- $_ := set $pod "nodeSelector" $target }}
{{- end }}
{{- range $field := list "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" "serviceAccountName" }}
{{- with index $.settings $field }}{{- $_ := set $pod $field . }}{{- end }}
{{- end }}
{{- with .settings.seLinuxOptions }}
{{- $security := $container.securityContext | default dict }}
{{- $_ := set $security "seLinuxOptions" . }}
{{- $_ := set $container "securityContext" $security }}
{{- end }}
{{- with .settings.imagePullSecrets }}
{{- $secrets := list }}
{{- range . }}{{- $secrets = append $secrets (dict "name" .) }}{{- end }}
{{- $_ := set $pod "imagePullSecrets" $secrets }}
{{- end }}
{{- $metadata := $spec.template.metadata | default dict }}
{{- range $field, $value := dict "annotations" .settings.podAnnotations "labels" .settings.podLabels }}
{{- with $value }}
{{- $target := index $metadata $field | default dict }}
{{- $_ := set $metadata $field (mergeOverwrite $target .) }}
{{- end }}
{{- end }}
{{- $_ := set $spec.template "metadata" $metadata }}
{{- range $name, $value := .settings.parameters | default dict }}
{{- include "groundswell.parameter" (dict "path" (printf "%s.parameters.%s" $path $name) "spec" $spec "name" $name "value" $value) }}
{{- end }}
{{- toYaml $strategy }}
{{- end }}

{{- /* Sets `values` in `target`, unless a parameter decides one of them. */}}
{{- define "groundswell.override" -}}
{{- range $name, $value := .values }}
{{- $parameter := index $.target $name | toString | regexFind "parameters\\.[A-Za-z0-9_]+" }}
{{- if $parameter }}
{{- fail (printf "%s.%s: the builder takes it from a parameter; set %s.%s instead" $.path $name $.strategy $parameter) }}
{{- end }}
{{- $_ := set $.target $name (toString $value) }}
{{- end }}
{{- end }}

{{- /* Changes or adds one parameter: a text is its default; an object has its fields: default,
description, allowed, pattern, minimum and maximum. */}}
{{- define "groundswell.parameter" -}}
{{- $changes := .value }}
{{- if not (kindIs "map" .value) }}{{- $changes = dict "default" (toString .value) }}{{- end }}
{{- $found := dict }}
{{- $names := list }}
{{- range .spec.parameters }}
{{- $names = append $names .name }}
{{- if eq .name $.name }}{{- $found = . }}{{- end }}
{{- end }}
{{- if not $found }}
{{- if not (regexMatch (printf "parameters\\.%s\\b" .name) (toJson .spec.template)) }}
{{- fail (printf "%s: nothing uses this parameter; the builder has %s, and the other settings of the strategy may name a new one as {{ parameters.%s }}" .path (join ", " $names) .name) }}
{{- end }}
{{- $found = dict "name" .name "default" "" }}
{{- $_ := set .spec "parameters" (append (.spec.parameters | default list) $found) }}
{{- end }}
{{- range $field, $value := $changes }}{{- $_ := set $found $field $value }}{{- end }}
{{- if and $found.allowed (not (has $found.default $found.allowed)) }}
{{- fail (printf "%s: the default %q is not one of `allowed`: %s" .path $found.default (join ", " $found.allowed)) }}
{{- end }}
{{- if and $found.pattern (not (regexMatch (printf "^(%s)$" $found.pattern) $found.default)) }}
{{- fail (printf "%s: the default %q does not match `pattern`: %s" .path $found.default $found.pattern) }}
{{- end }}
{{- end }}
