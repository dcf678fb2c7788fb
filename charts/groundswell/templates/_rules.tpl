{{- /* What the controller may do in a namespace whose families it serves. */}}
{{- define "groundswell.rules" -}}
# What people write. The controller reads it and reports in its status.
- apiGroups: [groundswell.dev]
  resources: [imagefamilies]
  verbs: [get, list, watch]
# The rows per image and the records of cascades: made, kept and thrown away by the controller alone.
- apiGroups: [groundswell.dev]
  resources: [managedimages]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [groundswell.dev]
  resources: [cascades]
  verbs: [get, list, watch, create, delete]
- apiGroups: [groundswell.dev]
  resources: [imagefamilies/status, managedimages/status, cascades/status]
  verbs: [patch]
# Families own what is made for them. Where OwnerReferencesPermissionEnforcement is on, as in OpenShift, this takes a right.
- apiGroups: [groundswell.dev]
  resources: [imagefamilies/finalizers, managedimages/finalizers]
  verbs: [update]
# A build is a Job, and so is a check. Ended ones are removed by their time to live. One that counts as failed and has not ended is
# deleted before the next attempt, and so is one that is cancelled, overtaken by a newer cascade, or of an image that is gone.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# How a build ended stands in its pod: exit codes, messages, evictions, images that can't be pulled.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Sources. Only metadata is watched; a ConfigMap that a family names is read.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
# Credentials for registries and Git. Only metadata is watched, so that a changed one is noticed; a Secret that a family names
# is read. Kubernetes has no right to watch metadata alone.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# Rollouts: a container's image or the pod template's annotation is patched, nothing else.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, watch, patch]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, patch]
# What a person would want to know. An Event that repeats is patched.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
