//! Upstreams that move while a candidate waits for its minimum age.

use jiff::SignedDuration;

use crate::{
    api::{Duration, condition::Reason},
    engine::tests::model::FamilyModel,
};

#[test]
fn a_candidate_waits_until_it_is_old_enough_and_the_first_digest_does_not() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.upstreams[0].minimum_age = Duration::from_secs(1800);
    model.settle();
    assert_eq!(model.builds(), [1], "the first digest is used at once");
    model.upstream_digests[0] = "sha256:up-1".into();
    let decision = model.reconcile();
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::MinimumAge));
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_secs(1800)));
    model.now += SignedDuration::from_secs(1000);
    model.upstream_digests[0] = "sha256:up-2".into();
    let decision = model.reconcile();
    assert_eq!(
        decision.wake_at,
        Some(model.now + SignedDuration::from_secs(800)),
        "a newer digest does not delay an older one"
    );
    model.settle();
    assert_eq!(model.builds(), [3], "each is adopted when it is old enough");
}

/// Moves the upstream every 12 hours, and asks every hour. Returns how old each digest was when it
/// was adopted, in hours, and the longest list of digests that waited.
fn follow_lively_upstream(model: &mut FamilyModel, moves: usize) -> (Vec<i64>, usize) {
    let (mut ages, mut longest) = (Vec::new(), 0);
    for half_day in 1..=moves {
        model.upstream_digests[0] = format!("sha256:up-{half_day}");
        for _ in 0..12 {
            let before = model.status.upstreams[0].adopted.clone();
            for _ in 0..4 {
                model.reconcile();
                model.finish_builds();
            }
            let status = &model.status.upstreams[0];
            longest = longest.max(status.waiting.len());
            if let Some(adopted) =
                status.adopted.as_ref().filter(|now| before.as_ref() != Some(now))
            {
                let first_observed = adopted.first_observed.expect("a time");
                ages.push(model.now.duration_since(first_observed).as_hours());
            }
            model.now += SignedDuration::from_hours(1);
        }
    }
    (ages, longest)
}

/// An upstream that moves more often than its minimum age was never adopted.
#[test]
fn an_upstream_that_moves_within_its_minimum_age_is_followed_at_that_age() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.spec.upstreams[0].minimum_age = Duration::from_secs(24 * 3600);
    model.spec.policy.settle = Duration::from_secs(0);
    let (ages, longest) = follow_lively_upstream(&mut model, 120);
    assert_eq!(ages, vec![24; 118], "every digest at the age of a day");
    assert!(longest <= 2, "{longest} digests wait");
}

#[test]
fn a_tag_that_goes_back_withdraws_the_digests_that_came_later() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.spec.upstreams[0].minimum_age = Duration::from_secs(3600);
    let point = |model: &mut FamilyModel, digest: &str| {
        model.upstream_digests[0] = digest.into();
        model.reconcile();
        model.now += SignedDuration::from_secs(1200);
    };
    for digest in ["sha256:up-1", "sha256:up-2", "sha256:up-1"] {
        point(&mut model, digest);
    }
    let status = &model.status.upstreams[0];
    assert_eq!(status.candidate.as_ref().map(|known| known.digest.as_str()), Some("sha256:up-1"));
    assert!(status.waiting.is_empty(), "{:?}", status.waiting);
    point(&mut model, "sha256:up-0");
    let status = &model.status.upstreams[0];
    assert_eq!((&status.candidate, status.waiting.len()), (&None, 0), "back at the adopted one");
    model.settle();
    assert_eq!(model.builds(), [1]);
}

#[test]
fn many_moves_within_the_minimum_age_keep_few_digests_and_the_oldest() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.spec.upstreams[0].minimum_age = Duration::from_secs(24 * 3600);
    for minute in 1..=1440 {
        model.upstream_digests[0] = format!("sha256:up-{minute}");
        model.reconcile();
        assert!(model.status.upstreams[0].waiting.len() <= 5);
        model.now += SignedDuration::from_mins(1);
    }
    let candidate = model.status.upstreams[0].candidate.clone().expect("a candidate");
    assert_eq!(candidate.digest, "sha256:up-1");
}
