//! Renders a `BuildStrategy` with a family's parameters to a pod template, and validates that the
//! pod can run as a build.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::Value;

use crate::{
    api::{BuildStrategy, StrategyRef, UserNamespace},
    builds::{
        job::{DOCKER_CONFIG_VOLUME, INPUT_VOLUME_PREFIX, PREPARE, WORKSPACE_VOLUME},
        parameters::{ParameterError, check_value, parameters},
        platform::{PLATFORM_PARAMETER, selector_conflict},
        pod_paths,
        request::BuildRequest,
        template::{self, TemplateError, Variables},
    },
    registry::Platform,
};

/// Why a strategy, or a parameter that a family sets for it, cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrategyError {
    /// A string of the pod template does not render.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A parameter cannot have its value.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The value of the parameter `platform` is not a platform.
    #[error(
        "BuildStrategy `{strategy}`: the parameter `platform` has the value `{value}`, which is \
         not a platform such as linux/arm64"
    )]
    InvalidPlatform {
        /// The strategy.
        strategy: String,
        /// The value.
        value: String,
    },
    /// The rendered template is not a pod template that can run as a build.
    #[error("BuildStrategy `{strategy}`: {path} {problem}")]
    Pod {
        /// The strategy.
        strategy: String,
        /// The field.
        path: String,
        /// What is wrong with the field.
        problem: String,
    },
}

/// Renders and validates the pod template of a build. The result does not contain yet what
/// Groundswell adds. The template's own `spec` is taken out and returned as the pod's spec.
///
/// # Errors
/// Returns a [`StrategyError`] if the strategy cannot be used with these parameters.
pub fn render_pod(
    request: &BuildRequest,
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
) -> Result<(PodTemplateSpec, PodSpec), StrategyError> {
    let wrong = |path: &str, problem: String| StrategyError::Pod {
        strategy: name(strategy),
        path: path.to_owned(),
        problem,
    };
    let mut values = parameters(strategy, chosen)?;
    if let Some(value) = values.get_mut(PLATFORM_PARAMETER) {
        // A template sees the platform of the build, whether the parameter names it or not.
        *value = request.platform.to_string();
        check_value(strategy, PLATFORM_PARAMETER, value)?;
    }
    let variables = Variables::new(request, values);
    let mut rendered = template::render(&name(strategy), &strategy.spec.template, &variables)?;
    drop_empty_quantities(&mut rendered);
    let mut template: PodTemplateSpec = serde_json::from_value(rendered.clone())
        .map_err(|error| wrong("spec.template", format!("is not a pod template: {error}")))?;
    let kept = serde_json::to_value(&template).unwrap_or_default();
    if let Some(path) = unknown_field("spec.template", &rendered, &kept) {
        return Err(wrong(
            &path,
            "is not a field of a pod template in this Kubernetes version".into(),
        ));
    }
    let spec = template.spec.take().unwrap_or_default();
    if let Some(problem) = selector_conflict(spec.node_selector.as_ref(), &request.platform) {
        return Err(wrong("spec.template.spec.nodeSelector", problem));
    }
    match first_problem(&spec, strategy.spec.user_namespace) {
        Some(PodProblem { path, problem }) => Err(wrong(&path, problem)),
        None => Ok((template, spec)),
    }
}

/// Removes the requests and limits of containers and the sizes of volumes that render to nothing,
/// so that a parameter may leave one out. A quantity is never empty.
fn drop_empty_quantities(template: &mut Value) {
    let volumes = template.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten() {
        let folder = volume.get_mut("emptyDir").and_then(Value::as_object_mut);
        if let Some(folder) = folder.filter(|folder| folder.get("sizeLimit") == Some(&"".into())) {
            folder.remove("sizeLimit");
        }
    }

    for list in ["containers", "initContainers"] {
        let containers =
            template.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for quantities in ["requests", "limits"] {
                let quantities = container.pointer_mut(&format!("/resources/{quantities}"));
                if let Some(quantities) = quantities.and_then(Value::as_object_mut) {
                    quantities.retain(|_, quantity| quantity.as_str() != Some(""));
                }
            }
        }
    }
}

/// Validates that a strategy with a family's parameters renders to a pod that can run, before there
/// is anything to build.
///
/// # Errors
/// Returns a [`StrategyError`] if the strategy cannot be used with these parameters.
pub fn validate(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    platform: &Platform,
) -> Result<(), StrategyError> {
    let request = BuildRequest { platform: platform.clone(), ..BuildRequest::default() };
    render_pod(&request, strategy, chosen).map(|_| ())
}

/// Returns the first field of `given` that is not in `kept`: a misspelt name, which would otherwise
/// be dropped silently.
pub(super) fn unknown_field(path: &str, given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, field)| {
            let path = format!("{path}.{name}");
            match kept.get(name) {
                Some(kept) => unknown_field(&path, field, kept),
                None if field.is_null() => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            given.iter().zip(kept).enumerate().find_map(|(index, (given, kept))| {
                unknown_field(&format!("{path}[{index}]"), given, kept)
            })
        }
        _ => None,
    }
}

/// A field of a rendered pod template that a build's pod cannot have.
struct PodProblem {
    path: String,
    problem: String,
}

impl PodProblem {
    fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

/// Returns the first field because of which a pod cannot run as a build.
fn first_problem(spec: &PodSpec, user_namespace: UserNamespace) -> Option<PodProblem> {
    if spec.containers.is_empty() {
        return Some(PodProblem::new(
            "spec.template.spec.containers",
            "is empty, but a build needs a container",
        ));
    }
    if user_namespace == UserNamespace::Required && spec.host_users != Some(false) {
        let problem = "must be false, because spec.userNamespace is Required";
        return Some(PodProblem::new("spec.template.spec.hostUsers", problem));
    }
    let init = spec.init_containers.iter().flatten();
    if spec.containers.iter().chain(init.clone()).any(|container| container.name == PREPARE) {
        let problem = format!(
            "has a container named `{PREPARE}`, but Groundswell adds one of that name; rename it"
        );
        return Some(PodProblem::new("spec.template.spec", problem));
    }
    let reserved = |volume: &&str| {
        [WORKSPACE_VOLUME, DOCKER_CONFIG_VOLUME].contains(volume)
            || volume.starts_with(INPUT_VOLUME_PREFIX)
    };
    let volumes = spec.volumes.iter().flatten().map(|volume| volume.name.as_str());
    if let Some(volume) = volumes.clone().find(reserved) {
        let problem = format!(
            "has a volume `{volume}`, but that name is reserved for Groundswell; rename it"
        );
        return Some(PodProblem::new("spec.template.spec.volumes", problem));
    }
    let known: BTreeSet<_> = volumes.collect();
    spec.containers.iter().chain(init).find_map(|container| {
        let path = format!("spec.template.spec, container `{}`, volumeMounts", container.name);
        container.volume_mounts.iter().flatten().find_map(|mount| {
            if !known.contains(mount.name.as_str()) {
                return Some(PodProblem::new(
                    path.clone(),
                    format!("names the volume `{}`, which is not in volumes", mount.name),
                ));
            }
            [pod_paths::WORKSPACE, pod_paths::DOCKER_CONFIG]
                .contains(&mount.mount_path.trim_end_matches('/'))
                .then(|| {
                    let problem = format!(
                        "has the path {}, where Groundswell mounts a volume of its own",
                        mount.mount_path
                    );
                    PodProblem::new(path.clone(), problem)
                })
        })
    })
}

fn name(strategy: &BuildStrategy) -> String {
    strategy.metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{BuildStrategySpec, Parameter};

    fn strategy(template: Value) -> BuildStrategy {
        let parameter = |name: &str, default: &str, allowed: &[&str]| Parameter {
            name: name.into(),
            default: default.into(),
            allowed: allowed.iter().map(ToString::to_string).collect(),
            ..Parameter::default()
        };
        BuildStrategy::new(
            "custom",
            BuildStrategySpec {
                parameters: vec![
                    parameter("memory", "1Gi", &[]),
                    parameter("mode", "a", &["a", "b"]),
                ],
                template,
                ..BuildStrategySpec::default()
            },
        )
    }

    fn chosen(parameters: &[(&str, &str)]) -> StrategyRef {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        StrategyRef { name: "custom".into(), parameters }
    }

    #[test]
    fn a_limit_that_renders_to_nothing_is_left_out() {
        let limits = json!({"cpu": "{{ parameters.mode }}", "memory": "{{ parameters.memory }}"});
        let container = json!({"name": "build", "image": "i", "resources": {"limits": limits}});
        let volume = json!({"name": "layers", "emptyDir": {"sizeLimit": "{{ parameters.mode }}"}});
        let mut strategy = strategy(json!({"spec": {"hostUsers": false, "containers": [container],
            "volumes": [volume]}}));
        strategy.spec.parameters[1].allowed.clear();
        let limits = |value: &str| {
            let chosen = chosen(&[("mode", value)]);
            let rendered = render_pod(&BuildRequest::default(), &strategy, &chosen);
            let (_, pod) = rendered.expect("a pod");
            let volume = pod.volumes.expect("volumes").remove(0).empty_dir.expect("a folder");
            assert_eq!(volume.size_limit.map(|size| size.0).unwrap_or_default(), value);
            let resources = pod.containers[0].resources.clone().expect("resources");
            resources.limits.expect("limits").into_keys().collect::<Vec<_>>()
        };
        assert_eq!(limits(""), ["memory"]);
        assert_eq!(limits("2"), ["cpu", "memory"]);
    }

    #[test]
    fn a_template_that_cannot_run_as_a_build_is_rejected_with_its_field() {
        let container = json!({"name": "build", "image": "i"});
        for (spec, said) in [
            (
                json!({"hostUsers": false, "containers": []}),
                "spec.template.spec.containers is empty",
            ),
            (json!({"containers": [container]}), "spec.template.spec.hostUsers must be false"),
            (
                json!({"hostUsers": true, "containers": [container]}),
                "spec.template.spec.hostUsers must be false",
            ),
            (
                json!({"hostUsers": false, "containers": [container],
                    "initContainers": [{"name": "prepare"}]}),
                "has a container named `prepare`",
            ),
            (
                json!({"hostUsers": false, "containers": [container],
                    "volumes": [{"name": "workspace"}]}),
                "has a volume `workspace`",
            ),
            (
                json!({"hostUsers": false, "containers": [{"name": "b",
                    "securityContex": {"privileged": true}}]}),
                "spec.template.spec.containers[0].securityContex is not a field",
            ),
            (
                json!({"hostUsers": false, "containers": [{"name": "b",
                    "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}),
                "names the volume `x`, which is not in volumes",
            ),
            (
                json!({"hostUsers": false, "volumes": [{"name": "x"}],
                    "containers": [{"name": "b", "volumeMounts": [{"name": "x",
                        "mountPath": "/workspace/"}]}]}),
                "has the path /workspace/, where Groundswell mounts a volume",
            ),
            (json!({"hostUsers": "no", "containers": []}), "spec.template is not a pod template"),
        ] {
            let error = render_pod(
                &BuildRequest::default(),
                &strategy(json!({"spec": spec})),
                &chosen(&[]),
            )
            .expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains("BuildStrategy `custom`"), "{error}");
        }
    }
}
