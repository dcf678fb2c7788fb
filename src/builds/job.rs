//! Turns a build request and a strategy into a Job. Pure and deterministic: the same build always
//! gives the same Job under the same name, so that a crash between creating and recording the Job
//! cannot start a second build.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar,
            KeyToPath, LocalObjectReference, PodSpec, PodTemplateSpec, SeccompProfile,
            SecretVolumeSource, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use sha2::{Digest, Sha256};

use crate::{
    api::{BuildStrategy, CredentialUse, RegistryCredential, StrategyRef, labels},
    builds::{
        platform::select_nodes,
        pod_paths,
        pod_settings::PodSettings,
        prepare::{
            docker_config::mounted_name,
            spec::{PREPARE_VARIABLE, PrepareSpec},
        },
        proxy::ProxyVariables,
        request::{BuildRequest, ResolvedSource},
        strategy::{self, StrategyError},
    },
    identity::Fingerprint,
    registry::{CaBundle, Platform, SecretForm},
};

/// The name of the init container that Groundswell adds.
pub const PREPARE: &str = "prepare";
/// The volume that `prepare` and the builder share.
pub const WORKSPACE_VOLUME: &str = "workspace";
/// The volume with the merged credentials.
pub const DOCKER_CONFIG_VOLUME: &str = "docker-config";
/// Prefix of the names of the volumes that only `prepare` mounts.
pub const INPUT_VOLUME_PREFIX: &str = "groundswell-";

/// The user that `prepare` runs as if the builder runs as root. Root can read the files of this
/// user. The operator's image names the same one.
const PREPARE_USER: i64 = 65532;
/// Size limit of the volume with the build context, on the node's disk.
const WORKSPACE_SIZE: &str = "2Gi";
/// Size limit of the volume with the credentials, in memory.
const DOCKER_CONFIG_SIZE: &str = "4Mi";
/// What `prepare` requests, unless the operator's configuration says otherwise.
const PREPARE_REQUESTS: [(&str, &str); 2] = [("cpu", "10m"), ("memory", "64Mi")];
/// What `prepare` may use at most, unless the operator's configuration says otherwise.
const PREPARE_LIMITS: [(&str, &str); 1] = [("memory", "512Mi")];
/// Maximum number of characters of an image's name in the names of its Jobs.
const MAX_IMAGE_NAME: usize = 30;

/// The settings of the operator that all of its builds share.
#[derive(Clone, Debug, Default)]
pub struct BuildEnvironment {
    /// The operator's own image, which contains the command `prepare`.
    pub operator_image: String,
    /// The pull policy of that image, or `None` for the default of Kubernetes.
    pub image_pull_policy: Option<String>,
    /// The operator's configuration of registries: their mirrors, and which have no TLS.
    pub registries: serde_json::Value,
    /// Names of Secrets for pulling the images of build and check pods, in addition to the family's
    /// credentials. They must exist in the family's namespace; the kubelet ignores missing ones.
    pub image_pull_secrets: Vec<String>,
    /// The operator's configuration of its own steps and of checks.
    pub pods: PodSettings,
    /// Private certificate authorities that builds trust in addition to those of the system.
    pub ca_bundle: CaBundle,
    /// The proxy that builds use.
    pub proxy: ProxyVariables,
    /// The default of families that have built nothing yet: the operator's setting, or else its own
    /// platform.
    pub platform: Platform,
}

impl BuildEnvironment {
    /// Returns the pull secrets of a pod: those that it names already, the family's credentials,
    /// and those of the operator's configuration, each once.
    pub(super) fn pull_secrets(
        &self,
        own: Option<Vec<LocalObjectReference>>,
        credentials: &[RegistryCredential],
    ) -> Option<Vec<LocalObjectReference>> {
        let mut secrets = own.unwrap_or_default();
        let pulling = credentials.iter().filter(|secret| secret.is_for(CredentialUse::Pull));
        let pulling = pulling.map(|secret| &secret.name);
        for name in pulling.chain(&self.image_pull_secrets) {
            if secrets.iter().all(|secret| secret.name != *name) {
                secrets.push(LocalObjectReference { name: name.clone() });
            }
        }
        // A pod that names none gets those of its ServiceAccount.
        (!secrets.is_empty()).then_some(secrets)
    }
}

/// Returns the name of the Job that builds an image at a fingerprint:
/// `<image>-<12 hexadecimal digits>-<attempt>`, at most 54 characters for attempts below 100.
#[must_use]
pub fn job_name(family_uid: &str, image: &str, fingerprint: &Fingerprint, attempt: i32) -> String {
    let hash = hex::encode(Sha256::digest(format!("{family_uid}/{image}/{fingerprint}")));
    format!("{}-{}-{attempt}", short_name(image), hash.get(..12).unwrap_or_default())
}

/// Returns the part of an image's name that is in the names of its Jobs.
pub(super) fn short_name(image: &str) -> String {
    let short: String = image.chars().take(MAX_IMAGE_NAME).collect();
    short.trim_end_matches('-').into()
}

/// Returns the Job of a build.
///
/// # Errors
/// Returns a [`StrategyError`] if the strategy does not render to a pod that can run.
pub fn job(
    request: &BuildRequest,
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    environment: &BuildEnvironment,
) -> Result<Job, StrategyError> {
    let (template, mut pod) = strategy::render_pod(request, strategy, chosen)?;
    let spec =
        PrepareSpec::new(request, strategy.spec.user_namespace, environment.registries.clone())
            .with_builder(&pod)
            .with_ca_bundle(&environment.ca_bundle);
    let (inputs, input_mounts) = inputs(request);
    let prepare = prepare_container(&pod, environment, &spec, input_mounts);
    for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
        add_shared_mounts(container);
        environment.proxy.add_to(container.env.get_or_insert_default());
    }
    pod.init_containers.get_or_insert_default().insert(0, prepare);
    pod.volumes.get_or_insert_default().extend(shared_volumes().into_iter().chain(inputs));
    pod.image_pull_secrets =
        environment.pull_secrets(pod.image_pull_secrets.take(), &request.credentials);
    pod.node_selector = Some(select_nodes(pod.node_selector.take(), &request.platform));
    pod.restart_policy = Some("Never".into());
    pod.automount_service_account_token = Some(false);
    pod.enable_service_links = Some(false);

    let mut metadata = template.metadata.unwrap_or_default();
    metadata.labels.get_or_insert_default().extend(job_labels(request));
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.extend(job_annotations(request, &pod));
    annotations.insert(labels::STRATEGY.into(), chosen.name.clone());
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(job_name(
                &request.family.uid,
                &request.image,
                &request.identity.fingerprint,
                request.identity.attempt,
            )),
            namespace: Some(request.family.namespace.clone()),
            // Policies and queues read those of the Job, so it has the strategy's as well.
            labels: metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![request.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            active_deadline_seconds: Some(i64::from(strategy.spec.timeout.as_secs())),
            ttl_seconds_after_finished: Some(
                i32::try_from(strategy.spec.ttl_after_finished.as_secs()).unwrap_or(i32::MAX),
            ),
            pod_replacement_policy: Some("Failed".into()),
            template: PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) },
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// Whether the API server dropped `hostUsers: false` from a Job that it was sent. It does so
/// silently if user namespaces are disabled, and the build would run with its capabilities on the
/// host.
#[must_use]
pub fn drops_user_namespace(sent: &Job, returned: &Job) -> bool {
    let host_users = |job: &Job| job.spec.as_ref()?.template.spec.as_ref()?.host_users;
    host_users(sent) == Some(false) && host_users(returned) != Some(false)
}

/// Returns the names of all containers of a pod, comma separated; see [`labels::CONTAINERS`].
pub(in crate::builds) fn container_names(pod: &PodSpec) -> String {
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    containers.map(|container| container.name.as_str()).collect::<Vec<_>>().join(",")
}

fn job_annotations(request: &BuildRequest, pod: &PodSpec) -> BTreeMap<String, String> {
    let identity = &request.identity;
    BTreeMap::from([
        (labels::BUILD.into(), identity.number.to_string()),
        (labels::OWN_INPUTS.into(), identity.own_inputs.to_string()),
        (labels::USER_CAUSED.into(), identity.user_caused.to_string()),
        (labels::UPSTREAMS.into(), identity.upstreams.join(",")),
        (labels::CONTAINERS.into(), container_names(pod)),
        (labels::REPOSITORY.into(), request.repository.clone()),
    ])
}

fn job_labels(request: &BuildRequest) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, labels::MANAGED_BY_VALUE.to_owned()),
        (labels::COMPONENT, labels::COMPONENT_BUILD.to_owned()),
        (labels::FAMILY, request.family.name.clone()),
        (labels::IMAGE, request.image.clone()),
        (labels::FINGERPRINT, request.identity.fingerprint.to_string()),
        (labels::ATTEMPT, request.identity.attempt.to_string()),
        (labels::CASCADE, request.identity.cascade.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Mounts the build context and the merged credentials into a container of the strategy. It gets no
/// input of `prepare`.
fn add_shared_mounts(container: &mut Container) {
    container.volume_mounts.get_or_insert_default().extend(shared_mounts());
    let env = container.env.get_or_insert_default();
    env.retain(|variable| variable.name != "DOCKER_CONFIG");
    env.push(env_var("DOCKER_CONFIG", pod_paths::DOCKER_CONFIG));
    container.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".into());
}

fn prepare_container(
    pod: &PodSpec,
    environment: &BuildEnvironment,
    spec: &PrepareSpec,
    input_mounts: Vec<VolumeMount>,
) -> Container {
    let user = builder_user(pod);
    let steps = &environment.pods.steps;
    let mut env = vec![env_var(PREPARE_VARIABLE, &spec.to_variable())];
    if !environment.ca_bundle.is_empty() {
        // Git trusts one file. `prepare` writes it, with the authorities of the system in it.
        env.push(env_var("SSL_CERT_FILE", pod_paths::TRUST_FILE));
    }
    environment.proxy.add_to(&mut env);
    Container {
        name: PREPARE.into(),
        image: Some(environment.operator_image.clone()),
        image_pull_policy: environment.image_pull_policy.clone(),
        args: Some(vec![PREPARE.into()]),
        env: Some(env),
        volume_mounts: Some(shared_mounts().into_iter().chain(input_mounts).collect()),
        resources: Some(steps.of(&steps.prepare).or_default(&PREPARE_REQUESTS, &PREPARE_LIMITS)),
        security_context: Some(restricted_security_context(user)),
        ..Container::default()
    }
}

/// The user and group that a container runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContainerUser {
    user: i64,
    group: i64,
}

/// Returns the security context of the operator's own containers, which need no privilege. Without
/// a user, the image or the cluster decides: `OpenShift` assigns one per namespace and rejects
/// any other.
pub(super) fn restricted_security_context(user: Option<ContainerUser>) -> SecurityContext {
    SecurityContext {
        run_as_user: user.map(|user| user.user),
        run_as_group: user.map(|user| user.group),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            ..Capabilities::default()
        }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}

/// Returns the user that `prepare` runs as: that of the builder, because only the owner of the
/// credentials can read them. A builder that runs as root reads them with `CAP_DAC_OVERRIDE`, which
/// containers have by default. `None` if the strategy names no user.
fn builder_user(pod: &PodSpec) -> Option<ContainerUser> {
    let container =
        pod.containers.first().and_then(|container| container.security_context.as_ref());
    let pod_context = pod.security_context.as_ref();
    let user =
        container.and_then(|c| c.run_as_user).or_else(|| pod_context.and_then(|p| p.run_as_user));
    let group =
        container.and_then(|c| c.run_as_group).or_else(|| pod_context.and_then(|p| p.run_as_group));
    Some(match user? {
        user if user > 0 => {
            ContainerUser { user, group: group.filter(|group| *group > 0).unwrap_or(user) }
        }
        _ => ContainerUser { user: PREPARE_USER, group: PREPARE_USER },
    })
}

fn shared_volumes() -> [Volume; 2] {
    [empty_volume(WORKSPACE_VOLUME, None, WORKSPACE_SIZE), memory_volume(DOCKER_CONFIG_VOLUME)]
}

/// Returns a small volume for credentials, which is in memory and never on a disk.
pub(super) fn memory_volume(name: &str) -> Volume {
    empty_volume(name, Some("Memory"), DOCKER_CONFIG_SIZE)
}

fn empty_volume(name: &str, medium: Option<&str>, size: &str) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(Into::into),
            size_limit: Some(Quantity(size.into())),
        }),
        ..Volume::default()
    }
}

fn shared_mounts() -> [VolumeMount; 2] {
    [(WORKSPACE_VOLUME, pod_paths::WORKSPACE), (DOCKER_CONFIG_VOLUME, pod_paths::DOCKER_CONFIG)]
        .map(|(name, path)| VolumeMount {
            name: name.into(),
            mount_path: path.into(),
            ..VolumeMount::default()
        })
}

/// Returns the volumes that only `prepare` mounts, and their mounts. All volumes are optional. A
/// pod with a mandatory volume would wait for a missing Secret until its deadline, whereas
/// `prepare` reports at once what is missing.
fn inputs(request: &BuildRequest) -> (Vec<Volume>, Vec<VolumeMount>) {
    let (mut volumes, mut mounts): (Vec<_>, Vec<_>) =
        credential_inputs(&request.credentials).unzip();
    let source = match &request.source {
        ResolvedSource::Inline { .. } | ResolvedSource::Git { secret: None, .. } => None,
        ResolvedSource::ConfigMap { name, .. } => Some((
            Volume {
                name: format!("{INPUT_VOLUME_PREFIX}source"),
                config_map: Some(ConfigMapVolumeSource {
                    name: name.clone(),
                    optional: Some(true),
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            },
            pod_paths::CONFIG_MAP,
        )),
        ResolvedSource::Git { secret: Some(credential), .. } => Some((
            secret_volume(format!("{INPUT_VOLUME_PREFIX}git"), &credential.name, None),
            pod_paths::GIT_SECRET,
        )),
    };
    if let Some((volume, path)) = source {
        mounts.push(input_mount(&volume, path.into()));
        volumes.push(volume);
    }
    (volumes, mounts)
}

/// Returns a volume and a mount for each of the family's credentials, in a folder named by its
/// index.
pub(super) fn credential_inputs(
    credentials: &[RegistryCredential],
) -> impl Iterator<Item = (Volume, VolumeMount)> {
    credentials.iter().enumerate().map(|(index, RegistryCredential { name, .. })| {
        let keys = SecretForm::ALL.map(|form| KeyToPath {
            key: form.key().into(),
            path: mounted_name(form).into(),
            ..KeyToPath::default()
        });
        let volume = secret_volume(
            format!("{INPUT_VOLUME_PREFIX}credential-{index}"),
            name,
            Some(keys.into()),
        );
        let mount = input_mount(&volume, format!("{}/{index}", pod_paths::CREDENTIALS));
        (volume, mount)
    })
}

fn input_mount(volume: &Volume, path: String) -> VolumeMount {
    VolumeMount {
        name: volume.name.clone(),
        mount_path: path,
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

fn secret_volume(volume: String, name: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        name: volume,
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.into()),
            optional: Some(true),
            items,
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn env_var(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

pub(super) fn quantities(list: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    list.iter().map(|(name, quantity)| ((*name).into(), Quantity((*quantity).into()))).collect()
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
