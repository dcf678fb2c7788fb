use super::*;
use crate::api;

const REPOSITORY: &str = "registry.example.com/team/app";
const DIGEST: &str = "sha256:bbbb";

#[derive(Default)]
struct FakeWorkloads {
    workloads: Vec<Arc<WorkloadView>>,
    consent: BTreeMap<String, String>,
    only: Option<Vec<String>>,
}

impl WorkloadLookup for FakeWorkloads {
    fn get(&self, key: &WorkloadKey) -> Option<Arc<WorkloadView>> {
        self.workloads.iter().find(|workload| &workload.key == key).cloned()
    }

    fn select(
        &self,
        kind: WorkloadKind,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<WorkloadView>> {
        self.workloads
            .iter()
            .filter(|w| w.key.kind == kind && w.key.namespace == namespace && w.has_labels(labels))
            .cloned()
            .collect()
    }

    fn consent(&self, namespace: &str) -> Option<String> {
        self.consent.get(namespace).cloned()
    }

    fn watches(&self, namespace: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == namespace))
    }
}

fn container(name: &str, image: &str, index: usize) -> Container {
    Container {
        name: name.into(),
        image: image.into(),
        init: false,
        index,
        always_pulls: true,
        manager: Some("helm".into()),
    }
}

fn workload(namespace: &str, name: &str, containers: Vec<Container>) -> WorkloadView {
    WorkloadView {
        key: WorkloadKey {
            kind: WorkloadKind::Deployment,
            namespace: namespace.into(),
            name: name.into(),
        },
        uid: format!("uid-{name}"),
        generation: 1,
        labels: BTreeMap::from([("app".into(), "web".into())]),
        consent: None,
        containers,
        restarted_for: None,
        progress: RolloutProgress::Complete("all pods are updated".into()),
    }
}

fn fake(workloads: impl IntoIterator<Item = WorkloadView>) -> FakeWorkloads {
    FakeWorkloads {
        workloads: workloads.into_iter().map(Arc::new).collect(),
        ..FakeWorkloads::default()
    }
}

fn named(name: &str) -> Rollout {
    Rollout {
        deployment: Some(api::Workload { name: Some(name.into()), ..api::Workload::default() }),
        ..Rollout::default()
    }
}

fn labelled() -> Rollout {
    let match_labels = Some(BTreeMap::from([("app".into(), "web".into())]));
    Rollout {
        deployment: Some(api::Workload { match_labels, ..api::Workload::default() }),
        ..Rollout::default()
    }
}

fn elsewhere(namespace: &str) -> Rollout {
    let mut rollout = named("web");
    rollout.deployment.as_mut().expect("a Deployment").namespace = Some(namespace.into());
    rollout
}

fn plan_for(rollouts: &[Rollout], workloads: &FakeWorkloads) -> Vec<RolloutStep> {
    plan_from(DigestOrigin::Built, rollouts, workloads)
}

fn plan_from(
    origin: DigestOrigin,
    rollouts: &[Rollout],
    workloads: &FakeWorkloads,
) -> Vec<RolloutStep> {
    let family = RolloutFamily { namespace: "team", name: "images", origin };
    plan(family, REPOSITORY, DIGEST, rollouts, workloads)
}

fn only(steps: Vec<RolloutStep>) -> RolloutStep {
    assert_eq!(steps.len(), 1, "{steps:?}");
    steps.into_iter().next().expect("one step")
}

fn assert_refused(step: &RolloutStep, expected: &[&str]) {
    assert_eq!(step.record.state, RolloutState::Refused, "{step:?}");
    assert_eq!(step.patch, None);
    for word in expected {
        assert!(step.record.message.contains(word), "`{word}` is not in: {}", step.record.message);
    }
}

#[test]
fn only_containers_of_the_repository_are_updated_to_the_digest() {
    let workloads = fake([workload(
        "team",
        "web",
        vec![
            container("app", "registry.example.com/team/app:1.0", 0),
            container("proxy", "docker.io/library/envoy:1", 1),
            container("worker", "registry.example.com/team/app@sha256:aaaa", 2),
        ],
    )]);
    let step = only(plan_for(&[named("web")], &workloads));
    assert_eq!(step.record.workload, "Deployment team/web");
    assert_eq!(step.record.state, RolloutState::Progressing);
    let patch = step.patch.expect("a change");
    assert_eq!(patch.uid, "uid-web");
    let WorkloadChange::Image { containers, image } = patch.change else { panic!("not an image") };
    assert_eq!(image, "registry.example.com/team/app@sha256:bbbb");
    assert_eq!(
        containers.iter().map(|c| (c.name.as_str(), c.index)).collect::<Vec<_>>(),
        [("app", 0), ("worker", 2)]
    );
}

#[test]
fn a_named_container_is_updated_if_it_runs_the_image_or_its_workload_consents() {
    let mut object = workload("team", "web", vec![container("app", "placeholder", 0)]);
    let rollout = Rollout { container: Some("app".into()), ..named("web") };
    let mut planned = |image: &str, consent: Option<&str>| {
        object.containers[0].image = image.into();
        object.consent = consent.map(Into::into);
        only(plan_for(std::slice::from_ref(&rollout), &fake([object.clone()])))
    };
    let old = format!("{REPOSITORY}:old");
    assert!(planned(&old, None).patch.is_some());
    let said = format!("groundswell.dev/rollout-images: {REPOSITORY}");
    for consent in [None, Some(""), Some("*"), Some("registry.example.com/team/app2")] {
        assert_refused(&planned("placeholder", consent), &["runs placeholder", &said]);
    }
    assert!(planned("placeholder", Some("other/x, registry.example.com/team/app")).patch.is_some());

    let workloads = fake([workload("team", "web", vec![container("app", "placeholder", 0)])]);
    let missing = Rollout { container: Some("other".into()), ..named("web") };
    assert_refused(&only(plan_for(&[missing], &workloads)), &["`other`", "app"]);
    assert_refused(&only(plan_for(&[named("web")], &workloads)), &[REPOSITORY, "rollout-images"]);
}

#[test]
fn an_updated_workload_reports_its_progress() {
    let image = format!("{REPOSITORY}@{DIGEST}");
    for (progress, state) in [
        (RolloutProgress::Complete("done".into()), RolloutState::Complete),
        (RolloutProgress::Progressing("1 of 2".into()), RolloutState::Progressing),
        (RolloutProgress::Stalled("deadline".into()), RolloutState::Stalled),
    ] {
        let mut updated = workload("team", "web", vec![container("app", &image, 0)]);
        updated.progress = progress;
        let step = only(plan_for(&[named("web")], &fake([updated])));
        assert_eq!((step.record.state, step.patch), (state, None));
    }
}

#[test]
fn a_missing_workload_is_reported() {
    let none = FakeWorkloads::default();
    assert_refused(&only(plan_for(&[named("web")], &none)), &["Deployment team/web", "create it"]);
    let step = only(plan_for(&[labelled()], &none));
    assert_refused(&step, &["label"]);
    assert_eq!(step.record.workload, "Deployment team/app=web");
}

#[test]
fn another_namespace_is_changed_only_with_its_consent() {
    let mut workloads = fake([workload("shop", "web", vec![container("app", REPOSITORY, 0)])]);
    let mut planned = |consent: Option<&str>| {
        workloads.consent =
            consent.map(|value| ("shop".into(), value.into())).into_iter().collect();
        only(plan_for(&[elsewhere("shop")], &workloads))
    };
    assert_refused(&planned(None), &["groundswell.dev/rollout-from: team/images"]);
    assert_refused(&planned(Some("")), &["does not consent"]);
    assert_refused(&planned(Some("teams, other")), &["does not consent"]);
    assert!(planned(Some("other, team")).patch.is_some());
    assert!(planned(Some("*")).patch.is_some());
    assert!(planned(Some("team/images")).patch.is_some());
    assert_refused(&planned(Some("team/other, other/images")), &["does not consent"]);
}

#[test]
fn an_adopted_digest_leaves_a_namespace_only_to_a_workload_that_names_the_repository() {
    let mut object = workload("shop", "web", vec![container("app", REPOSITORY, 0)]);
    let mut planned = |origin, consent: Option<&str>| {
        object.consent = consent.map(Into::into);
        let consent = [("shop".into(), "team".into())].into();
        let workloads = FakeWorkloads { consent, ..fake([object.clone()]) };
        only(plan_from(origin, &[elsewhere("shop")], &workloads))
    };
    assert!(planned(DigestOrigin::Built, None).patch.is_some());
    assert_refused(&planned(DigestOrigin::Adopted, None), &["adopted", "rollout-images"]);
    assert!(planned(DigestOrigin::Adopted, Some(REPOSITORY)).patch.is_some());
    let own = fake([workload("team", "web", vec![container("app", REPOSITORY, 0)])]);
    assert!(only(plan_from(DigestOrigin::Adopted, &[named("web")], &own)).patch.is_some());
}

#[test]
fn a_namespace_that_is_not_watched_is_reported() {
    let workloads = FakeWorkloads { only: Some(vec!["team".into()]), ..FakeWorkloads::default() };
    assert_refused(&only(plan_for(&[elsewhere("shop")], &workloads)), &["watchNamespaces"]);
}

#[test]
fn a_restart_happens_once_per_digest() {
    let rollout = Rollout { mode: RolloutMode::Restart, ..named("web") };
    let mut object =
        workload("team", "web", vec![container("app", "registry.example.com/team/app:1", 0)]);
    let step = only(plan_for(std::slice::from_ref(&rollout), &fake([object.clone()])));
    assert_eq!(
        step.patch.expect("a change").change,
        WorkloadChange::Restart { digest: DIGEST.into() }
    );
    object.restarted_for = Some(DIGEST.into());
    let step = only(plan_for(&[rollout], &fake([object])));
    assert_eq!((step.record.state, step.patch), (RolloutState::Complete, None));
}

#[test]
fn a_restart_that_would_not_update_the_image_is_refused() {
    let rollout =
        Rollout { mode: RolloutMode::Restart, container: Some("app".into()), ..named("web") };
    let refused = |container: Container, words: &[&str]| {
        let workloads = fake([workload("team", "web", vec![container])]);
        assert_refused(&only(plan_for(std::slice::from_ref(&rollout), &workloads)), words);
    };
    refused(
        Container { always_pulls: false, ..container("app", REPOSITORY, 0) },
        &["imagePullPolicy"],
    );
    refused(container("app", &format!("{REPOSITORY}@sha256:aaaa"), 0), &["digest"]);
    refused(container("app", "docker.io/library/nginx:1", 0), &["nginx"]);
}

#[test]
fn two_rollouts_of_one_workload_make_one_change() {
    let workloads = fake([workload(
        "team",
        "web",
        vec![container("app", REPOSITORY, 0), container("worker", REPOSITORY, 1)],
    )]);
    let by = |name: &str, rollout: Rollout| Rollout { container: Some(name.into()), ..rollout };
    let step = only(plan_for(&[by("app", named("web")), by("worker", labelled())], &workloads));
    let Some(WorkloadPatch { change: WorkloadChange::Image { containers, .. }, .. }) = step.patch
    else {
        panic!("no image")
    };
    assert_eq!(containers.len(), 2);
}

#[test]
fn the_records_are_bounded_and_the_last_one_reports_it() {
    let many = (0..100)
        .map(|n| workload("team", &format!("web-{n:03}"), vec![container("app", REPOSITORY, 0)]));
    let steps = plan_for(&[labelled()], &fake(many));
    assert_eq!(steps.len(), MAX_WORKLOADS);
    assert!(steps[MAX_WORKLOADS - 2].patch.is_some());
    assert_refused(&steps[MAX_WORKLOADS - 1], &["more than 64", "web-063"]);
}
