//! Images: the members of a family, built by Groundswell.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Refresh, Rollout, Source, StrategyRef, patterns};

/// An image of a family, built by Groundswell.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.from.filter(e, !has(e.use) || e.use == 'Base').size() <= 1")
        .message("an image has one base: set `use: BuildStage` in the other entries of `from`")
)]
pub struct Image {
    /// Name of the image, unique within the family. A DNS label of 1 to 63 characters. With a
    /// `matrix`, it is a template, or the values are appended to it in the order of the keys.
    #[schemars(length(min = 1, max = 253), regex(pattern = patterns::NAME_OR_TEMPLATE))]
    pub name: String,

    /// Values for which the entry is repeated: it stands for one image for each combination of a
    /// value of every key. In templates, `{{ matrix.KEY }}` is the value and `{{ name }}` the name
    /// of the image. At most 8 keys with at most 64 values each, and 4096 combinations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 8, "additionalProperties" = {
            "type": "array", "minItems": 1, "maxItems": 64,
            "items": {"type": "string", "maxLength": 128}
        })
    )]
    pub matrix: BTreeMap<String, Vec<String>>,

    /// Combinations of the `matrix` for which there is no image. An entry excludes every
    /// combination that has all of its values. At most 128 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "atomic", "items" = {
            "type": "object", "minProperties": 1, "maxProperties": 8,
            "additionalProperties": {"type": "string", "maxLength": 128}
        })
    )]
    pub exclude: Vec<BTreeMap<String, String>>,

    /// Last part of the image's repository, which is `<repository of the family>/<path>`. It may be
    /// a template. Defaults to the image's name. At most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = patterns::PATH_OR_TEMPLATE))]
    pub path: Option<String>,

    /// Images that the image is built from: one entry for every image that the Dockerfile names in
    /// a `FROM` or a `COPY --from`. Empty for an image that is built from `scratch` alone. With
    /// `edges: Dockerfile`, entries are needed only for what the Dockerfile does not say. At most
    /// 32 entries, and at most one of them with `use: Base`.
    #[serde(default)]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<Edge>,

    /// Where the edges of the image come from. `Declared`: `from` lists all of them. `Dockerfile`:
    /// the images that the Dockerfile names and `from` does not declare are edges, too: to the
    /// image of this family that has the repository and tag or the name, or else to an upstream
    /// with the settings of `upstreamDefaults`. Defaults to `Declared`.
    #[serde(default)]
    pub edges: EdgeSource,

    /// Origin of the Dockerfile and its build context. Defaults to that of `spec.sourceDefaults`.
    #[serde(default, skip_serializing_if = "Source::is_empty")]
    pub source: Source,

    /// Build arguments. They become part of the image's history: do not use them for secrets. A
    /// name has letters, digits and `_`, and is not the `arg` of an entry of `from`. With a
    /// `matrix`, the values are templates. At most 128 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 128,
            "additionalProperties" = {"type": "string", "maxLength": 1024})
    )]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z_][A-Za-z0-9_]*$'))")
            .message("a key of `args` is the name of a build argument: letters, digits and `_`, \
                and no digit first")
    )]
    pub args: BTreeMap<String, String>,

    /// Stage of the Dockerfile to build. It may be a template. Defaults to the last stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = patterns::TARGET_OR_TEMPLATE))]
    pub target: Option<String>,

    /// Labels to set on the image in addition to those that its Dockerfile sets. With a `matrix`,
    /// the values are templates. At most 32 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024})
    )]
    pub labels: BTreeMap<String, String>,

    /// Tags to set on each verified build. A template may use `{{ build }}` (number of the build,
    /// from 1), `{{ fingerprint }}` (12 characters), `{{ upstream.NAME.tag }}`
    /// (`upstream["my-name"].tag` for a name with a dash), `{{ args.NAME }}`, `{{ matrix.KEY }}`
    /// and `{{ name }}`. A tag that uses the build or the fingerprint is immutable and never moves
    /// once set. Other tags float. At most 16 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub tags: Vec<String>,

    /// Checks that a new digest must pass before its tags move and its children are built. At most
    /// 8 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub checks: Vec<Check>,

    /// Holds the image at its current digest: it is not rebuilt, and its children stay built on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<ImageHold>,

    /// What happens to this image when an ancestor fails. `Block`: the image gets the state
    /// `Blocked` until the ancestor is current again. `UseLastVerified`: the image is built from
    /// the last verified digest of its parent, also while an input of the parent cannot be read.
    /// Defaults to `Block`.
    #[serde(default)]
    pub on_parent_failure: OnParentFailure,

    /// Whether the tags of a cascade wait for this image, if `policy.promotion` is `Cascade`.
    /// Defaults to true.
    #[serde(default = "yes")]
    pub required: bool,

    /// Rebuilds the image when its build is old. Defaults to `policy.refresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,

    /// Workloads to update to each new digest. At most 16 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollout: Vec<Rollout>,

    /// Strategy that builds this image. Defaults to the strategy of the family. Parameters alone
    /// are added to those of the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategyRef>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            name: String::new(),
            matrix: BTreeMap::new(),
            exclude: Vec::new(),
            path: None,
            from: Vec::new(),
            edges: EdgeSource::default(),
            source: Source::default(),
            args: BTreeMap::new(),
            target: None,
            labels: BTreeMap::new(),
            tags: Vec::new(),
            checks: Vec::new(),
            hold: None,
            on_parent_failure: OnParentFailure::default(),
            required: true,
            refresh: None,
            rollout: Vec::new(),
            strategy: None,
        }
    }
}

/// A check of a new digest: a Job whose exit code is the result.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.image) || (has(self.command) && self.command.size() > 0)")
        .message("a check needs a `command` to run in the new image, or an `image` that inspects \
                  the new one: set one of them"),
    validation = Rule::new("!has(self.env) || !('GROUNDSWELL_IMAGE' in self.env || \
                            'GROUNDSWELL_DIGEST' in self.env)")
        .message("the operator sets GROUNDSWELL_IMAGE and GROUNDSWELL_DIGEST: remove them from the \
                  check's `env`")
)]
pub struct Check {
    /// Name of the check, unique within the image. A DNS label of 1 to 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Command to run in the new image, or in `image` if that is set. It is not run in a shell. At
    /// most 64 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 4096)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub command: Vec<String>,

    /// Arguments of the command, or of the entrypoint of `image`. At most 64 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 4096)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub args: Vec<String>,

    /// Image to run instead of the new one, for example a scanner or a structure test. A tag is
    /// resolved to its digest when the check starts, with the family's `credentials`, and the check
    /// runs in that digest. It receives
    /// `GROUNDSWELL_IMAGE` (repository and digest), `GROUNDSWELL_DIGEST`, and a Docker
    /// configuration with the credential for the new image, taken from those of the family's
    /// `credentials` that are not used to push, and no other. Defaults to the new image, which
    /// gets no credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Environment variables of the check. They are readable in the cluster: do not use them for
    /// secrets. At most 32 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024})
    )]
    pub env: BTreeMap<String, String>,

    /// Whether the image fails if the check fails. Otherwise the result is only reported. Defaults
    /// to true.
    #[serde(default = "yes")]
    pub required: bool,

    /// Maximum duration of the check, from 1 second to 2 hours. Defaults to 10 minutes.
    #[serde(default = "default_check_timeout")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= \
                                duration('2h')")
            .message("timeout must be between 1s and 2h")
    )]
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

/// A user's decision to hold an image at its current digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageHold {
    /// Time at which the hold ends. Without it, the hold lasts until it is removed from the
    /// manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Reason for the hold, shown in the status. At most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// Where the edges of an image come from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EdgeSource {
    /// `from` lists all edges.
    #[default]
    Declared,
    /// The images that the Dockerfile names are edges, in addition to those in `from`.
    Dockerfile,
}

/// What happens to an image when a parent fails.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnParentFailure {
    /// The image is blocked until the parent is current.
    #[default]
    Block,
    /// The image is built from the last verified digest of the parent.
    UseLastVerified,
}

const fn yes() -> bool {
    true
}

const fn default_check_timeout() -> Duration {
    Duration::from_secs(600)
}

/// Reference to an `ImageFamily`.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct FamilyRef {
    /// Namespace of the family. Defaults to the namespace of the family that refers to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Name of the family. At most 47 characters.
    #[schemars(length(min = 1, max = 47))]
    pub name: String,
}

/// An edge of the graph: from an image to a parent that its Dockerfile names. Exactly one of
/// `upstream` and `image` must be set. Both may be templates, and so may `as` and `arg`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.upstream) != has(self.image)")
        .message("an entry of `from` must set either `upstream` or `image`, and not both"),
    validation = Rule::new("!has(self.family) || has(self.image)")
        .message("an entry of `from` that sets `family` must also set `image`"),
    validation = Rule::new("!(has(self.as) && has(self.arg))")
        .message("an entry of `from` must not set both `as` and `arg`: set `as` to the reference \
                  that the Dockerfile writes, or `arg` to the build argument that holds it"),
    validation = Rule::new("!has(self.family) || has(self.as) || has(self.arg)")
        .message("an entry of `from` that sets `family` must also set `as` or `arg`: the \
                  repository of another family is not known here, so that there is no default")
)]
pub struct Edge {
    /// Name of an upstream of this family that is the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub upstream: Option<String>,

    /// Other family that `image` belongs to. That family must export the image to this namespace in
    /// its `spec.exports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<FamilyRef>,

    /// Name of the image that is the parent. It belongs to this family, or to the one that `family`
    /// names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub image: Option<String>,

    /// Reference as the Dockerfile writes it, for example `alpine:3.20`. It is compared in its full
    /// form, so that `alpine:3.20` equals `docker.io/library/alpine:3.20`. A digest that the
    /// Dockerfile writes is not compared: the build uses the pinned one. Mutually exclusive with
    /// `arg`. Defaults to the parent's repository with the tag that the upstream follows, or with
    /// `latest` for an image of this family.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub reference: Option<String>,

    /// Build argument from which the Dockerfile takes the reference, as in `ARG BASE_IMAGE` and
    /// `FROM ${BASE_IMAGE}`. Mutually exclusive with `as`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = patterns::ARG_OR_TEMPLATE))]
    pub arg: Option<String>,

    /// How the Dockerfile uses the parent. `Base` is the parent that the built stage starts from,
    /// whose layers are in the image. `BuildStage` is a parent that another stage starts from, or
    /// that files are copied from: its layers are not in the image. Defaults to `Base`.
    #[serde(rename = "use", default)]
    pub usage: EdgeUse,
}

/// How a Dockerfile uses a parent.
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
    /// The built stage starts from the parent, whose layers are in the image.
    #[default]
    Base,
    /// Another stage starts from the parent, or files are copied from it. Its layers are not in the
    /// image.
    BuildStage,
}

impl Edge {
    /// Returns the parent's name, whether it is an upstream or an image.
    #[must_use]
    pub fn parent(&self) -> &str {
        self.upstream.as_deref().or(self.image.as_deref()).unwrap_or_default()
    }
}
