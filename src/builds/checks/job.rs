//! Turns a check of a digest into a Job. Pure and deterministic, as for builds: a crash between
//! creating and recording the Job cannot start a second one.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Affinity, Capabilities, Container, EnvVar, LocalObjectReference, PodSecurityContext,
            PodSpec, PodTemplateSpec, SeccompProfile, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest, Sha256};

use crate::{
    api::{RegistryCredential, UserNamespace, labels},
    builds::{
        checks::{CheckRequest, credentials},
        job::{
            BuildEnvironment, DOCKER_CONFIG_VOLUME, container_names, credential_inputs, env_var,
            memory_volume, restricted_security_context, short_name,
        },
        platform::select_nodes,
        pod_paths,
        pod_settings::CheckSettings,
    },
};

/// The container that runs the check.
pub const CHECK_CONTAINER: &str = "check";
/// The environment variable with the new image: repository and digest.
pub const IMAGE_VARIABLE: &str = "GROUNDSWELL_IMAGE";
/// The environment variable with the digest of the new image.
pub const DIGEST_VARIABLE: &str = "GROUNDSWELL_DIGEST";

/// The resource requests of a check, unless the operator's configuration says otherwise.
const REQUESTS: [(&str, &str); 3] =
    [("cpu", "50m"), ("memory", "64Mi"), ("ephemeral-storage", "64Mi")];
/// The resource limits of a check. A scanner unpacks images and its database; a check that needs
/// more than this is rather a build.
const LIMITS: [(&str, &str); 2] = [("memory", "2Gi"), ("ephemeral-storage", "10Gi")];
/// The resource requests of the step `credentials`, unless the operator's configuration says
/// otherwise.
const STEP_REQUESTS: [(&str, &str); 2] = [("cpu", "10m"), ("memory", "32Mi")];
/// The resource limits of the step `credentials`, unless the operator's configuration says
/// otherwise.
const STEP_LIMITS: [(&str, &str); 1] = [("memory", "128Mi")];

/// Returns the name of a check's Job: `<image>-check-<12 hexadecimal digits>-<attempt>`, at most 60
/// characters for attempts below 100.
#[must_use]
pub fn job_name(request: &CheckRequest) -> String {
    let CheckRequest { family, image, digest, check, revision, attempt, .. } = request;
    let hash = hex::encode(Sha256::digest(format!(
        "{}/{image}/{digest}/{}/{revision}",
        family.uid, check.name
    )));
    format!("{}-check-{}-{attempt}", short_name(image), hash.get(..12).unwrap_or_default())
}

/// Returns the Job of a check.
#[must_use]
pub fn job(request: &CheckRequest, environment: &BuildEnvironment) -> Job {
    let metadata = pod_metadata(job_labels(request), &environment.pods.checks);
    let pod = pod(request, environment);
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.extend(job_annotations(request, &pod));
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(request)),
            namespace: Some(request.family.namespace.clone()),
            // Policies and queues read those of the Job, so it has the configured ones as well.
            labels: metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![request.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(i64::from(request.check.timeout.as_secs())),
            ttl_seconds_after_finished: Some(
                i32::try_from(request.ttl_after_finished.as_secs()).unwrap_or(i32::MAX),
            ),
            pod_replacement_policy: Some("Failed".into()),
            template: PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Returns the metadata of the pod: the configured one, with the labels that the controller reads.
fn pod_metadata(labels: BTreeMap<String, String>, settings: &CheckSettings) -> ObjectMeta {
    let mut all = settings.pod_labels.clone();
    all.extend(labels);
    let annotations = &settings.pod_annotations;
    ObjectMeta {
        labels: Some(all),
        annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        ..ObjectMeta::default()
    }
}

fn job_labels(request: &CheckRequest) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, labels::MANAGED_BY_VALUE.to_owned()),
        (labels::COMPONENT, labels::COMPONENT_CHECK.to_owned()),
        (labels::FAMILY, request.family.name.clone()),
        (labels::IMAGE, request.image.clone()),
        (labels::CHECK, request.check.name.clone()),
        (labels::CHECK_REVISION, request.revision.clone()),
        (labels::ATTEMPT, request.attempt.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn job_annotations(request: &CheckRequest, pod: &PodSpec) -> BTreeMap<String, String> {
    let annotations = [
        (labels::CHECKED_DIGEST, Some(request.digest.clone())),
        (labels::CHECK_IMAGE, request.check.image.clone()),
        (labels::CONTAINERS, Some(container_names(pod))),
    ];
    let annotations = annotations.into_iter();
    annotations.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn pod(request: &CheckRequest, environment: &BuildEnvironment) -> PodSpec {
    let settings = &environment.pods.checks;
    let class = |name: &String| (!name.is_empty()).then(|| name.clone());
    let own_secrets = settings.image_pull_secrets.iter();
    let own_secrets =
        own_secrets.map(|name| LocalObjectReference { name: name.clone() }).collect::<Vec<_>>();
    let mut pod = PodSpec {
        containers: vec![container(request, settings)],
        node_selector: Some(select_nodes(Some(settings.node_selector.clone()), &request.platform)),
        tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.clone()),
        affinity: (settings.affinity != Affinity::default()).then(|| settings.affinity.clone()),
        topology_spread_constraints: (!settings.topology_spread_constraints.is_empty())
            .then(|| settings.topology_spread_constraints.clone()),
        priority_class_name: class(&settings.priority_class_name),
        runtime_class_name: class(&settings.runtime_class_name),
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_users: (request.user_namespace == UserNamespace::Required).then_some(false),
        image_pull_secrets: environment.pull_secrets(Some(own_secrets), &request.credentials),
        // Nothing that a check writes is kept, so it needs no time to shut down cleanly.
        termination_grace_period_seconds: Some(5),
        security_context: Some(pod_security_context(&settings.pod_security_context)),
        ..PodSpec::default()
    };
    if request.check.image.is_some() {
        for container in &mut pod.containers {
            environment.proxy.add_to(container.env.get_or_insert_default());
        }
        let mut credentials = request.credentials.clone();
        credentials.retain(RegistryCredential::is_pull_only);
        if !credentials.is_empty() || !environment.ca_bundle.is_empty() {
            add_credentials(request, credentials, environment, &mut pod);
        }
    }
    pod
}

/// Returns the configured security context of the pod, with the default seccomp profile.
fn pod_security_context(configured: &PodSecurityContext) -> PodSecurityContext {
    let default = || SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() };
    PodSecurityContext {
        seccomp_profile: Some(configured.seccomp_profile.clone().unwrap_or_else(default)),
        ..configured.clone()
    }
}

/// Returns the configured security context of the check's container, without any capability unless
/// it adds some.
fn security_context(configured: &SecurityContext) -> SecurityContext {
    let none = || Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() };
    SecurityContext {
        allow_privilege_escalation: configured.allow_privilege_escalation.or(Some(false)),
        capabilities: Some(configured.capabilities.clone().unwrap_or_else(none)),
        ..configured.clone()
    }
}

fn container(request: &CheckRequest, settings: &CheckSettings) -> Container {
    let check = &request.check;
    let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
    let given = [(IMAGE_VARIABLE, request.pinned()), (DIGEST_VARIABLE, request.digest.clone())];
    let mut env: Vec<EnvVar> = given.iter().map(|(name, value)| env_var(name, value)).collect();
    let own = check.env.iter().filter(|(name, _)| !given.iter().any(|(given, _)| given == name));
    env.extend(own.map(|(name, value)| env_var(name, value)));
    Container {
        name: CHECK_CONTAINER.into(),
        image: Some(check.image.clone().unwrap_or_else(|| request.pinned())),
        command: list(&check.command),
        args: list(&check.args),
        env: Some(env),
        resources: Some(settings.resources.or_default(&REQUESTS, &LIMITS)),
        security_context: Some(security_context(&settings.container_security_context)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    }
}

/// Adds the init container that writes a Docker configuration for the new image, with the private
/// certificate authorities, and mounts both into the check. No Secret is mounted into the check.
fn add_credentials(
    request: &CheckRequest,
    credentials: Vec<RegistryCredential>,
    environment: &BuildEnvironment,
    pod: &mut PodSpec,
) {
    let writable_mount = VolumeMount {
        name: DOCKER_CONFIG_VOLUME.into(),
        mount_path: pod_paths::DOCKER_CONFIG.into(),
        read_only: Some(false),
        ..VolumeMount::default()
    };
    let read_only_mount = VolumeMount { read_only: Some(true), ..writable_mount.clone() };
    let (volumes, mounts): (Vec<Volume>, Vec<VolumeMount>) =
        credential_inputs(&credentials).unzip();
    let ca_bundle = environment.ca_bundle.pem().to_owned();
    let trusts_own = !ca_bundle.is_empty();
    let spec = credentials::CredentialsSpec { image: request.pinned(), credentials, ca_bundle };
    let steps = &environment.pods.steps;
    let step = Container {
        name: credentials::SUBCOMMAND.into(),
        image: Some(environment.operator_image.clone()),
        image_pull_policy: environment.image_pull_policy.clone(),
        args: Some(vec![credentials::SUBCOMMAND.into()]),
        env: Some(vec![env_var(credentials::CREDENTIALS_VARIABLE, &spec.to_variable())]),
        volume_mounts: Some(mounts.into_iter().chain([writable_mount]).collect()),
        resources: Some(steps.of(&steps.credentials).or_default(&STEP_REQUESTS, &STEP_LIMITS)),
        security_context: Some(restricted_security_context(None)),
        ..Container::default()
    };
    pod.init_containers = Some(vec![step]);
    pod.volumes = Some(volumes.into_iter().chain([memory_volume(DOCKER_CONFIG_VOLUME)]).collect());
    for container in &mut pod.containers {
        container.volume_mounts.get_or_insert_default().push(read_only_mount.clone());
        let env = container.env.get_or_insert_default();
        if env.iter().all(|variable| variable.name != "DOCKER_CONFIG") {
            env.push(env_var("DOCKER_CONFIG", pod_paths::DOCKER_CONFIG));
        }
        if trusts_own && env.iter().all(|variable| variable.name != "SSL_CERT_FILE") {
            env.push(env_var("SSL_CERT_FILE", pod_paths::CHECK_TRUST_FILE));
        }
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
