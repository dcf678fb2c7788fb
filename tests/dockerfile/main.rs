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
mod hostile;
mod random;
mod smuggled;

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    api::EdgeUse,
    builds::{
        dockerfile::{
            BuildOptions, DeclaredEdge, Dockerfile, NamedImage, NeededImage, verify_edges,
        },
        prepare::source_policy::{RemoteSources, policy},
    },
    registry::{Platform, Reference},
};

use crate::frontend::{Answer, Build};

/// The number of random files of an ordinary run.
const SEEDS: u64 = 4000;
/// The number of hostile random files of an ordinary run.
const HOSTILE_SEEDS: u64 = 500;
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

/// What a comparison demands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Both accept the same files, and find the same images in them.
    Same,
    /// `BuildKit` uses no image that the reader does not find. The reader may refuse more.
    Safe,
}

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

fn compare(
    read: &Result<BTreeMap<String, EdgeUse>, String>,
    answer: &Answer,
    demand: Demand,
) -> Outcome {
    let is_safe = demand == Demand::Safe;
    match (read, answer.error.as_str()) {
        (Ok(images), "") => {
            let found: BTreeSet<&str> = images.keys().map(String::as_str).collect();
            let used: BTreeSet<&str> = answer.images.iter().map(String::as_str).collect();
            if found == used || (is_safe && found.is_superset(&used)) {
                Outcome::Same
            } else {
                Outcome::Differs(format!("the reader finds {found:?}, BuildKit uses {used:?}"))
            }
        }
        (Ok(_), error) if is_safe || LEFT_TO_BUILDKIT.iter().any(|part| error.contains(part)) => {
            Outcome::BuildKitRejects
        }
        (Ok(_), error) => Outcome::Differs(format!("only BuildKit rejects it: {error}")),
        (Err(error), "") if is_safe || STRICTER.iter().any(|part| error.contains(part)) => {
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
    let pinned: Vec<&str> = edges.iter().map(|edge| edge.pinned.as_str()).collect();
    let policy = Some(policy(&pinned, RemoteSources::Allowed));
    Ok(Build { contexts, triggers, policy, ..build.clone() })
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
fn compare_all(builds: &BTreeMap<String, Build>, demand: Demand) -> Report {
    let mut report = Report::default();
    let answers = frontend::ask(builds.values());
    let mut pinned_builds = Vec::new();
    for ((title, build), answer) in builds.iter().zip(answers) {
        let read = read(build);
        let outcome = compare(&read, &answer, demand);
        if let (Outcome::Same, Ok(images)) = (&outcome, &read) {
            match pinned(build, images) {
                Ok(build) => pinned_builds.push((title, build)),
                Err(error) if STRICTER.iter().any(|part| error.contains(part)) => {}
                Err(error) if error.contains("one edge") => {}
                Err(_) if demand == Demand::Safe => {}
                Err(error) => report.differ(title, build, &format!("the edges: {error}")),
            }
        }
        report.add(title, build, outcome);
    }
    let answers = frontend::ask(pinned_builds.iter().map(|(_, build)| build));
    for ((title, build), answer) in pinned_builds.iter().zip(answers) {
        let pinned: BTreeSet<&String> = build.triggers.keys().collect();
        let used: BTreeSet<&String> = answer.images.iter().collect();
        let is_expected = match demand {
            Demand::Same => answer.error.is_empty() && used == pinned,
            Demand::Safe => used.is_subset(&pinned),
        };
        if !is_expected || !answer.denied.is_empty() {
            let denied = &answer.denied;
            let how = format!(
                "with contexts, BuildKit uses {used:?} and is denied {denied:?} {}",
                answer.error
            );
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

/// Returns the builds of `SEEDS` seeds, starting at `FROM`, or of `default` seeds.
fn random_builds(generate: impl Fn(u64) -> Build, default: u64) -> BTreeMap<String, Build> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let first: u64 = number("FROM").unwrap_or(0);
    let seeds = first..first + number("SEEDS").unwrap_or(default);
    seeds.map(|seed| (format!("seed {seed}"), generate(seed))).collect()
}

#[test]
fn files_of_users_are_read_as_buildkit_reads_them() {
    let builds = corpus::builds();
    let report = compare_all(&builds, Demand::Same);
    assert_no_differences(&report);
    assert!(report.pinned * 2 > builds.len(), "few files of the corpus are accepted");
}

#[test]
fn random_files_are_read_as_buildkit_reads_them() {
    let builds = random_builds(generator::build, SEEDS);
    let report = compare_all(&builds, Demand::Same);
    assert_no_differences(&report);
    assert!(report.same * 4 > builds.len(), "few random files are accepted");
}

#[test]
fn hostile_files_pull_nothing_that_the_reader_does_not_find() {
    let builds = random_builds(hostile::build, HOSTILE_SEEDS);
    let report = compare_all(&builds, Demand::Safe);
    assert_no_differences(&report);
    assert!(report.pinned * 10 > builds.len(), "few hostile files are accepted");
}

/// The reader refuses the files as well. The policy does not depend on that.
#[test]
fn an_image_that_is_smuggled_past_the_reader_is_denied_by_the_policy() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let pinned = format!("registry.example.com/team/base@{digest}");
    let policy = policy(&[&pinned], RemoteSources::Allowed);
    let mut builds = smuggled::builds();
    for (title, build) in &mut builds {
        let edge = DeclaredEdge {
            name: "base".into(),
            pinned: pinned.clone(),
            reference: Some(smuggled::BASE.into()),
            arg: None,
            usage: EdgeUse::Base,
        };
        let triggers = [build.triggers.values().flatten().cloned().collect()];
        let read = parse(build).map(|file| verify_edges(&file, &[edge], Some(&triggers)).is_ok());
        assert_ne!(read, Ok(true), "{title}: the reader accepts it");
        build.contexts.insert(smuggled::BASE.into(), pinned.clone());
        if let Some(triggers) = build.triggers.remove(smuggled::BASE) {
            build.triggers.insert(pinned.clone(), triggers);
        }
        build.policy = Some(policy.clone());
    }
    let denied = [format!("docker-image://{}", smuggled::EVIL)];
    for ((title, build), answer) in builds.iter().zip(frontend::ask(builds.values())) {
        assert_eq!(answer.denied, denied, "{title}: {answer:?}\n{}", build.dockerfile);
    }
}
