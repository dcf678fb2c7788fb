//! The recorded builds of an image.

use anyhow::bail;
use comfy_table::Color;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{BuildRecord, Cause, CauseType, EdgeUse, ManagedImageStatus},
    engine::causes::{sentence, short},
    lineage::ImageIndex,
};

use crate::{
    build_times::readable,
    input::EstateFamily,
    output::{
        csv,
        table::{self, StyledText, styled},
    },
    status::age,
};

/// What stands for a history without an entry.
const NONE: &str = "no build is recorded\n";

/// The builds of an image.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildHistory {
    /// Namespace of the family.
    namespace: String,
    /// Name of the family.
    family: String,
    /// Name of the image.
    image: String,
    /// Repository that builds are pushed to.
    repository: String,
    /// The builds, newest first. A running one is the first.
    builds: Vec<BuildEntry>,
}

/// A build.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildEntry {
    /// Number of the build. Not set if it failed before it got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<i64>,
    outcome: BuildEnd,
    /// Time at which the build ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    finished_at: Option<Timestamp>,
    /// Time that the build took in seconds; of a running one, until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<i64>,
    /// Digest of the result. Not set without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Digest of the base that the build is made on. Not set if it does not follow from the
    /// records.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// Name of the cascade. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    cascade: Option<String>,
    /// Why the build was started, in a sentence. Not set if no cause is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// Why the build was started, or how it failed, as it is recorded.
    message: String,
}

/// The result of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum BuildEnd {
    /// It has not ended.
    Running,
    /// It gave a new image.
    Built,
    /// It gave the same image as the build before.
    Unchanged,
    Failed,
}

impl BuildEnd {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Built => "Built",
            Self::Unchanged => "Unchanged",
            Self::Failed => "Failed",
        }
    }

    const fn colour(self) -> Color {
        match self {
            Self::Running => Color::Yellow,
            Self::Built => Color::Green,
            Self::Unchanged => Color::Cyan,
            Self::Failed => Color::Red,
        }
    }
}

impl BuildHistory {
    /// Returns what is recorded of the builds of an image.
    ///
    /// # Errors
    ///
    /// Returns an error if nothing is recorded of the image.
    pub fn of(family: &EstateFamily, index: ImageIndex, now: Timestamp) -> anyhow::Result<Self> {
        let Some(spec) = family.family.spec.images.get(index.position()) else {
            bail!("there is no such image")
        };
        let Some(status) = family.recorded(index) else {
            bail!(
                "nothing is recorded of {}/{}: read it from a cluster whose controller has \
                 reconciled it, or from the output of kubectl get imgfam,mimg,casc,famreq -o yaml",
                family.name,
                spec.name
            );
        };
        let base = spec.from.iter().position(|edge| edge.usage == EdgeUse::Base);
        let repository = family.blueprint.images.get(index.position());
        let running = running_build(status, now);
        let bases = bases_of_builds(status, base);
        let ended = status.history.iter().zip(bases).map(|(record, base)| entry(record, base));
        Ok(Self {
            namespace: family.name.namespace.clone(),
            family: family.name.name.clone(),
            image: spec.name.clone(),
            repository: repository.map(|known| known.repository.clone()).unwrap_or_default(),
            builds: running.into_iter().chain(ended).collect(),
        })
    }

    /// Returns the columns that fit into a terminal.
    pub fn table(&self, now: Timestamp, width: Option<u16>) -> String {
        let header = ["BUILD", "RESULT", "AGE", "TOOK", "BASE", "DIGEST", "CAUSE"];
        let row = |build: &BuildEntry| {
            let mut row = build.cells(now);
            row.push(build.explanation().into());
            row
        };
        table::list(&self.builds, NONE, &header, row, width)
    }

    /// Returns all columns.
    pub fn wide(&self, now: Timestamp, width: Option<u16>) -> String {
        let header = [
            "BUILD", "RESULT", "AGE", "TOOK", "BASE", "DIGEST", "FINISHED", "CASCADE", "CAUSE",
            "MESSAGE",
        ];
        let row = |build: &BuildEntry| {
            let mut row = build.cells(now);
            let text = |text: &Option<String>| text.as_deref().unwrap_or("-").into();
            row.push(build.finished_at.map_or("-".to_owned(), |at| format!("{at:.0}")).into());
            row.extend([text(&build.cascade), text(&build.cause), (&build.message).into()]);
            row
        };
        table::list(&self.builds, NONE, &header, row, width)
    }

    /// Returns the references of the results, newest first.
    pub fn names(&self) -> String {
        let digests = self.builds.iter().filter_map(|build| build.digest.as_ref());
        digests
            .map(|digest| table::one_line(&format!("{}@{digest}", self.repository)) + "\n")
            .collect()
    }

    /// Returns all columns for a spreadsheet.
    pub fn csv(&self) -> anyhow::Result<String> {
        let header = [
            "image", "build", "result", "finished", "seconds", "base", "digest", "cascade",
            "cause", "message",
        ];
        let image = format!("{}/{}/{}", self.namespace, self.family, self.image);
        let row = |build: &BuildEntry| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            vec![
                image.clone(),
                build.build.map(|number| number.to_string()).unwrap_or_default(),
                build.outcome.as_str().to_owned(),
                build.finished_at.map(|at| at.to_string()).unwrap_or_default(),
                build.duration_seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
                text(&build.base),
                text(&build.digest),
                text(&build.cascade),
                text(&build.cause),
                build.message.clone(),
            ]
        };
        csv::render(&header, &self.builds.iter().map(row).collect::<Vec<_>>())
    }
}

impl BuildEntry {
    /// Returns the columns that both tables begin with.
    fn cells(&self, now: Timestamp) -> Vec<StyledText> {
        let digest = |digest: &Option<String>| digest.as_deref().map_or("-", short).into();
        let took = self.duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let took = took.map(|seconds| readable(std::time::Duration::from_secs(seconds)));
        vec![
            self.build.map_or("-".to_owned(), |number| number.to_string()).into(),
            styled(self.outcome.as_str(), self.outcome.colour()),
            age(self.finished_at, now).into(),
            took.unwrap_or_else(|| "-".into()).into(),
            digest(&self.base),
            digest(&self.digest),
        ]
    }

    /// Returns how the build failed, or else why it was started.
    fn explanation(&self) -> &str {
        match (&self.cause, self.outcome) {
            (Some(cause), BuildEnd::Built | BuildEnd::Running) => cause,
            _ => &self.message,
        }
    }
}

/// Returns the build that is running.
fn running_build(status: &ManagedImageStatus, now: Timestamp) -> Option<BuildEntry> {
    let running = status.running.as_ref()?;
    let since = running.started_at.map(|started| now.duration_since(started).as_secs());
    Some(BuildEntry {
        build: Some(running.build),
        outcome: BuildEnd::Running,
        finished_at: None,
        duration_seconds: since.map(|seconds| seconds.max(0)),
        digest: None,
        base: None,
        cascade: None,
        cause: None,
        message: format!("Job {}, attempt {}", running.job, running.attempt + 1),
    })
}

fn entry(record: &BuildRecord, base: Option<String>) -> BuildEntry {
    let outcome = match (record.digest.is_empty(), record.spared) {
        (true, _) => BuildEnd::Failed,
        (false, true) => BuildEnd::Unchanged,
        (false, false) => BuildEnd::Built,
    };
    BuildEntry {
        build: record.build,
        outcome,
        finished_at: record.finished_at,
        duration_seconds: record.duration.map(|duration| i64::from(duration.as_secs())),
        digest: Some(record.digest.clone()).filter(|digest| !digest.is_empty()),
        base,
        cascade: Some(record.cascade.clone()).filter(|cascade| !cascade.is_empty()),
        cause: (!record.causes.is_empty()).then(|| sentence(&record.causes)),
        message: record.message.clone(),
    }
}

/// Returns the digest of the base of each build in the history. Only the inputs of the last
/// verified build are recorded: those of the builds before it follow from what each build says has
/// changed. `base` is the place of the base among the parents.
fn bases_of_builds(status: &ManagedImageStatus, base: Option<usize>) -> Vec<Option<String>> {
    let inputs = status.inputs.as_ref();
    let parent = base.and_then(|base| inputs?.parents.get(base));
    let name = parent.map(|parent| parent.name.as_str());
    let mut current = parent.map(|parent| parent.digest.clone());
    let mut bases = Vec::new();
    for record in &status.history {
        let is_last = record.causes.is_empty() && record.build == status.build;
        let causes = if is_last { &status.causes } else { &record.causes };
        let change = causes.iter().find(|cause| is_change_of(cause, name));
        if record.digest.is_empty() {
            bases.push(change.map(|change| change.to.clone()).or_else(|| current.clone()));
            continue;
        }
        bases.push(current.clone());
        // With other edges, the digest before may be that of another parent.
        let has_new_spec = causes.iter().any(|cause| cause.type_ == CauseType::Spec);
        current = match change {
            Some(_) if has_new_spec => None,
            Some(change) => Some(change.from.clone()).filter(|from| !from.is_empty()),
            // What changed is not recorded.
            None if causes.is_empty() => None,
            None => current,
        };
    }
    bases
}

/// Whether a cause is that the parent of this name has moved or was rebuilt.
fn is_change_of(cause: &Cause, parent: Option<&str>) -> bool {
    cause.via.is_empty()
        && matches!(cause.type_, CauseType::Parent | CauseType::Upstream)
        && parent == Some(cause.name.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_base_of_each_build_follows_from_what_has_changed() {
        let moved = |from: &str, to: &str| {
            let cause = json!({"type": "Upstream", "name": "debian", "from": from, "to": to});
            json!([cause])
        };
        let status: ManagedImageStatus = serde_json::from_value(json!({
            "inputs": {"parents": [{"name": "debian", "digest": "d3"}], "source": "s", "spec": "s",
                       "strategy": "s"},
            "history": [
                {"fingerprint": "f6", "message": "m", "causes": moved("d3", "d4")},
                {"fingerprint": "f5", "digest": "i5", "message": "m",
                 "causes": [{"type": "Source", "name": "app", "from": "a", "to": "b"}]},
                {"fingerprint": "f4", "digest": "i4", "message": "m", "causes": moved("d2", "d3")},
                {"fingerprint": "f3", "message": "m"},
                {"fingerprint": "f2", "digest": "i2", "message": "unknown"},
                {"fingerprint": "f1", "digest": "i1", "message": "new",
                 "causes": [{"type": "Spec", "name": "app", "from": "", "to": "s"}]},
            ]
        }))
        .expect("a status");
        let bases = bases_of_builds(&status, Some(0));
        let bases: Vec<&str> =
            bases.iter().map(|base| base.as_deref().unwrap_or("unknown")).collect();
        assert_eq!(bases, ["d4", "d3", "d3", "d2", "d2", "unknown"]);
        assert!(bases_of_builds(&status, None).iter().all(Option::is_none), "without a base");
    }
}
