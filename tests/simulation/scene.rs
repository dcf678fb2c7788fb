//! The scene: creates what the script starts with, handles events, and repairs everything in the
//! end.

use std::{sync::Arc, time::Duration};

use groundswell::{
    api::{Image, ImageFamilySpec},
    controller::object_cache::Key,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    api_server::{self, Call},
    cluster::{Cluster, Event},
    edits::{edit_family, provide_source},
    garbage_collector,
    invariants::{self, calm},
    job_controller,
    objects::{Kind, key_of, uid},
    script::{Family, Move, NAMESPACE, PUBLIC, Script},
    steps,
    upstreams::{move_scanner, move_upstream, set_upstream},
};

/// How long the controller may be busy with the last faults.
const RECOVERY_TIME: Duration = Duration::from_mins(10);

/// Returns the name of an upstream's repository.
pub fn upstream_repository(upstream: usize) -> String {
    format!("{PUBLIC}/library/u{upstream}")
}

/// Returns the repository that an image is pushed to.
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}

/// Returns the key of a family.
pub fn family_key(name: &str) -> Key {
    Key::new(NAMESPACE, name)
}

/// Returns the spec of a family that exists.
pub fn spec(cluster: &mut Cluster, family: &str) -> Option<Arc<ImageFamilySpec>> {
    cluster.spec(&family_key(family))
}

/// Creates everything that exists when the script starts, and schedules its steps.
pub fn set_up(cluster: &mut Cluster, script: &Script) {
    for upstream in 0..script.upstreams {
        move_upstream(cluster, upstream, Move::New);
    }
    if script.families.iter().any(Family::has_scanner) {
        move_scanner(cluster);
    }
    let strategy = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "BuildStrategy",
        "metadata": {"name": "model"},
        "spec": {
            "timeout": format!("{}s", script.timeout.as_secs()),
            "ttlAfterFinished": format!("{}s", script.ttl_after_finished.as_secs()),
            "userNamespace": "NotRequired",
            "template": {"spec": {"containers": [
                {"name": "build", "image": "builder", "args": ["{{ annotations | \
                    each('{name}={value}') }}"]},
            ]}},
        },
    });
    cluster.create(Kind::Strategy, strategy).expect("the first strategy");
    for family in &script.families {
        create_family(cluster, family);
    }
    cluster.limits = script.limits;
    cluster.schedule(Duration::ZERO, Event::Inspect);
    for (number, step) in script.steps.iter().enumerate() {
        cluster.schedule(step.at, Event::Step(number));
    }
}

pub fn create_family(cluster: &mut Cluster, family: &Family) {
    for image in &family.spec.images {
        provide_source(cluster, &image.source);
    }
    let object = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ImageFamily",
        "metadata": {"name": family.name, "namespace": NAMESPACE},
        "spec": family.spec,
    });
    // A family that exists already stays as it is.
    _ = cluster.create(Kind::Family, object);
}

/// Handles an event that does not concern the controller.
pub fn handle_event(cluster: &mut Cluster, script: &Script, event: Event) {
    match event {
        Event::Step(number) => {
            if let Some(step) = script.steps.get(number) {
                steps::perform(cluster, &step.action);
            }
        }
        Event::Work(job, stage) => job_controller::proceed(cluster, &job, stage),
        Event::Inspect => invariants::inspection::inspect(cluster),
        Event::Collect => garbage_collector::collect(cluster),
        Event::Late(sender, call) => arrive_late(cluster, sender, *call),
        Event::Completes(name, whole) => {
            if cluster.invariants.history.is_completion_due(&name, &whole) {
                set_upstream(cluster, &name, &whole);
                invariants::record_truth(cluster);
            }
        }
        Event::Deliver(..) | Event::Start(_) => {}
    }
}

/// Stops all faults. From then on users change nothing, and no family is suspended or needs
/// approval, so that the system can converge.
pub fn stop_faults(cluster: &mut Cluster) {
    cluster.faults.stop();
    calm::disturb(cluster, RECOVERY_TIME);
    calm::change(cluster);
    cluster.crash = None;
    if cluster.time.was_skewed() {
        cluster.time.skew(SignedDuration::ZERO);
    }
    let families: Vec<Key> =
        cluster.objects.all(Kind::Family).map(|(key, _)| key.clone()).collect();
    for key in families {
        edit_family(cluster, &key.name, |spec| {
            spec["suspend"] = json!(false);
            for upstream in
                spec.get_mut("upstreams").and_then(Value::as_array_mut).into_iter().flatten()
            {
                upstream["approval"] = json!("Automatic");
            }
        });
    }
    let jobs: Vec<Arc<Value>> =
        cluster.objects.all(Kind::Job).map(|(_, job)| job.clone()).collect();
    for job in jobs {
        cluster.note(format_args!("left over: {} {}", key_of(&job).name, uid(&job)));
    }
    invariants::record_truth(cluster);
}

/// Upper bound on the time until the system converges.
pub const MAX_CONVERGENCE_TIME: Duration = Duration::from_hours(12);

/// A write arrives after its sender has died. It must not replace what a later process has written.
fn arrive_late(cluster: &mut Cluster, sender: u64, call: Call) {
    let shown = call.shown();
    let status = call.kind.filter(|_| call.status).map(|kind| (kind, call.key.clone()));
    let writer = status.and_then(|status| cluster.status_writers.get(&status).copied());
    cluster.is_late = true;
    let (code, _) = api_server::execute(cluster, call);
    cluster.is_late = false;
    cluster.note(format_args!("late {code}"));
    if code == 200 && writer.is_some_and(|writer| writer > sender) {
        cluster.violated("no late status replaces a newer one", shown);
    }
}
