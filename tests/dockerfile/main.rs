//! The reader of Dockerfiles compared with `BuildKit`'s own frontend, which is compiled from the
//! version of the shipped strategy.
//!
//! Both read the same files, written by users or at random, and must find the same images. With
//! the named contexts of a build, the frontend must ask for nothing but the pinned images.
//!
//! `make fuzz SEEDS=100000 FROM=5000` reads many random files, one per seed.

#![allow(clippy::expect_used, reason = "a test reports what is wrong by failing")]

mod corpus;
mod frontend;
mod generator;

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    api::EdgeUse,
    builds::dockerfile::{
        BuildOptions, DeclaredEdge, Dockerfile, NamedImage, NeededImage, verify_edges,
    },
    registry::{Platform, Reference},
};

use crate::frontend::{Answer, Build};

/// The number of random files of an ordinary run.
const SEEDS: u64 = 4000;
/// Maximum number of differences that a failure lists.
const MAX_LISTED: usize = 5;

/// Parts of the reader's messages about files that `BuildKit` accepts. Each is a limit of the
/// reader, or an image that would not be pinned.
const STRICTER: [&str; 6] = [
    "the build is for",
    "there is no stage number",
    "would not pin",
    "name each other",
    "is nested deeper",
    "rename the stage",
];

/// Parts of `BuildKit`'s messages about files that the reader accepts. The build fails with them,
/// and uses no image.
const LEFT_TO_BUILDKIT: [&str; 20] = [
    "unknown instruction",
    "no build stage",
    "can not be blank",
    "must have",
    "failed to process",
    "unknown flag",
    "arg should start with",
    "on flag",
    "duplicate flag",
    "requires at least",
    "Syntax error",
    "invalid name for build stage",
    // The base of a stage that is not needed, or of one in upper case.
    "failed to parse stage name",
    "invalid context name",
    "circular dependency",
    "needs to be defined before current",
    "mount",
    "unexpected key",
    "invalid field",
    "platform",
];

/// What a comparison finds.
#[derive(Debug, PartialEq)]
enum Outcome {
    Same,
    BothReject,
    ReaderRejects,
    BuildKitRejects,
    Differs(String),
}

/// The images that the reader finds, by their full references.
fn read(build: &Build) -> Result<BTreeMap<String, EdgeUse>, String> {
    let triggers = |image: &NamedImage| triggers_of(&build.triggers, &image.name);
    let needed = parse(build)?
        .needed_images(&triggers)
        .map_err(|error| error.to_string())?
        .ok_or("there is no such target")?;
    let mut images = BTreeMap::new();
    for NeededImage { image, usage } in needed {
        let full = image.name.parse::<Reference>().map_err(|error| error.to_string())?.to_string();
        let strongest = images.entry(full).or_insert(usage);
        *strongest = (*strongest).min(usage);
    }
    Ok(images)
}

fn parse(build: &Build) -> Result<Dockerfile, String> {
    let Ok(platform) = build.platform.parse::<Platform>();
    let options = BuildOptions {
        args: &build.args,
        platform: &platform,
        target: Some(build.target.as_str()).filter(|target| !target.is_empty()),
    };
    Dockerfile::parse(&build.dockerfile, &options).map_err(|error| error.to_string())
}

fn triggers_of<'a>(triggers: &'a BTreeMap<String, Vec<String>>, name: &str) -> &'a [String] {
    let full = name.parse::<Reference>().map(|reference| reference.to_string());
    full.ok().and_then(|full| triggers.get(&full)).map(Vec::as_slice).unwrap_or_default()
}

fn compare(read: &Result<BTreeMap<String, EdgeUse>, String>, answer: &Answer) -> Outcome {
    match (read, answer.error.as_str()) {
        (Ok(images), "") => {
            let found: BTreeSet<&str> = images.keys().map(String::as_str).collect();
            let used: BTreeSet<&str> = answer.images.iter().map(String::as_str).collect();
            if found == used {
                Outcome::Same
            } else {
                Outcome::Differs(format!("the reader finds {found:?}, BuildKit uses {used:?}"))
            }
        }
        (Ok(_), error) if LEFT_TO_BUILDKIT.iter().any(|part| error.contains(part)) => {
            Outcome::BuildKitRejects
        }
        (Ok(_), error) => Outcome::Differs(format!("only BuildKit rejects it: {error}")),
        (Err(error), "") if STRICTER.iter().any(|part| error.contains(part)) => {
            Outcome::ReaderRejects
        }
        (Err(error), "") => Outcome::Differs(format!("only the reader rejects it: {error}")),
        (Err(_), _) => Outcome::BothReject,
    }
}

/// The build with an edge for each of its images: pinned, and with the named contexts that the
/// controller and `prepare` pass. `None` if the reader rejects the edges.
fn pinned(build: &Build, images: &BTreeMap<String, EdgeUse>) -> Result<Build, String> {
    let mut edges = Vec::new();
    let mut contexts = BTreeMap::new();
    let mut triggers = BTreeMap::new();
    for (number, (full, usage)) in images.iter().enumerate() {
        let reference: Reference = full.parse().map_err(|error| format!("{error}"))?;
        // The edge names the tag alone, if there is one.
        let named = match reference.tag() {
            Some(tag) => reference.with_tag(tag).map_err(|error| error.to_string())?,
            None => reference,
        };
        let pinned = format!("pinned.example.com/{number}@sha256:{number:064x}");
        let own = build.triggers.get(full).cloned().unwrap_or_default();
        triggers.insert(pinned.clone(), own);
        if contexts.insert(named.familiar(), pinned.clone()).is_some() {
            return Err("two digests of one tag are one edge".into());
        }
        edges.push(DeclaredEdge {
            name: format!("parent-{number}"),
            pinned,
            reference: Some(named.to_string()),
            arg: None,
            usage: *usage,
        });
    }
    let of_edges: Vec<_> =
        edges.iter().map(|edge| triggers.get(&edge.pinned).cloned().unwrap_or_default()).collect();
    let replaced =
        verify_edges(&parse(build)?, &edges, Some(&of_edges)).map_err(|error| error.to_string())?;
    contexts.extend(replaced.into_iter().map(|replaced| (replaced.context, replaced.pinned)));
    Ok(Build { contexts, triggers, ..build.clone() })
}

/// The result of all comparisons.
#[derive(Default)]
struct Report {
    same: usize,
    pinned: usize,
    both_reject: usize,
    reader_rejects: usize,
    buildkit_rejects: usize,
    differences: Vec<String>,
}

impl Report {
    fn add(&mut self, title: &str, build: &Build, outcome: Outcome) {
        match outcome {
            Outcome::Same => self.same += 1,
            Outcome::BothReject => self.both_reject += 1,
            Outcome::ReaderRejects => self.reader_rejects += 1,
            Outcome::BuildKitRejects => self.buildkit_rejects += 1,
            Outcome::Differs(how) => self.differ(title, build, &how),
        }
    }

    fn differ(&mut self, title: &str, build: &Build, how: &str) {
        self.differences.push(format!("{title}: {how}\n{build:#?}\n{}\n", build.dockerfile));
    }
}

/// Compares the reader with `BuildKit` over these builds, each with a title.
fn compare_all(builds: &BTreeMap<String, Build>) -> Report {
    let mut report = Report::default();
    let answers = frontend::ask(builds.values());
    let mut pinned_builds = Vec::new();
    for ((title, build), answer) in builds.iter().zip(answers) {
        let read = read(build);
        let outcome = compare(&read, &answer);
        if let (Outcome::Same, Ok(images)) = (&outcome, &read) {
            match pinned(build, images) {
                Ok(build) => pinned_builds.push((title, build)),
                Err(error) if STRICTER.iter().any(|part| error.contains(part)) => {}
                Err(error) if error.contains("one edge") => {}
                Err(error) => report.differ(title, build, &format!("the edges: {error}")),
            }
        }
        report.add(title, build, outcome);
    }
    let answers = frontend::ask(pinned_builds.iter().map(|(_, build)| build));
    for ((title, build), answer) in pinned_builds.iter().zip(answers) {
        let pinned: BTreeSet<&String> = build.triggers.keys().collect();
        let used: BTreeSet<&String> = answer.images.iter().collect();
        if !answer.error.is_empty() || used != pinned {
            let how = format!("with contexts, BuildKit uses {used:?} {}", answer.error);
            report.differ(title, build, &how);
        }
        report.pinned += 1;
    }
    println!(
        "{} files: {} with the same images ({} of them pinned), {} that both reject, {} that only \
         the reader rejects, {} that only BuildKit rejects, {} differences",
        builds.len(),
        report.same,
        report.pinned,
        report.both_reject,
        report.reader_rejects,
        report.buildkit_rejects,
        report.differences.len()
    );
    report
}

fn assert_no_differences(report: &Report) {
    let listed: Vec<_> = report.differences.iter().take(MAX_LISTED).map(String::as_str).collect();
    assert!(report.differences.is_empty(), "{}", listed.join("\n"));
}

#[test]
fn files_of_users_are_read_as_buildkit_reads_them() {
    let builds = corpus::builds();
    let report = compare_all(&builds);
    assert_no_differences(&report);
    assert!(report.pinned * 2 > builds.len(), "few files of the corpus are accepted");
}

#[test]
fn random_files_are_read_as_buildkit_reads_them() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let first: u64 = number("FROM").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(SEEDS);
    let seeds = first..first + count;
    let builds: BTreeMap<String, Build> =
        seeds.map(|seed| (format!("seed {seed}"), generator::build(seed))).collect();
    let report = compare_all(&builds);
    assert_no_differences(&report);
    assert!(report.same * 4 > builds.len(), "few random files are accepted");
}
