//! From a `BuildStrategy` and a family's choice of parameters to a pod template that may run, or to
//! words on why not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    api::{BuildStrategy, StrategyRef, UserNamespace},
    builds::{
        job::{DOCKER_CONFIG_VOLUME, PREPARE, WORKSPACE_VOLUME},
        request::BuildRequest,
        source,
        template::{self, TemplateError, Variables},
    },
};

/// Why a strategy, or a parameter given to it, can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StrategyError {
    /// A string of the pod template does not render.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A family sets a parameter that the strategy does not declare.
    #[error(
        "the strategy's parameter `{parameter}` does not exist: BuildStrategy `{strategy}` \
         declares {declared}"
    )]
    UnknownParameter {
        /// The strategy.
        strategy: String,
        /// The parameter that is set.
        parameter: String,
        /// Those that it declares.
        declared: String,
    },
    /// A family sets a parameter to a value that the strategy does not allow.
    #[error(
        "the strategy's parameter `{parameter}` is `{value}`: BuildStrategy `{strategy}` allows \
         {allowed}"
    )]
    ValueNotAllowed {
        /// The strategy.
        strategy: String,
        /// The parameter.
        parameter: String,
        /// Its value.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// What was rendered is not a pod template that a build can run as.
    #[error("BuildStrategy `{strategy}`: {path} {problem}")]
    Pod {
        /// The strategy.
        strategy: String,
        /// The field.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The values of all parameters that a strategy declares: those that the family sets, else the
/// defaults.
///
/// # Errors
/// The family sets a parameter that is not declared, or to a value that is not allowed.
pub fn parameters(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
) -> Result<BTreeMap<String, String>, StrategyError> {
    let declared = &strategy.spec.parameters;
    let unknown = chosen
        .parameters
        .keys()
        .find(|name| !declared.iter().any(|parameter| parameter.name == **name));
    if let Some(parameter) = unknown {
        return Err(StrategyError::UnknownParameter {
            strategy: name(strategy),
            parameter: parameter.clone(),
            declared: list(declared.iter().map(|parameter| &parameter.name)),
        });
    }
    declared
        .iter()
        .map(|parameter| {
            let value = chosen.parameters.get(&parameter.name).unwrap_or(&parameter.default);
            if parameter.allowed.is_empty() || parameter.allowed.contains(value) {
                return Ok((parameter.name.clone(), value.clone()));
            }
            Err(StrategyError::ValueNotAllowed {
                strategy: name(strategy),
                parameter: parameter.name.clone(),
                value: value.clone(),
                allowed: list(&parameter.allowed),
            })
        })
        .collect()
}

/// A hash of what a strategy says of a build, with the family's parameters: 16 hexadecimal digits.
/// A change of the description, the timeout or the time that Jobs are kept rebuilds nothing.
#[must_use]
pub fn strategy_revision(strategy: &BuildStrategy, chosen: &StrategyRef) -> String {
    let declared =
        strategy.spec.parameters.iter().map(|parameter| (&parameter.name, &parameter.default));
    let values: BTreeMap<_, _> = declared.chain(&chosen.parameters).collect();
    let mut text = format!("{:?}", strategy.spec.user_namespace);
    for (name, value) in values {
        let _ = write!(text, "\n{}={}", Value::from(name.as_str()), Value::from(value.as_str()));
    }
    text.push('\n');
    canonical(&strategy.spec.template, &mut text);
    hex::encode(Sha256::digest(text)).get(..16).unwrap_or_default().to_owned()
}

/// JSON with sorted fields, whatever order they came in.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push('{');
            for (name, field) in sorted {
                let _ = write!(text, "{}:", Value::from(name.as_str()));
                canonical(field, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

/// The pod template of a build, rendered and checked, and without anything of ours yet.
///
/// # Errors
/// See [`StrategyError`].
pub fn pod(
    request: &BuildRequest,
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
) -> Result<(PodTemplateSpec, PodSpec), StrategyError> {
    let wrong = |path: &str, problem: String| StrategyError::Pod {
        strategy: name(strategy),
        path: path.to_owned(),
        problem,
    };
    let variables = Variables::new(request, parameters(strategy, chosen)?);
    let rendered = template::render(&name(strategy), &strategy.spec.template, &variables)?;
    let mut template: PodTemplateSpec = serde_json::from_value(rendered.clone())
        .map_err(|error| wrong("spec.template", format!("is not a pod template: {error}")))?;
    let kept = serde_json::to_value(&template).unwrap_or_default();
    if let Some(path) = unknown_field("spec.template", &rendered, &kept) {
        return Err(wrong(
            &path,
            "is not a field of a pod template of this Kubernetes version".into(),
        ));
    }
    let spec = template.spec.take().unwrap_or_default();
    if let Some((path, problem)) = unfit(&spec, strategy.spec.user_namespace) {
        return Err(wrong(&path, problem));
    }
    Ok((template, spec))
}

/// Whether a strategy, with a family's parameters, renders to a pod that may run; told before there
/// is anything to build.
///
/// # Errors
/// See [`StrategyError`].
pub fn validate(strategy: &BuildStrategy, chosen: &StrategyRef) -> Result<(), StrategyError> {
    pod(&BuildRequest::default(), strategy, chosen).map(|_| ())
}

/// The first field that was given and not kept: a misspelt name, that would otherwise be dropped
/// without a word.
fn unknown_field(path: &str, given: &Value, kept: &Value) -> Option<String> {
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

/// The first field that keeps a pod from being a build.
fn unfit(spec: &PodSpec, user_namespace: UserNamespace) -> Option<(String, String)> {
    if spec.containers.is_empty() {
        return Some((
            "spec.template.spec.containers".into(),
            "is empty: a build needs a container".into(),
        ));
    }
    if user_namespace == UserNamespace::Required && spec.host_users != Some(false) {
        let problem = "must be false, because spec.userNamespace is Required";
        return Some(("spec.template.spec.hostUsers".into(), problem.into()));
    }
    let init = spec.init_containers.iter().flatten();
    if spec.containers.iter().chain(init.clone()).any(|container| container.name == PREPARE) {
        let problem = format!(
            "has a container named `{PREPARE}`, which is the name of the step that Groundswell adds"
        );
        return Some(("spec.template.spec".into(), problem));
    }
    let reserved = |volume: &&str| {
        [WORKSPACE_VOLUME, DOCKER_CONFIG_VOLUME].contains(volume)
            || volume.starts_with(crate::builds::job::INPUT_VOLUMES)
    };
    let volumes = spec.volumes.iter().flatten().map(|volume| volume.name.as_str());
    if let Some(volume) = volumes.clone().find(reserved) {
        let problem =
            format!("has a volume `{volume}`, which is the name of one that Groundswell adds");
        return Some(("spec.template.spec.volumes".into(), problem));
    }
    let known: BTreeSet<_> = volumes.collect();
    spec.containers.iter().chain(init).find_map(|container| {
        let path = format!("spec.template.spec, container `{}`, volumeMounts", container.name);
        container.volume_mounts.iter().flatten().find_map(|mount| {
            if !known.contains(mount.name.as_str()) {
                return Some((
                    path.clone(),
                    format!("names the volume `{}`, which is not in volumes", mount.name),
                ));
            }
            [source::WORKSPACE, source::DOCKER_CONFIG]
                .contains(&mount.mount_path.trim_end_matches('/'))
                .then(|| {
                    (
                        path.clone(),
                        format!("has {}, where Groundswell mounts a volume", mount.mount_path),
                    )
                })
        })
    })
}

fn name(strategy: &BuildStrategy) -> String {
    strategy.metadata.name.clone().unwrap_or_default()
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
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
    fn parameters_have_defaults_and_bounds() {
        let strategy = strategy(json!({}));
        let values = parameters(&strategy, &chosen(&[("mode", "b")])).expect("valid");
        assert_eq!(
            values,
            BTreeMap::from([("memory".into(), "1Gi".into()), ("mode".into(), "b".into())])
        );
        let unknown =
            parameters(&strategy, &chosen(&[("cpu", "1")])).expect_err("unknown").to_string();
        assert_eq!(
            unknown,
            "the strategy's parameter `cpu` does not exist: BuildStrategy `custom` declares \
             `memory`, `mode`"
        );
        let refused =
            parameters(&strategy, &chosen(&[("mode", "c")])).expect_err("refused").to_string();
        assert_eq!(
            refused,
            "the strategy's parameter `mode` is `c`: BuildStrategy `custom` allows `a`, `b`"
        );
    }

    #[test]
    fn the_revision_is_of_what_matters() {
        let template =
            json!({"spec": {"hostUsers": false, "containers": [{"name": "b", "image": "i"}]}});
        let plain = strategy_revision(&strategy(template.clone()), &chosen(&[]));
        assert_eq!(plain.len(), 16);
        let mut same = strategy(
            json!({"spec": {"containers": [{"image": "i", "name": "b"}], "hostUsers": false}}),
        );
        same.spec.description = "other".into();
        same.spec.timeout = crate::api::Duration::from_secs(1);
        assert_eq!(
            strategy_revision(&same, &chosen(&[("memory", "1Gi")])),
            plain,
            "a default said aloud changes nothing"
        );
        assert_ne!(strategy_revision(&same, &chosen(&[("memory", "2Gi")])), plain);
        same.spec.user_namespace = UserNamespace::NotRequired;
        assert_ne!(strategy_revision(&same, &chosen(&[])), plain);
        let other = strategy(
            json!({"spec": {"hostUsers": false, "containers": [{"name": "b", "image": "j"}]}}),
        );
        assert_ne!(strategy_revision(&other, &chosen(&[])), plain);
    }

    #[test]
    fn a_template_that_is_no_build_is_refused_in_words() {
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
                json!({"hostUsers": false, "containers": [container], "initContainers": [{"name": "prepare"}]}),
                "has a container named `prepare`",
            ),
            (
                json!({"hostUsers": false, "containers": [container], "volumes": [{"name": "workspace"}]}),
                "has a volume `workspace`",
            ),
            (
                json!({"hostUsers": false, "containers": [{"name": "b", "securityContex": {"privileged": true}}]}),
                "spec.template.spec.containers[0].securityContex is not a field",
            ),
            (
                json!({"hostUsers": false, "containers": [{"name": "b", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}),
                "names the volume `x`, which is not in volumes",
            ),
            (
                json!({"hostUsers": false, "volumes": [{"name": "x"}],
                    "containers": [{"name": "b", "volumeMounts": [{"name": "x", "mountPath": "/workspace/"}]}]}),
                "has /workspace/, where Groundswell mounts a volume",
            ),
            (json!({"hostUsers": "no", "containers": []}), "spec.template is not a pod template"),
        ] {
            let error =
                pod(&BuildRequest::default(), &strategy(json!({"spec": spec})), &chosen(&[]))
                    .expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains("BuildStrategy `custom`"), "{error}");
        }
    }
}
