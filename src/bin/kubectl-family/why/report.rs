//! An explanation as sentences and as a document.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{
        BuildRecord, Cause, CauseType, ImageState, ManagedImageStatus, ParentDigest,
        request::name_of_nonce,
    },
    engine::causes::{refreshed, short},
    lineage::families::FamilyName,
    terminal::printable,
};

use crate::{build_times::readable, output::table, status::age};

/// Minimum width to which sentences are wrapped.
const MIN_WIDTH: u16 = 40;
/// Indentation of the lines below a headline.
const INDENT: &str = "  ";

/// Why an image was built, is being built or is not built.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhyDocument {
    /// Namespace of the family.
    namespace: String,
    /// Name of the family.
    family: String,
    /// Name of the image.
    image: String,
    /// Recorded state of the image.
    state: &'static str,
    /// Reason constant of the state.
    reason: String,
    /// What the state means.
    message: String,
    /// Number of the last verified build. Not set if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<i64>,
    /// What the last verified build is built on: its base, the base of that, down to the upstream.
    built_on: Vec<BuiltOn>,
    /// Why the last verified build was started, one sentence per cause.
    last_build: Vec<String>,
    /// Why the image is stale, one sentence per cause. Empty if it is not.
    stale: Vec<String>,
    /// What the image waits for, and what that waits for.
    waits_for: Vec<WaitsFor>,
    /// What keeps the image from newer digests of what it is built on: holds, and upstreams whose
    /// newest digest is not adopted.
    kept_back: Vec<String>,
    /// The last failure at the current inputs. Not set if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(skip)]
    image_state: ImageState,
    #[serde(skip)]
    headline: String,
}

/// A parent that a build is pinned to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuiltOn {
    /// Name of the parent.
    name: String,
    /// Digest that the build is pinned to.
    digest: String,
    /// Digest that the parent has now. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<String>,
}

/// An image that is not current.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitsFor {
    /// Name of the image.
    image: String,
    /// State of the image.
    state: &'static str,
    /// Reason constant of the state.
    reason: String,
    /// What the state means.
    message: String,
}

impl BuiltOn {
    /// Creates the entry of a pinned parent, which has the digest `newest` now.
    pub fn new(pinned: &ParentDigest, newest: Option<String>) -> Self {
        Self { name: pinned.name.clone(), digest: pinned.digest.clone(), newest }
    }

    fn text(&self) -> String {
        let now = match &self.newest {
            Some(newest) if *newest != self.digest => format!(", now {}", short(newest)),
            _ => String::new(),
        };
        format!("{} at {}{now}", self.name, short(&self.digest))
    }
}

impl WaitsFor {
    /// Creates the entry of an image.
    pub fn new(image: &str, status: &ManagedImageStatus) -> Self {
        Self {
            image: image.to_owned(),
            state: status.state.as_str(),
            reason: status.reason.clone(),
            message: status.message.clone(),
        }
    }
}

/// What is known of an image.
pub struct Reported<'a> {
    pub family: &'a FamilyName,
    pub image: &'a str,
    pub status: &'a ManagedImageStatus,
    /// The causes of the build that the image needs.
    pub pending: &'a [Cause],
    pub now: Timestamp,
}

impl Reported<'_> {
    /// Creates the document. `reference` is the reference of the upstream of a cause.
    pub fn document(
        &self,
        built_on: Vec<BuiltOn>,
        waits_for: Vec<WaitsFor>,
        kept_back: Vec<String>,
        reference: impl Fn(&Cause) -> Option<String>,
    ) -> WhyDocument {
        let status = self.status;
        let last = status.build.map(|_| status.causes.as_slice()).unwrap_or_default();
        let sentences = |causes: &[Cause], tense: Tense| -> Vec<String> {
            causes.iter().map(|cause| sentence(cause, self.image, tense, &reference)).collect()
        };
        let pending = if status.state == ImageState::Current { &[] } else { self.pending };
        let failure = status.failure.as_ref().map(|failure| &failure.last);
        WhyDocument {
            namespace: self.family.namespace.clone(),
            family: self.family.name.clone(),
            image: self.image.to_owned(),
            state: status.state.as_str(),
            reason: status.reason.clone(),
            message: status.message.clone(),
            build: status.build,
            built_on,
            last_build: sentences(last, Tense::Past),
            stale: sentences(pending, Tense::Present),
            waits_for,
            kept_back,
            failure: failure.map(|last| format!("{}: {}", last.reason, last.message)),
            image_state: status.state,
            headline: self.headline(),
        }
    }

    fn headline(&self) -> String {
        let status = self.status;
        let state = status.state.as_str();
        let state = match status.since {
            Some(since) => format!("has been {state} for {}", age(Some(since), self.now)),
            None => format!("is {state}"),
        };
        let last = status.history.iter().find(|build| build.build == status.build);
        let last = match status.build {
            Some(build) => {
                format!("; its last verified build is {build}{}", took(last, self.now))
            }
            None => String::new(),
        };
        let (family, image) = (self.family, self.image);
        format!("{family}/{image} {state}{last}")
    }
}

/// Says when a build ended and how long it took.
fn took(build: Option<&BuildRecord>, now: Timestamp) -> String {
    let Some(build) = build else { return String::new() };
    let ago = build.finished_at.map(|at| format!(", {} ago", age(Some(at), now)));
    let took = build.duration.map(|duration| format!(", in {}", readable(duration.into())));
    format!("{}{}", ago.unwrap_or_default(), took.unwrap_or_default())
}

/// Whether a change has led to a build, or leads to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tense {
    Past,
    Present,
}

/// Says what changed first, and through which images it has reached the image.
fn sentence(
    cause: &Cause,
    image: &str,
    tense: Tense,
    reference: impl Fn(&Cause) -> Option<String>,
) -> String {
    let name = &cause.name;
    let values = match (cause.from.is_empty(), cause.to.is_empty()) {
        (_, true) => String::new(),
        (true, false) => format!(" to {}", short(&cause.to)),
        (false, false) => format!(" from {} to {}", short(&cause.from), short(&cause.to)),
    };
    let first = match cause.type_ {
        CauseType::Upstream => {
            let reference = reference(cause).map(|known| format!(" ({known})"));
            format!("upstream {name}{} moved{values}", reference.unwrap_or_default())
        }
        CauseType::Parent => format!("image {name} was rebuilt{values}"),
        CauseType::Source => format!("the source of {name} changed{values}"),
        CauseType::Spec if cause.from.is_empty() => format!("image {name} was added"),
        CauseType::Spec => format!("the spec of {name} changed"),
        CauseType::Strategy => format!("the build strategy {name} changed{values}"),
        CauseType::Manual => {
            format!("a user requested a rebuild of {name} ({})", name_of_nonce(&cause.to))
        }
        CauseType::Refresh => {
            format!("image {name} was due for its refresh{}", refreshed(&cause.to))
        }
    };
    let through = cause.via.iter().map(|image| format!(", so {image} was rebuilt"));
    let end = match tense {
        Tense::Past => format!(", so {image} was rebuilt."),
        Tense::Present => format!(", so {image} has to be rebuilt."),
    };
    let commits: String = match cause.commits.as_slice() {
        [] => String::new(),
        commits => format!(" Commits: {}.", commits.join("; ")),
    };
    let through: String = through.collect();
    let mut text = format!("{first}{through}{end}{commits}");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

impl WhyDocument {
    /// Returns the recorded state.
    pub const fn state(&self) -> ImageState {
        self.image_state
    }

    /// Renders the explanation in sentences, wrapped to a width.
    pub fn text(&self, width: Option<u16>) -> String {
        let mut lines = vec![format!("{}.", self.headline)];
        let mut section = |title: &str, sentences: Vec<String>| {
            if !sentences.is_empty() {
                lines.push(String::new());
                lines.push(title.to_owned());
                lines.extend(sentences.into_iter().map(|line| format!("{INDENT}{line}")));
            }
        };
        let message = Some(&self.message).filter(|_| self.image_state != ImageState::Current);
        let message = message.filter(|message| !message.is_empty());
        section(
            "What its state means:",
            message.map(|text| format!("{text}.")).into_iter().collect(),
        );
        section("Why it has to be built:", self.stale.clone());
        let waits = self.waits_for.iter().map(|wait| {
            let is_new = !wait.reason.is_empty() && wait.reason != wait.state;
            let reason = if is_new { format!(" ({})", wait.reason) } else { String::new() };
            format!("{} is {}{reason}: {}.", wait.image, wait.state, wait.message)
        });
        section("What it waits for:", waits.collect());
        section("What keeps it at older digests:", self.kept_back.clone());
        section("Its last failure:", self.failure.iter().cloned().collect());
        section("Why its last build was started:", self.last_build.clone());
        let chain: Vec<String> = self.built_on.iter().map(BuiltOn::text).collect();
        let chain = (!chain.is_empty()).then(|| chain.join(", which is built on "));
        section("What its last build is built on:", chain.into_iter().collect());
        let width = width.map(|width| width.max(MIN_WIDTH));
        let wrapped = lines.iter().map(|line| {
            let indent = if line.starts_with(INDENT) { INDENT.len() } else { 0 };
            table::wrapped(&printable(line).replace('\n', " "), width, indent)
        });
        wrapped.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(cause: &Cause, tense: Tense) -> String {
        sentence(cause, "app", tense, |_| Some("docker.io/library/debian:trixie".into()))
    }

    #[test]
    fn a_cause_is_followed_from_what_changed_first() {
        let cause = Cause {
            type_: CauseType::Upstream,
            name: "debian".into(),
            from: "sha256:1f4e".into(),
            to: "sha256:9c02".into(),
            via: vec!["base".into(), "python".into()],
            ..Cause::default()
        };
        assert_eq!(
            said(&cause, Tense::Past),
            "Upstream debian (docker.io/library/debian:trixie) moved from 1f4e to 9c02, so base \
             was rebuilt, so python was rebuilt, so app was rebuilt."
        );
        let cause = Cause {
            type_: CauseType::Refresh,
            name: "base".into(),
            to: "2026-06-01T12:00:00Z/refresh:168h".into(),
            ..Cause::default()
        };
        assert_eq!(
            said(&cause, Tense::Present),
            "Image base was due for its refresh after 168h, so app has to be rebuilt."
        );
        let cause = Cause { type_: CauseType::Spec, name: "app".into(), ..Cause::default() };
        assert_eq!(said(&cause, Tense::Present), "Image app was added, so app has to be rebuilt.");
    }
}
