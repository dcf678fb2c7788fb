//! Why an image is stale: how its current inputs differ from those of its verified build, and what
//! caused the difference.

use crate::{
    api::{
        Cause, CauseType, Inputs, RefreshReason, RollbackRecord, condition::shorten,
        managed_image::MAX_BUILD_CAUSES, request::name_of_nonce,
    },
    identity::{CausingCommits, FolderRevision},
    lineage::{ImageIndex, Lineage, Parent},
};

/// Upper bound on the images in [`Cause::via`].
const MAX_VIA: usize = 16;
/// Upper bound on the characters of a sentence.
const MAX_SENTENCE_LENGTH: usize = 300;

/// The change between the last and the current inputs of an image.
pub(in crate::engine) struct InputChange<'a> {
    /// The name of the image.
    pub image: &'a str,
    /// The graph of the family.
    pub lineage: &'a Lineage,
    /// The image.
    pub index: ImageIndex,
    /// The inputs of the verified build.
    pub last: Option<&'a Inputs>,
    /// The current inputs.
    pub wanted: &'a Inputs,
    /// The folder of the current source, if that is a Git repository.
    pub folder: Option<&'a FolderRevision>,
}

impl InputChange<'_> {
    /// Returns the causes: first those that changed an input of the image itself, then what caused
    /// them, down to the upstreams. `of_parents` holds the causes of each parent's last build, in
    /// the order of the wanted parents. An image that was never built has its spec as its cause.
    pub fn causes<'p>(&self, of_parents: impl Iterator<Item = &'p [Cause]>) -> Vec<Cause> {
        let cause = |type_, name: &str, from: &str, to: &str| Cause {
            type_,
            name: name.into(),
            from: from.into(),
            to: to.into(),
            ..Cause::default()
        };
        let Some(last) = self.last else {
            return vec![cause(CauseType::Spec, self.image, "", &self.wanted.spec)];
        };
        let mut causes = Vec::new();
        let mut roots = Vec::new();
        for (place, (why, now)) in of_parents.zip(&self.wanted.parents).enumerate() {
            let before = last
                .parents
                .iter()
                .find(|before| before.name == now.name)
                .or_else(|| last.parents.get(place));
            let before = before.map_or("", |before| before.digest.as_str());
            if before == now.digest {
                continue;
            }
            let type_ = match self.lineage.parents(self.index).get(place) {
                Some(Parent::Image(_) | Parent::Import(_)) => CauseType::Parent,
                _ => CauseType::Upstream,
            };
            causes.push(cause(type_, &now.name, before, &now.digest));
            roots.extend(
                why.iter()
                    .filter(|why| why.type_ != CauseType::Parent)
                    .map(|why| reached(why, &now.name)),
            );
        }
        for (type_, named, before, after) in [
            (CauseType::Source, self.image, &last.source, &self.wanted.source),
            (CauseType::Spec, self.image, &last.spec, &self.wanted.spec),
            (CauseType::Strategy, "", &last.strategy, &self.wanted.strategy),
            (self.nonce_cause(), self.image, &last.nonce, &self.wanted.nonce),
        ] {
            if before != after {
                causes.push(self.with_commits(cause(type_, named, before, after)));
            }
        }
        for root in roots {
            let known = causes.iter().any(|known: &Cause| same(known, &root));
            if !known {
                causes.push(root);
            }
        }
        causes.truncate(MAX_BUILD_CAUSES);
        causes
    }

    /// Returns the type of the cause that has changed the nonce.
    fn nonce_cause(&self) -> CauseType {
        match RefreshReason::of_nonce(&self.wanted.nonce) {
            Some(_) => CauseType::Refresh,
            None => CauseType::Manual,
        }
    }

    /// Adds the commits that have changed the folder to a changed source.
    fn with_commits(&self, cause: Cause) -> Cause {
        let folder = self
            .folder
            .filter(|folder| cause.type_ == CauseType::Source && folder.revision == cause.to);
        let Some(folder) = folder else { return cause };
        let CausingCommits { ids: commits, has_more: more_commits } =
            folder.touched_since(&cause.from);
        Cause { commits, more_commits, ..cause }
    }
}

/// Returns a cause as it reaches an image through a parent. It names only the newest commit,
/// because every descendant has it.
fn reached(cause: &Cause, parent: &str) -> Cause {
    let mut via: Vec<String> = cause.via.iter().take(MAX_VIA - 1).cloned().collect();
    via.push(parent.into());
    let commits = cause.commits.iter().take(1).cloned().collect();
    let more_commits = cause.more_commits || cause.commits.len() > 1;
    Cause { via, commits, more_commits, ..cause.clone() }
}

/// Whether two causes are the same change, whichever way it came.
fn same(a: &Cause, b: &Cause) -> bool {
    (a.type_, &a.name, &a.from, &a.to) == (b.type_, &b.name, &b.from, &b.to)
}

/// Returns a key for what a build was made for. Failures of different images with the same key have
/// the same cause. A cause that only concerns the image itself names it, so that no other image has
/// the same key. All refreshes have the same: what fails them all is what they fetch.
#[must_use]
pub fn key(image: &str, causes: &[Cause]) -> String {
    let shared = |type_| causes.iter().find(|cause| cause.type_ == type_);
    if let Some(cause) = shared(CauseType::Upstream) {
        return format!("upstream {} at {}", cause.name, short(&cause.to));
    }
    if let Some(cause) = shared(CauseType::Strategy) {
        return format!("build strategy {}", short(&cause.to));
    }
    if causes.iter().any(|cause| cause.type_ == CauseType::Refresh && cause.via.is_empty()) {
        return "a refresh".into();
    }
    if let Some(cause) = causes.iter().find(|cause| !cause.via.is_empty()) {
        return format!("{} of {}", describe_change(cause.type_), cause.name);
    }
    if causes.iter().any(|cause| cause.type_ == CauseType::Spec && cause.from.is_empty()) {
        return "the first build".into();
    }
    format!("a change of {image}")
}

/// Whether a user caused a build: one of the changed inputs of the image itself is a user's. A
/// strategy changes for every image that uses it, so that its builds are as many as an upstream's.
#[must_use]
pub fn is_user_caused(causes: &[Cause]) -> bool {
    causes.iter().filter(|cause| cause.via.is_empty()).any(|cause| match cause.type_ {
        CauseType::Source | CauseType::Spec | CauseType::Manual => true,
        CauseType::Upstream | CauseType::Parent | CauseType::Strategy | CauseType::Refresh => false,
    })
}

const fn describe_change(type_: CauseType) -> &'static str {
    match type_ {
        CauseType::Upstream => "a new digest",
        CauseType::Parent => "a rebuild",
        CauseType::Source => "a new source",
        CauseType::Spec => "a new spec",
        CauseType::Strategy => "a new strategy",
        CauseType::Manual => "a request",
        CauseType::Refresh => "a refresh",
    }
}

/// Returns the causes in a sentence of at most 300 characters.
#[must_use]
pub fn sentence(causes: &[Cause]) -> String {
    let direct = causes.iter().filter(|cause| cause.via.is_empty()).map(clause);
    let roots = causes.iter().filter(|cause| !cause.via.is_empty()).map(clause);
    let (direct, roots): (Vec<String>, Vec<String>) = (direct.collect(), roots.collect());
    let because =
        if roots.is_empty() { String::new() } else { format!(", because {}", roots.join("; ")) };
    shorten(&format!("{}{because}", direct.join("; ")), MAX_SENTENCE_LENGTH)
}

fn clause(cause: &Cause) -> String {
    match (cause.type_, cause.from.is_empty()) {
        (CauseType::Spec, true) => format!("{} is new", cause.name),
        (CauseType::Upstream, true) => {
            format!("{} was first observed at {}", cause.name, short(&cause.to))
        }
        (CauseType::Upstream, false) => {
            format!("{} moved from {} to {}", cause.name, short(&cause.from), short(&cause.to))
        }
        (CauseType::Parent, _) => format!("{} was rebuilt as {}", cause.name, short(&cause.to)),
        (CauseType::Source, _) => format!("the source of {} changed {}", cause.name, to(cause)),
        (CauseType::Spec, false) => format!("the spec of {} changed", cause.name),
        (CauseType::Strategy, _) => "the build strategy changed".into(),
        (CauseType::Manual, _) => {
            format!("a rebuild of {} was requested ({})", cause.name, name_of_nonce(&cause.to))
        }
        (CauseType::Refresh, _) => format!("{} was refreshed{}", cause.name, refreshed(&cause.to)),
    }
}

/// Returns why an image with this nonce was refreshed, to follow `was refreshed`.
#[must_use]
pub fn refreshed(nonce: &str) -> String {
    match RefreshReason::of_nonce(nonce) {
        Some(RefreshReason::Age(every)) => format!(" after {every}"),
        None => String::new(),
    }
}

/// Returns what a source has changed to: the newest commit that has changed it, or its revision.
fn to(cause: &Cause) -> String {
    let more = match (cause.commits.len().saturating_sub(1), cause.more_commits) {
        (0, false) => String::new(),
        (0, true) => " and earlier ones".into(),
        (others, false) => format!(" and {others} more"),
        (others, true) => format!(" and at least {others} more"),
    };
    match cause.commits.first() {
        Some(newest) => format!("in commit {}{more}", short(newest)),
        None => format!("to {}", short(&cause.to)),
    }
}

/// Returns a digest or revision shortened for a sentence: 12 characters of its hash.
#[must_use]
pub fn short(digest: &(impl AsRef<str> + ?Sized)) -> &str {
    let digest = digest.as_ref();
    let hash = digest.strip_prefix("sha256:").unwrap_or(digest);
    hash.get(..12).unwrap_or(hash)
}

/// Returns the build that an image is rolled back to as messages show it.
#[must_use]
pub fn describe_build(earlier: &RollbackRecord) -> String {
    let digest = short(&earlier.digest);
    match earlier.build {
        Some(build) => format!("build {build} ({digest})"),
        None => digest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{FolderCommit, MAX_CAUSING_COMMITS};

    /// A folder that each of these commits has changed, the newest first; each revision is named
    /// after its commit. What is before the last of them is not known.
    fn folder(commits: &[&str]) -> FolderRevision {
        let before = commits.iter().skip(1).map(|id| Some(format!("at-{id}"))).chain([None]);
        let mut before: Vec<Option<String>> = before.collect();
        let touched = |id: &&str| FolderCommit { id: (*id).into(), before: before.remove(0) };
        FolderRevision {
            revision: format!("at-{}", commits[0]),
            commit: "head".into(),
            touched_by: commits.iter().map(touched).collect(),
            dockerfile: None,
        }
    }

    fn cause(folder: &FolderRevision, last: &str) -> Cause {
        let inputs = |source: &str| Inputs { source: source.into(), ..Inputs::default() };
        let (last, wanted) = (inputs(last), inputs(&folder.revision));
        let spec = crate::api::ImageFamilySpec::default();
        let lineage = Lineage::new(&spec).expect("a family without images");
        let change = InputChange {
            image: "app",
            lineage: &lineage,
            index: ImageIndex::new(0),
            last: Some(&last),
            wanted: &wanted,
            folder: Some(folder),
        };
        change.causes(std::iter::empty()).remove(0)
    }

    #[test]
    fn a_source_names_the_commits_since_the_last_build() {
        let folder = folder(&["c4", "c3", "c2", "c1"]);
        let cause_of = |last| {
            let cause = cause(&folder, last);
            (cause.commits.join(" "), cause.more_commits, clause(&cause))
        };
        let sentence = |text: &str| format!("the source of app changed in commit {text}");
        assert_eq!(cause_of("at-c3"), ("c4".into(), false, sentence("c4")));
        assert_eq!(cause_of("at-c1"), ("c4 c3 c2".into(), false, sentence("c4 and 2 more")));
        let unknown = sentence("c4 and at least 3 more");
        assert_eq!(cause_of("of-long-ago"), ("c4 c3 c2 c1".into(), true, unknown));

        let reached = reached(&cause(&folder, "at-c1"), "base");
        assert_eq!((reached.commits, reached.more_commits), (vec!["c4".to_owned()], true));
    }

    #[test]
    fn the_named_commits_are_bounded() {
        let ids: Vec<String> = (0..30).rev().map(|number| format!("c{number}")).collect();
        let folder = folder(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        let cause = cause(&folder, "at-c3");
        assert_eq!((cause.commits.len(), cause.more_commits), (MAX_CAUSING_COMMITS, true));
        assert_eq!(cause.commits[0], "c29");
    }
}
