//! Tests [`imports`](crate::engine::imports) with records that a test writes.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use crate::{
    api::{
        AdoptedDigest, BreakerStatus, CandidateDigest, Edge, FamilyRef, Image, ImageFamily,
        ImageFamilySpec, ImageFamilyStatus, ImageState, Inputs, ManagedImage, ManagedImageSpec,
        ManagedImageStatus, OnParentFailure, ParentDigest, UpstreamStatus, WindowStatus,
        condition::{self, ConditionUpdate, RECONCILING, Reason, STALLED},
    },
    engine::{
        ImportState, WaitProgress,
        imports::{ImportStates, MAX_VISITED_IMAGES, Records},
    },
    lineage::families::{FamilyName, ImageName},
};

/// Families and records. Every image is current and built from `sha256:<parent>` until a test
/// changes it.
#[derive(Clone, Debug, Default)]
struct RecordedFamilies {
    families: HashMap<FamilyName, ImageFamily>,
    records: HashMap<ImageName, ManagedImage>,
}

impl Records for RecordedFamilies {
    fn family(&self, name: &FamilyName) -> Option<Arc<ImageFamily>> {
        self.families.get(name).cloned().map(Arc::new)
    }

    fn image(&self, name: &ImageName) -> Option<Arc<ManagedImage>> {
        self.records.get(name).cloned().map(Arc::new)
    }
}

/// Parses `namespace/family.image`.
fn name(text: &str) -> ImageName {
    let (family, image) = text.split_once('.').expect("namespace/family.image");
    let (namespace, family) = family.split_once('/').expect("namespace/family.image");
    let family = FamilyName { namespace: namespace.into(), name: family.into() };
    ImageName { family, image: image.into() }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().expect("time")
}

/// Returns a condition that is true, without a message.
fn condition(type_: &str, reason: Reason) -> ConditionUpdate<'_> {
    ConditionUpdate { type_, status: true, reason, message: "", observed_generation: None }
}

impl RecordedFamilies {
    /// Creates images from `("namespace/family.image", "UPSTREAM namespace/family.image")`. A
    /// parent in capitals is an upstream.
    fn new(images: &[(&str, &str)]) -> Self {
        let mut recorded = Self::default();
        for (image, parents) in images {
            recorded.add(&name(image), parents);
        }
        recorded
    }

    fn add(&mut self, of: &ImageName, parents: &str) {
        let family = self.families.entry(of.family.clone()).or_insert_with(|| ImageFamily {
            spec: ImageFamilySpec::default(),
            status: Some(ImageFamilyStatus::default()),
            ..ImageFamily::default()
        });
        let mut edges = Vec::new();
        for parent in parents.split_whitespace() {
            let upstream = !parent.contains('.');
            edges.push(if upstream {
                Edge { upstream: Some(parent.into()), ..Edge::default() }
            } else {
                let parent = name(parent);
                let FamilyName { namespace, name } = parent.family.clone();
                let other = parent.family != of.family;
                let family = other.then_some(FamilyRef { namespace: Some(namespace), name });
                Edge { family, image: Some(parent.image), ..Edge::default() }
            });
            let upstreams = &mut family.status.as_mut().expect("status").upstreams;
            if upstream && !upstreams.iter().any(|known| known.name == parent) {
                let adopted = Some(AdoptedDigest {
                    digest: format!("sha256:{parent}"),
                    ..AdoptedDigest::default()
                });
                upstreams.push(UpstreamStatus {
                    name: parent.into(),
                    adopted,
                    ..UpstreamStatus::default()
                });
            }
        }
        let built_from =
            |parent: &str| ParentDigest { name: parent.into(), digest: format!("sha256:{parent}") };
        let inputs = Inputs {
            parents: parents.split_whitespace().map(built_from).collect(),
            ..Inputs::default()
        };
        family.spec.images.push(Image { name: of.image.clone(), from: edges, ..Image::default() });
        let status = ManagedImageStatus {
            state: ImageState::Current,
            reason: Reason::Current.into(),
            digest: Some(format!("sha256:{of}")),
            inputs: Some(inputs),
            ..ManagedImageStatus::default()
        };
        let spec = ManagedImageSpec {
            repository: format!("r.example/{}", of.image),
            ..ManagedImageSpec::default()
        };
        self.records.insert(
            of.clone(),
            ManagedImage { spec, status: Some(status), ..ManagedImage::default() },
        );
    }

    fn family_of(&mut self, image: &str) -> &mut ImageFamily {
        self.families.get_mut(&name(image).family).expect(image)
    }

    fn family_status(&mut self, image: &str) -> &mut ImageFamilyStatus {
        self.family_of(image).status.as_mut().expect(image)
    }

    fn record(&mut self, image: &str) -> &mut ManagedImageStatus {
        self.records.get_mut(&name(image)).and_then(|record| record.status.as_mut()).expect(image)
    }

    fn set(&mut self, image: &str, state: ImageState, reason: Reason, progress: WaitProgress) {
        let record = self.record(image);
        (record.state, record.reason) = (state, reason.into());
        let update = ConditionUpdate {
            status: progress == WaitProgress::InProgress,
            ..condition(RECONCILING, reason)
        };
        condition::set(&mut record.conditions, update, now());
    }

    fn offer(&mut self, image: &str, why_not: Option<Reason>) {
        let upstream = &mut self.family_status(image).upstreams[0];
        upstream.candidate =
            Some(CandidateDigest { digest: "sha256:new".into(), ..CandidateDigest::default() });
        upstream.reason = why_not.map(Into::into);
    }

    fn state(&self, image: &str) -> ImportState {
        ImportStates::new(self).state(&name(image))
    }
}

fn failed(by: &str) -> ImportState {
    ImportState::Failed { by: by.into() }
}

/// Three families with a chain of images: an upstream, `n/a.base`, `n/b.mid`, `n/b.top`,
/// `n/c.leaf`.
fn tower() -> RecordedFamilies {
    RecordedFamilies::new(&[
        ("n/a.base", "UP"),
        ("n/b.mid", "n/a.base"),
        ("n/b.top", "n/b.mid"),
        ("n/c.leaf", "n/b.top UP2"),
    ])
}

const TOWER: [&str; 4] = ["n/a.base", "n/b.mid", "n/b.top", "n/c.leaf"];

#[test]
fn an_unchanged_image_is_settled_and_has_a_digest() {
    let recorded = tower();
    for image in TOWER {
        assert_eq!(recorded.state(image), ImportState::Settled, "{image}");
    }
    let verified =
        ImportStates::new(&recorded).verified(&name("n/b.mid")).expect("a verified build");
    assert_eq!(
        (verified.digest.as_str(), verified.repository.as_str()),
        ("sha256:n/b.mid", "r.example/mid")
    );
    assert_eq!(ImportStates::new(&recorded).verified(&name("n/b.gone")), None);
    assert_eq!(recorded.state("n/b.gone"), ImportState::Settled);
    assert_eq!(recorded.state("n/gone.image"), ImportState::Settled);
}

#[test]
fn a_candidate_in_its_quiet_time_changes_all_descendants() {
    let mut recorded = tower();
    recorded.offer("n/a.base", None);
    for image in TOWER {
        assert_eq!(recorded.state(image), ImportState::InProgress, "{image}");
    }
    for gate in
        [Reason::MinimumAge, Reason::AwaitingApproval, Reason::Held, Reason::PlatformMissing]
    {
        recorded.offer("n/a.base", Some(gate));
        assert_eq!(recorded.state("n/c.leaf"), ImportState::Settled, "{gate}");
    }
}

#[test]
fn an_image_with_older_inputs_is_about_to_change() {
    let mut recorded = tower();
    recorded.family_status("n/a.base").upstreams[0].adopted =
        Some(AdoptedDigest { digest: "sha256:new".into(), ..AdoptedDigest::default() });
    for image in TOWER {
        assert_eq!(recorded.state(image), ImportState::InProgress, "an adopted digest: {image}");
    }
    let mut recorded = tower();
    recorded.record("n/a.base").digest = Some("sha256:new".into());
    assert_eq!(recorded.state("n/a.base"), ImportState::Settled);
    for image in &TOWER[1..] {
        assert_eq!(
            recorded.state(image),
            ImportState::InProgress,
            "a digest of another family: {image}"
        );
    }
    let mut recorded = tower();
    recorded.family_of("n/b.mid").spec.images[1].from.clear();
    assert_eq!(
        recorded.state("n/b.top"),
        ImportState::InProgress,
        "an edge that the record does not contain yet"
    );
}

#[test]
fn a_record_says_whether_its_image_changes() {
    for (state, why, progress, expected) in [
        (ImageState::Building, Reason::Building, WaitProgress::InProgress, ImportState::InProgress),
        (ImageState::Checking, Reason::Checking, WaitProgress::InProgress, ImportState::InProgress),
        (ImageState::Checking, Reason::RegistryDenied, WaitProgress::AtRest, ImportState::Settled),
        (ImageState::Queued, Reason::Cascading, WaitProgress::InProgress, ImportState::InProgress),
        (
            ImageState::Queued,
            Reason::ParallelismReached,
            WaitProgress::InProgress,
            ImportState::InProgress,
        ),
        (
            ImageState::Queued,
            Reason::NextCascade,
            WaitProgress::InProgress,
            ImportState::InProgress,
        ),
        (ImageState::Queued, Reason::Retrying, WaitProgress::InProgress, ImportState::InProgress),
        (
            ImageState::Queued,
            Reason::QuotaExceeded,
            WaitProgress::InProgress,
            ImportState::InProgress,
        ),
        (ImageState::Queued, Reason::JobRefused, WaitProgress::AtRest, ImportState::Settled),
        (ImageState::Queued, Reason::MinimumAge, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Queued, Reason::WindowClosed, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Queued, Reason::BreakerOpen, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Queued, Reason::Suspended, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Queued, Reason::Cancelled, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Waiting, Reason::Resolving, WaitProgress::InProgress, ImportState::InProgress),
        (ImageState::Waiting, Reason::SourceNotFound, WaitProgress::AtRest, ImportState::Settled),
        (ImageState::Waiting, Reason::ImportRefused, WaitProgress::AtRest, ImportState::Settled),
        (ImageState::Held, Reason::Held, WaitProgress::InProgress, ImportState::Settled),
        (ImageState::Failed, Reason::BuildFailed, WaitProgress::AtRest, failed("n/b.mid")),
        (ImageState::Current, Reason::TagImmutable, WaitProgress::AtRest, ImportState::Settled),
    ] {
        let mut recorded = tower();
        // Its parent has moved, but a closed gate, a hold and a failure take precedence.
        if state != ImageState::Current {
            recorded.record("n/a.base").digest = Some("sha256:new".into());
        }
        recorded.set("n/b.mid", state, why, progress);
        assert_eq!(recorded.state("n/b.mid"), expected, "{state:?} {why}");
    }
    let mut recorded = tower();
    recorded.records.get_mut(&name("n/a.base")).expect("record").status = None;
    assert_eq!(recorded.state("n/a.base"), ImportState::InProgress, "it was never evaluated");
}

#[test]
fn a_record_of_an_older_spec_is_about_to_be_written_again() {
    let mut recorded = tower();
    recorded.set("n/b.mid", ImageState::Waiting, Reason::ImportRefused, WaitProgress::AtRest);
    recorded.family_of("n/b.mid").metadata.generation = Some(2);
    assert_eq!(recorded.state("n/b.mid"), ImportState::InProgress);
    recorded.family_status("n/b.mid").observed_generation = Some(2);
    assert_eq!(recorded.state("n/b.mid"), ImportState::Settled);
    // Unless the spec is invalid, so that no record is written.
    recorded.family_status("n/b.mid").observed_generation = Some(1);
    for (generation, expected) in [(2, ImportState::Settled), (1, ImportState::InProgress)] {
        let status = recorded.family_status("n/b.mid");
        status.conditions.clear();
        let update = ConditionUpdate {
            observed_generation: Some(generation),
            ..condition(STALLED, Reason::Cycle)
        };
        condition::set(&mut status.conditions, update, now());
        assert_eq!(recorded.state("n/b.mid"), expected, "stalled at {generation}");
    }
}

#[test]
fn an_image_that_waits_for_a_stuck_parent_is_settled() {
    let mut recorded = tower();
    recorded.set(
        "n/b.top",
        ImageState::Waiting,
        Reason::WaitingForParent,
        WaitProgress::InProgress,
    );
    assert_eq!(
        recorded.state("n/b.top"),
        ImportState::InProgress,
        "its parent is current, and its record is about to follow"
    );
    recorded.set("n/b.mid", ImageState::Building, Reason::Building, WaitProgress::InProgress);
    assert_eq!(recorded.state("n/b.top"), ImportState::InProgress);
    recorded.set("n/b.mid", ImageState::Waiting, Reason::SourceNotFound, WaitProgress::AtRest);
    assert_eq!(recorded.state("n/b.top"), ImportState::Settled);
    recorded.set("n/b.mid", ImageState::Queued, Reason::WindowClosed, WaitProgress::InProgress);
    assert_eq!(recorded.state("n/b.top"), ImportState::Settled);
}

#[test]
fn an_open_breaker_settles_what_it_holds_back_and_nothing_else() {
    let mut recorded = tower();
    recorded.family_status("n/b.mid").breaker = Some(BreakerStatus::default());
    recorded.set("n/b.mid", ImageState::Building, Reason::Building, WaitProgress::InProgress);
    let (waiting, reason) = (ImageState::Waiting, Reason::WaitingForParent);
    recorded.set("n/b.top", waiting, reason, WaitProgress::InProgress);
    assert_eq!(recorded.state("n/b.top"), ImportState::InProgress, "another cause failed");
    recorded.set("n/b.mid", ImageState::Queued, Reason::BreakerOpen, WaitProgress::InProgress);
    assert_eq!(recorded.state("n/b.top"), ImportState::Settled);
}

#[test]
fn images_of_a_paused_family_are_settled() {
    let pauses: [fn(&mut RecordedFamilies); 4] = [
        |recorded| recorded.family_of("n/b.mid").spec.suspend = true,
        |recorded| {
            recorded.family_status("n/b.mid").window =
                Some(WindowStatus { open: false, until: None });
        },
        |recorded| recorded.family_of("n/b.mid").metadata.deletion_timestamp = Some(Time(now())),
        |recorded| {
            let status = recorded.family_status("n/b.mid");
            condition::set(&mut status.conditions, condition(STALLED, Reason::Cycle), now());
        },
    ];
    for (number, pause) in pauses.into_iter().enumerate() {
        let mut recorded = tower();
        pause(&mut recorded);
        recorded.record("n/a.base").digest = Some("sha256:new".into());
        for image in &TOWER[1..] {
            assert_eq!(recorded.state(image), ImportState::Settled, "{number}: {image}");
        }
        recorded.set("n/b.mid", ImageState::Queued, Reason::Cascading, WaitProgress::InProgress);
        assert_eq!(recorded.state("n/b.mid"), ImportState::Settled, "{number}");
        // A running build runs to completion, unless the family is not evaluated.
        recorded.set("n/b.mid", ImageState::Building, Reason::Building, WaitProgress::InProgress);
        let expected = if number < 2 { ImportState::InProgress } else { ImportState::Settled };
        assert_eq!(recorded.state("n/b.mid"), expected, "{number}");
    }
    let mut recorded = tower();
    recorded.family_status("n/b.mid").window = Some(WindowStatus { open: true, until: None });
    let status = recorded.family_status("n/b.mid");
    condition::set(&mut status.conditions, condition(STALLED, Reason::ImagesFailed), now());
    recorded.record("n/a.base").digest = Some("sha256:new".into());
    assert_eq!(
        recorded.state("n/b.mid"),
        ImportState::InProgress,
        "a failed image does not delay the others"
    );
}

#[test]
fn a_failure_names_the_image_that_failed() {
    let mut recorded = tower();
    recorded.set("n/a.base", ImageState::Failed, Reason::BuildFailed, WaitProgress::AtRest);
    for image in TOWER {
        assert_eq!(
            recorded.state(image),
            failed("n/a.base"),
            "its descendants are not blocked yet: \
            {image}"
        );
    }
    for image in &TOWER[1..] {
        recorded.set(image, ImageState::Blocked, Reason::AncestorFailed, WaitProgress::AtRest);
    }
    recorded.family_of("n/b.mid").spec.suspend = true;
    for image in TOWER {
        assert_eq!(
            recorded.state(image),
            failed("n/a.base"),
            "its descendants are blocked: {image}"
        );
    }
    recorded.family_of("n/b.mid").spec.suspend = false;
    recorded.set("n/a.base", ImageState::Building, Reason::Building, WaitProgress::InProgress);
    assert_eq!(recorded.state("n/c.leaf"), ImportState::InProgress, "it is retried");
    recorded.set("n/a.base", ImageState::Current, Reason::Current, WaitProgress::AtRest);
    assert_eq!(recorded.state("n/c.leaf"), ImportState::InProgress, "it became current after all");
    recorded.set("n/a.base", ImageState::Waiting, Reason::SourceNotFound, WaitProgress::AtRest);
    assert_eq!(recorded.state("n/c.leaf"), failed("n/b.mid"), "the record of the failure is gone");
}

#[test]
fn an_image_that_uses_the_last_verified_parent_does_not_fail_with_it() {
    let mut recorded = tower();
    recorded.family_of("n/b.mid").spec.images[0].on_parent_failure =
        OnParentFailure::UseLastVerified;
    recorded.set("n/a.base", ImageState::Failed, Reason::BuildFailed, WaitProgress::AtRest);
    assert_eq!(recorded.state("n/a.base"), failed("n/a.base"));
    assert_eq!(recorded.state("n/c.leaf"), ImportState::Settled);
}

#[test]
fn a_failed_parent_takes_precedence_over_a_changing_one() {
    for parents in ["n/a.x n/b.y", "n/b.y n/a.x"] {
        let mut recorded =
            RecordedFamilies::new(&[("n/a.x", "UP"), ("n/b.y", "UP"), ("n/c.z", parents)]);
        recorded.set("n/a.x", ImageState::Building, Reason::Building, WaitProgress::InProgress);
        recorded.set("n/b.y", ImageState::Failed, Reason::BuildFailed, WaitProgress::AtRest);
        assert_eq!(recorded.state("n/c.z"), failed("n/b.y"), "{parents}");
    }
}

#[test]
fn cycles_and_long_chains_end() {
    let recorded =
        RecordedFamilies::new(&[("n/a.x", "n/b.y"), ("n/b.y", "n/a.z"), ("n/a.z", "n/a.x UP")]);
    assert_eq!(recorded.state("n/a.x"), ImportState::Settled);

    let height = MAX_VISITED_IMAGES + 1000;
    let chain: Vec<(String, String)> = (0..=height)
        .map(|place| match place {
            0 => ("n/f0.i".to_owned(), "UP".to_owned()),
            _ => (format!("n/f{place}.i"), format!("n/f{}.i", place - 1)),
        })
        .collect();
    let chain: Vec<(&str, &str)> =
        chain.iter().map(|(name, parents)| (name.as_str(), parents.as_str())).collect();
    let mut recorded = RecordedFamilies::new(&chain);
    recorded.offer("n/f0.i", None);
    assert_eq!(
        recorded.state(&format!("n/f{}.i", MAX_VISITED_IMAGES - 1)),
        ImportState::InProgress
    );
    assert_eq!(recorded.state(&format!("n/f{height}.i")), ImportState::Settled, "beyond the limit");
}

/// Twelve images in four families, each built on earlier ones, in random states.
fn record_sets() -> impl Strategy<Value = RecordedFamilies> {
    let states = prop::sample::select(vec![
        (ImageState::Current, Reason::Current, WaitProgress::AtRest),
        (ImageState::Current, Reason::Current, WaitProgress::AtRest),
        (ImageState::Building, Reason::Building, WaitProgress::InProgress),
        (ImageState::Queued, Reason::WindowClosed, WaitProgress::InProgress),
        (ImageState::Waiting, Reason::WaitingForParent, WaitProgress::InProgress),
        (ImageState::Failed, Reason::BuildFailed, WaitProgress::AtRest),
        (ImageState::Blocked, Reason::AncestorFailed, WaitProgress::AtRest),
    ]);
    let image = (prop::collection::vec(0..12_usize, 0..3), states, any::<bool>());
    prop::collection::vec(image, 12).prop_map(|images| {
        let named = |place: usize| format!("n/f{}.i{place}", place % 4);
        let mut recorded = RecordedFamilies::default();
        for (place, (parents, (state, why, progress), moved)) in images.into_iter().enumerate() {
            let parents: Vec<String> =
                parents.into_iter().filter(|parent| *parent < place).map(named).collect();
            recorded.add(&name(&named(place)), &parents.join(" "));
            recorded.set(&named(place), state, why, progress);
            if moved {
                recorded.record(&named(place)).digest = Some("sha256:new".into());
            }
        }
        recorded
    })
}

proptest! {
    #[test]
    fn cached_states_equal_fresh_ones(
        recorded in record_sets(),
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut states = ImportStates::new(&recorded);
        for place in order {
            let image = format!("n/f{}.i{place}", place % 4);
            prop_assert_eq!(states.state(&name(&image)), recorded.state(&image), "{}", image);
        }
    }
}
