{{- /* The controller's permissions in a namespace whose families it serves. */}}
{{- define "groundswell.rules" -}}
# Users write families. The controller reads them and reports in their status.
- apiGroups: [groundswell.dev]
  resources: [imagefamilies]
  verbs: [get, list, watch]
# The rows per image and the records of cascades. Only the controller creates and deletes them. It
# patches the owner of those that have none, such as restored ones.
- apiGroups: [groundswell.dev]
  resources: [managedimages, cascades]
  verbs: [get, list, watch, create, patch, delete]
# Users create requests. The controller makes the family their owner, and deletes those that have
# ended a while ago.
- apiGroups: [groundswell.dev]
  resources: [familyrequests]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [groundswell.dev]
  resources: [imagefamilies/status, managedimages/status, cascades/status, familyrequests/status]
  verbs: [patch]
# Families own the objects created for them. With OwnerReferencesPermissionEnforcement, as in
# OpenShift, this needs a permission.
- apiGroups: [groundswell.dev]
  resources: [imagefamilies/finalizers, managedimages/finalizers]
  verbs: [update]
# A build is a Job, and so is a check. The cluster deletes ended Jobs after their time to live. The
# controller deletes a Job that counts as failed but has not ended, before the next attempt. It also
# deletes a Job that is cancelled, superseded by a newer cascade, or belongs to a removed image, and
# a Job that has a result while a sidecar keeps its pod running.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# A build's pod shows how it ended: exit codes, messages, evictions, images that cannot be pulled.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Only Events say why a node does not start a pod: no user namespaces, no free address, a missing
# volume. The controller lists those of a pod that has waited for its node for a minute.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# A changed quota wakes the builds that wait for it. The controller watches metadata only.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list, watch]
# Sources. The controller watches metadata only, and reads the ConfigMaps that a family names.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
# Credentials for registries and Git. The controller watches metadata only, to notice changes, and
# reads the Secrets that a family names. Kubernetes has no permission for metadata alone.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# Rollouts: the controller patches the image of a container or the annotation of the pod template,
# nothing else.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, watch, patch]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, patch]
# Events for users. A repeated Event is patched.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
