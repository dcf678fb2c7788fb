//! What a record says: an in-toto Statement whose subjects are the digests that a fingerprint gave.
//! A record is bound to its family, its repository and its fingerprint, so that it cannot be used
//! for another one.

use serde::{Deserialize, Serialize};

use crate::{
    api::ParentDigest,
    identity::{Fingerprint, ImageDigest},
};

/// The type of every in-toto Statement of version 1.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of our predicate.
const PREDICATE_TYPE: &str = "https://groundswell.dev/build-record/v1";
/// Maximum number of subjects that are read.
const MAX_SUBJECTS: usize = 4;
/// The algorithm of digests in statements, and what it is called in digests of images.
const ALGORITHM: &str = "sha256:";

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementKind {
    /// A build has pushed the digest.
    Build,
    /// A build has changed nothing, so that the image keeps an earlier digest.
    Unchanged,
    /// A request has rebuilt the same inputs as this digest, which is the newest one.
    Rebuild,
}

/// A statement about a build of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildStatement {
    /// What it is about.
    pub kind: StatementKind,
    /// The family whose build it was, `namespace/name`. It is not its uid, so that a family that is
    /// recreated or restored keeps its builds.
    pub family: String,
    /// The repository, with the host of the registry.
    pub repository: String,
    /// The fingerprint that the digests are the result of.
    pub fingerprint: Fingerprint,
    /// The digests. A build that has changed nothing has two: the one that is kept, and its own.
    pub digests: Vec<ImageDigest>,
    /// The inputs of the build, as far as they are known.
    pub inputs: RecordedInputs,
}

/// Where a build came from. It is recorded for readers: nothing depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedInputs {
    /// The number of the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// The id of the request that has caused it, if its inputs were unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The platform that it was built for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The parents, with their digests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentDigest>,
}

/// A statement as it is written.
#[derive(Serialize, Deserialize)]
struct WrittenStatement {
    #[serde(rename = "_type")]
    type_: String,
    subject: Vec<WrittenSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: WrittenPredicate,
}

#[derive(Serialize, Deserialize)]
struct WrittenSubject {
    name: String,
    digest: WrittenDigest,
}

#[derive(Serialize, Deserialize)]
struct WrittenDigest {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct WrittenPredicate {
    kind: StatementKind,
    family: String,
    repository: String,
    fingerprint: String,
    #[serde(flatten)]
    inputs: RecordedInputs,
}

impl BuildStatement {
    /// Returns the statement as JSON.
    ///
    /// # Errors
    /// Returns an error if it cannot be written, which no value causes.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let subject = |digest: &ImageDigest| WrittenSubject {
            name: self.repository.clone(),
            digest: WrittenDigest {
                sha256: digest.as_str().trim_start_matches(ALGORITHM).to_owned(),
            },
        };
        serde_json::to_vec(&WrittenStatement {
            type_: STATEMENT_TYPE.into(),
            subject: self.digests.iter().map(subject).collect(),
            predicate_type: PREDICATE_TYPE.into(),
            predicate: WrittenPredicate {
                kind: self.kind,
                family: self.family.clone(),
                repository: self.repository.clone(),
                fingerprint: self.fingerprint.to_string(),
                inputs: self.inputs.clone(),
            },
        })
    }

    /// Reads a statement. What is not one of ours is `None`.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let written: WrittenStatement = serde_json::from_slice(json).ok()?;
        let WrittenPredicate { kind, family, repository, fingerprint, inputs } = written.predicate;
        let is_ours = written.type_ == STATEMENT_TYPE && written.predicate_type == PREDICATE_TYPE;
        let is_bounded = (1..=MAX_SUBJECTS).contains(&written.subject.len());
        let names_match = written.subject.iter().all(|subject| subject.name == repository);
        (is_ours && is_bounded && names_match).then(|| Self {
            kind,
            family,
            repository,
            fingerprint: fingerprint.into(),
            digests: written
                .subject
                .iter()
                .map(|subject| format!("{ALGORITHM}{}", subject.digest.sha256).into())
                .collect(),
            inputs,
        })
    }

    /// Whether the statement says that a build of this family, `namespace/name`, had a digest as
    /// the result of a fingerprint in a repository. The inputs of a build are no secret, so another
    /// family can have the same fingerprint and name the same repository.
    #[must_use]
    pub fn is_about(
        &self,
        family: &str,
        repository: &str,
        fingerprint: &Fingerprint,
        digest: &ImageDigest,
    ) -> bool {
        self.family == family
            && self.repository == repository
            && self.fingerprint == *fingerprint
            && self.digests.contains(digest)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn statement() -> BuildStatement {
        BuildStatement {
            kind: StatementKind::Build,
            family: "team/apps".into(),
            repository: "registry.example.com/team/app".into(),
            fingerprint: "f1".into(),
            digests: vec!["sha256:aa".into(), "sha256:bb".into()],
            inputs: RecordedInputs {
                build: Some(7),
                request: None,
                platform: Some("linux/amd64".into()),
                parents: vec![ParentDigest { name: "base".into(), digest: "sha256:cc".into() }],
            },
        }
    }

    #[test]
    fn a_statement_has_the_form_of_in_toto() {
        let json = statement().to_json().expect("JSON");
        let written: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        let expected = serde_json::json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": "registry.example.com/team/app", "digest": {"sha256": "aa"}},
                {"name": "registry.example.com/team/app", "digest": {"sha256": "bb"}},
            ],
            "predicateType": "https://groundswell.dev/build-record/v1",
            "predicate": {
                "kind": "Build",
                "family": "team/apps",
                "repository": "registry.example.com/team/app",
                "fingerprint": "f1",
                "build": 7,
                "platform": "linux/amd64",
                "parents": [{"name": "base", "digest": "sha256:cc"}],
            },
        });
        assert_eq!(written, expected);
        assert_eq!(BuildStatement::parse(&json), Some(statement()));
    }

    #[test]
    fn a_statement_is_about_one_family_one_repository_and_one_fingerprint() {
        let (ours, app) = ("team/apps", "registry.example.com/team/app");
        for (family, repository, fingerprint, digest, is_about) in [
            (ours, app, "f1", "sha256:aa", true),
            (ours, app, "f1", "sha256:bb", true),
            (ours, app, "f1", "sha256:cc", false),
            (ours, app, "f2", "sha256:aa", false),
            (ours, "registry.example.com/team/other", "f1", "sha256:aa", false),
            ("other/apps", app, "f1", "sha256:aa", false),
            ("team/other", app, "f1", "sha256:aa", false),
        ] {
            let (fingerprint, digest) = (fingerprint.into(), digest.into());
            let said = statement().is_about(family, repository, &fingerprint, &digest);
            assert_eq!(said, is_about, "{family} {repository} {fingerprint} {digest}");
        }
    }

    #[test]
    fn what_is_not_our_statement_is_not_read() {
        let written: serde_json::Value =
            serde_json::from_slice(&statement().to_json().expect("JSON")).expect("JSON");
        let changed = |pointer: &str, value: serde_json::Value| {
            let mut changed = written.clone();
            *changed.pointer_mut(pointer).expect(pointer) = value;
            BuildStatement::parse(changed.to_string().as_bytes())
        };
        assert!(changed("/predicate/build", serde_json::json!(8)).is_some());
        for (pointer, value) in [
            ("/_type", serde_json::json!("https://in-toto.io/Statement/v0.1")),
            ("/predicateType", serde_json::json!("https://slsa.dev/provenance/v1")),
            ("/predicate/kind", serde_json::json!("Guess")),
            ("/subject", serde_json::json!([])),
            ("/subject/1/name", serde_json::json!("registry.example.com/team/other")),
            ("/subject", serde_json::json!(vec![written["subject"][0].clone(); 5])),
        ] {
            assert_eq!(changed(pointer, value), None, "{pointer}");
        }
        let mut of_no_family = written.clone();
        of_no_family["predicate"].as_object_mut().expect("a predicate").remove("family");
        assert_eq!(BuildStatement::parse(of_no_family.to_string().as_bytes()), None);
    }
}
