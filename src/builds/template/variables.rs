//! The variables that a strategy's pod template may name. `docs/strategies.md` documents them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    builds::{SOURCE_DATE_EPOCH, pod_paths, request::BuildRequest},
    identity::{ParentNaming, PinnedParent},
    registry::Reference,
};

/// The variables of one build.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Variables {
    image: ImageVariables,
    family: FamilyVariables,
    fingerprint: String,
    build: i64,
    platform: String,
    parents: Vec<ParentVariables>,
    contexts: Vec<NamedContext>,
    args: Vec<NamedValue>,
    target: String,
    labels: Vec<NamedValue>,
    annotations: Vec<NamedValue>,
    epoch: i64,
    context: &'static str,
    dockerfile: String,
    parameters: BTreeMap<String, String>,
    no_cache: bool,
    registry: RegistryVariables,
}

#[derive(Clone, Debug, Serialize)]
struct ImageVariables {
    name: String,
    reference: String,
    repository: String,
}

#[derive(Clone, Debug, Serialize)]
struct FamilyVariables {
    name: String,
    namespace: String,
}

/// A parent. Of `as` and `arg`, the one that the Dockerfile does not use is empty.
#[derive(Clone, Debug, Serialize)]
struct ParentVariables {
    name: String,
    #[serde(rename = "as")]
    reference: String,
    arg: String,
    pinned: String,
    digest: String,
}

/// A named context: the key that `BuildKit` looks up for a reference of the Dockerfile, and the
/// reference that it uses instead.
#[derive(Clone, Debug, Serialize)]
struct NamedContext {
    name: String,
    pinned: String,
}

#[derive(Clone, Debug, Serialize)]
struct NamedValue {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryVariables {
    plain_http: bool,
}

impl Variables {
    /// Returns the variables of a build. `parameters` contains a value for each parameter that the
    /// strategy declares.
    #[must_use]
    pub fn new(request: &BuildRequest, parameters: BTreeMap<String, String>) -> Self {
        Self {
            image: ImageVariables {
                name: request.image.clone(),
                reference: request.reference.clone(),
                repository: request.repository.clone(),
            },
            family: FamilyVariables {
                name: request.family.name.clone(),
                namespace: request.family.namespace.clone(),
            },
            fingerprint: request.identity.fingerprint.to_string(),
            build: request.identity.number,
            platform: request.platform.to_string(),
            parents: request.parents.iter().map(parent).collect(),
            contexts: contexts(request),
            args: pairs(&arguments(request)),
            target: request.target.clone().unwrap_or_default(),
            labels: pairs(&request.labels),
            annotations: pairs(&request.annotations),
            epoch: SOURCE_DATE_EPOCH,
            context: pod_paths::CONTEXT,
            dockerfile: request.source.dockerfile_path().to_owned(),
            parameters,
            no_cache: request.no_cache,
            registry: RegistryVariables { plain_http: request.plain_http },
        }
    }

    /// Returns the values for rendering.
    pub(super) fn values(&self) -> minijinja::Value {
        minijinja::Value::from(minijinja::value::Serde(self))
    }

    /// Returns the names of all variables. A variable with fields is listed by its fields.
    pub(super) fn known(&self) -> Vec<String> {
        let mut known = Vec::new();
        let serde_json::Value::Object(fields) = serde_json::to_value(self).unwrap_or_default()
        else {
            return known;
        };
        for (name, value) in fields {
            match value {
                serde_json::Value::Object(fields) if !fields.is_empty() => {
                    known.extend(fields.keys().map(|field| format!("{name}.{field}")));
                }
                _ => known.push(name),
            }
        }
        known
    }
}

/// Returns the build arguments, including those that pin a parent.
pub(in crate::builds) fn arguments(request: &BuildRequest) -> BTreeMap<String, String> {
    let pins = request.parents.iter().filter_map(|parent| match &parent.naming {
        ParentNaming::Arg(arg) => Some((arg.clone(), parent.pinned())),
        ParentNaming::Reference(_) => None,
    });
    request.args.clone().into_iter().chain(pins).collect()
}

fn parent(parent: &PinnedParent) -> ParentVariables {
    let (reference, arg) = match &parent.naming {
        ParentNaming::Reference(reference) => (reference.clone(), String::new()),
        ParentNaming::Arg(arg) => (String::new(), arg.clone()),
    };
    ParentVariables {
        name: parent.name.clone(),
        reference,
        arg,
        pinned: parent.pinned(),
        digest: parent.digest.to_string(),
    }
}

/// Returns one context per key: two edges to the same parent by the same name give one context.
fn contexts(request: &BuildRequest) -> Vec<NamedContext> {
    let contexts: BTreeMap<_, _> = request
        .parents
        .iter()
        .filter_map(|parent| match &parent.naming {
            ParentNaming::Reference(written) => {
                let name = written
                    .parse::<Reference>()
                    .map_or_else(|_| written.clone(), |whole| whole.familiar());
                Some((name, parent.pinned()))
            }
            ParentNaming::Arg(_) => None,
        })
        .collect();
    contexts.into_iter().map(|(name, pinned)| NamedContext { name, pinned }).collect()
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<NamedValue> {
    map.iter()
        .map(|(name, value)| NamedValue { name: name.clone(), value: value.clone() })
        .collect()
}
