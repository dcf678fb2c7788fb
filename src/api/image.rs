//! Images: the members of a family, built by us.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Rollout, Source, StrategyRef};

/// A member of a family, built by Groundswell.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.from.filter(e, !has(e.use) || e.use == 'Base').size() <= 1")
        .message("an image has one base: mark the other entries of `from` with `use: BuildStage`")
)]
pub struct Image {
    /// Its name in this family; a DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The last part of its repository, where that is not the image's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$")
    )]
    pub path: Option<String>,

    /// What it is made from: one entry for every image that the Dockerfile names in a `FROM` or a
    /// `COPY --from`.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<Edge>,

    /// Where its Dockerfile and the files beside it come from.
    pub source: Source,

    /// Build arguments. They are part of the image's history: not for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub args: BTreeMap<String, String>,

    /// The stage of the Dockerfile to build, if not the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]*$"))]
    pub target: Option<String>,

    /// Labels set on the image, beside those that its Dockerfile sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub labels: BTreeMap<String, String>,

    /// Tags that the image gets once it is built. Templates may name `{{ build }}` (the build's
    /// number, from 1), `{{ fingerprint }}` (12 characters) and `{{ upstream.NAME.tag }}`
    /// (`upstream["my-name"].tag` where a name has a dash). A tag that names the build or the
    /// fingerprint is immutable: once set it is never moved. The others float.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub tags: Vec<String>,

    /// What a new digest is put through before its tags move and its children are built.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub checks: Vec<Check>,

    /// Keeps the image on the digest that it has: it is not rebuilt, and its children go on
    /// standing on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<ImageHold>,

    /// What becomes of this image when a parent has failed.
    #[serde(default)]
    pub on_parent_failure: OnParentFailure,

    /// Whether the tags of a cascade wait for this image, where `policy.promotion` is `Cascade`.
    #[serde(default = "yes")]
    pub required: bool,

    /// Workloads that are moved to each new digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollout: Vec<Rollout>,

    /// How this image is built, if not as the family says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyRef>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            name: String::new(),
            path: None,
            from: Vec::new(),
            source: Source::default(),
            args: BTreeMap::new(),
            target: None,
            labels: BTreeMap::new(),
            tags: Vec::new(),
            checks: Vec::new(),
            hold: None,
            on_parent_failure: OnParentFailure::default(),
            required: true,
            rollout: Vec::new(),
            strategy: None,
        }
    }
}

/// A check of a new digest: a Job whose exit code is the verdict.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.image) || (has(self.command) && self.command.size() > 0)")
        .message("a check names a `command` that is run in the new image, or an `image` that looks \
                  at it"),
    validation = Rule::new("!has(self.env) || !('GROUNDSWELL_IMAGE' in self.env || \
                            'GROUNDSWELL_DIGEST' in self.env)")
        .message("GROUNDSWELL_IMAGE and GROUNDSWELL_DIGEST are set by the operator: take them out \
                  of the check's `env`")
)]
pub struct Check {
    /// Its name; a DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// What is run, in the new image or in `image`. Not by a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,

    /// Arguments of the command, or of the entrypoint of `image`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub args: Vec<String>,

    /// Another image that looks at the new one: a scanner, a structure test. It gets
    /// `GROUNDSWELL_IMAGE` (repository and digest), `GROUNDSWELL_DIGEST`, and the family's
    /// credentials as a Docker configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Environment of the check. It is readable in the cluster: not for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub env: BTreeMap<String, String>,

    /// Whether the image fails when the check does. Otherwise the outcome is only reported.
    #[serde(default = "yes")]
    pub required: bool,

    /// How long it may take; at most 2 hours.
    #[serde(default = "default_check_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= \
                                     duration('2h')").message("a check's timeout is between 1s and \
                                         2h"))]
    pub timeout: Duration,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            args: Vec::new(),
            image: None,
            env: BTreeMap::new(),
            required: true,
            timeout: default_check_timeout(),
        }
    }
}

/// A person's decision that an image stays on the digest that it has.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageHold {
    /// When the hold ends by itself. Without it, when it is taken out of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Why, for those who read the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// What becomes of an image when a parent has failed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnParentFailure {
    /// It is blocked until the parent is current.
    #[default]
    Block,
    /// It is built from the parent's last good digest.
    UseLastGood,
}

const fn yes() -> bool {
    true
}

const fn default_check_timeout() -> Duration {
    Duration::from_secs(600)
}

/// A family, as an edge names it.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct FamilyRef {
    /// Its namespace, if it is not the own one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Its name.
    #[schemars(length(min = 1, max = 47))]
    pub name: String,
}

/// An edge of the graph: from an image to a parent that its Dockerfile names.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.upstream) != has(self.image)")
        .message("an entry of `from` names either an `upstream` or an `image` of this family"),
    validation = Rule::new("!has(self.family) || has(self.image)")
        .message("an entry of `from` that names another `family` also names the `image` of it"),
    validation = Rule::new("!(has(self.as) && has(self.arg))")
        .message("`as` and `arg` exclude each other: `as` is the reference that the Dockerfile \
                  writes, `arg` the build argument it takes it from")
)]
pub struct Edge {
    /// The parent, if it is an upstream of this family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub upstream: Option<String>,

    /// The other family that `image` is taken from. It has to export the image to this namespace:
    /// see `spec.exports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<FamilyRef>,

    /// The parent, if it is an image of this family, or of the one that `family` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub image: Option<String>,

    /// The reference that the Dockerfile writes, for example `alpine:3.20`. By default the parent's
    /// repository with the tag that the upstream follows, or with `latest` for an image of this
    /// family. It is compared in its full form, so that `alpine:3.20` and
    /// `docker.io/library/alpine:3.20` are the same.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub reference: Option<String>,

    /// The build argument that the Dockerfile takes the reference from, as in `ARG BASE_IMAGE` and
    /// `FROM ${BASE_IMAGE}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub arg: Option<String>,

    /// What the Dockerfile does with the parent.
    #[serde(rename = "use", default)]
    pub usage: EdgeUse,
}

/// What a Dockerfile does with a parent.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub enum EdgeUse {
    /// The built stage stands on it: its layers are in the image.
    #[default]
    Base,
    /// Another stage stands on it, or files are copied from it: its layers are not in the image.
    BuildStage,
}

impl Edge {
    /// The parent's name, whichever kind it is.
    #[must_use]
    pub fn parent(&self) -> &str {
        self.upstream.as_deref().or(self.image.as_deref()).unwrap_or_default()
    }
}
