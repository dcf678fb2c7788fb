//! The script's hands: how families, sources and upstreams come about, and how each step changes
//! the cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use groundswell::{
    api::{Image, ImageFamilySpec, Source, labels, request::RequestAction},
    controller::object_cache::Key,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Event},
    job_controller,
    objects::{Kind, key_of, uid},
    random::Random,
    registry::{Content, OTHER_PLATFORM, PLATFORM, layer},
    script::{
        Asked, BRANCH, Edit, FOLLOWED, Family, Move, NAMESPACE, PUBLIC, Script, What, edited, hold,
    },
    topology,
};

/// The name of an upstream's repository.
pub fn upstream_repository(upstream: usize) -> String {
    format!("{PUBLIC}/library/u{upstream}")
}

/// The repository that an image is pushed to.
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}

/// The key of a family.
pub fn family_key(name: &str) -> Key {
    Key::new(NAMESPACE, name)
}

/// The spec of a family that is there.
pub fn spec(cluster: &mut Cluster, family: &str) -> Option<Arc<ImageFamilySpec>> {
    cluster.spec(&family_key(family))
}

/// Makes everything that the script begins with.
pub fn begin(cluster: &mut Cluster, script: &Script) {
    for upstream in 0..script.upstreams {
        move_upstream(cluster, upstream, Move::New);
    }
    let strategy = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "BuildStrategy",
        "metadata": {"name": "model"},
        "spec": {
            "timeout": format!("{}s", script.timeout.as_secs()),
            "keep": format!("{}s", script.keep.as_secs()),
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
    for (number, step) in script.steps.iter().enumerate() {
        cluster.schedule(step.at, Event::Step(number));
    }
}

fn create_family(cluster: &mut Cluster, family: &Family) {
    for image in &family.spec.images {
        provide_source(cluster, &image.source);
    }
    let object = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ImageFamily",
        "metadata": {"name": family.name, "namespace": NAMESPACE},
        "spec": family.spec,
    });
    // One that is there already stays.
    _ = cluster.create(Kind::Family, object);
}

/// Makes what a source names, if it is not there.
fn provide_source(cluster: &mut Cluster, source: &Source) {
    if let Some(named) = &source.config_map {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": named.name, "namespace": NAMESPACE},
            "data": {"Dockerfile": "FROM x"},
        });
        _ = cluster.create(Kind::ConfigMap, object);
    }
    if let Some(git) = &source.git {
        let place = (git.url.clone(), git.revision.clone());
        if !cluster.commits.contains_key(&place) {
            commit(cluster, place, "FROM x".into());
        }
    }
}

fn commit(cluster: &mut Cluster, place: (String, String), text: String) {
    let digest = layer(&[&place.0, &text]);
    let commit = digest.trim_start_matches("sha256:").chars().take(40).collect::<String>();
    cluster.texts.insert(commit.clone(), text);
    cluster.commits.insert(place, commit);
}

/// The Dockerfile that a source stands for now.
pub fn text_of(cluster: &Cluster, source: &Source) -> Option<String> {
    if let Some(named) = &source.config_map {
        let object = cluster.objects.get(Kind::ConfigMap, &Key::new(NAMESPACE, &named.name))?;
        return object["data"]["Dockerfile"].as_str().map(str::to_owned);
    }
    if let Some(git) = &source.git {
        let commit = cluster.commits.get(&(git.url.clone(), BRANCH.to_owned()))?;
        return cluster.texts.get(commit).cloned();
    }
    source.inline.clone()
}

/// Moves an upstream.
pub fn move_upstream(cluster: &mut Cluster, upstream: usize, how: Move) {
    let name = upstream_repository(upstream);
    let number = cluster.invariants.history.next_number();
    cluster.invariants.history.forget_incomplete(&name);
    let standing = cluster.registry.tag(&name, FOLLOWED).map(str::to_owned);
    let mut random = Random::of(cluster.seed, &format!("{name} {number}"));
    let layers = match (how, &standing) {
        (Move::Same, Some(standing)) => {
            cluster.registry.layers(&format!("{name}@{standing}")).unwrap_or_default().to_vec()
        }
        _ => (0..random.within(1..3))
            .map(|place| layer(&[&name, &number.to_string(), &place.to_string()]))
            .collect(),
    };
    let annotations = BTreeMap::new();
    let repository = cluster.registry.repository(&name);
    let digest = if how == Move::Back {
        match cluster.invariants.history.before(&name) {
            Some(before) => before,
            None => return,
        }
    } else {
        let mut images = Vec::new();
        for architecture in [PLATFORM, OTHER_PLATFORM] {
            let content = Content { architecture, layers: layers.clone(), created: number };
            images.push((repository.push(&content, &annotations), architecture));
        }
        if how == Move::Incomplete {
            let whole = repository.push_index(&images);
            let pause = random.pause(60_000..1_200_000);
            cluster.invariants.history.completes(&name, &whole);
            cluster.schedule(pause, Event::Completes(name.clone(), whole));
            images.truncate(1);
        }
        cluster.registry.repository(&name).push_index(&images)
    };
    set_upstream(cluster, &name, &digest);
}

/// Lets an upstream's tag stand on a digest.
pub fn set_upstream(cluster: &mut Cluster, name: &str, digest: &str) {
    cluster.note(format_args!("upstream {name} at {digest}"));
    cluster.registry.repository(name).tags.insert(FOLLOWED.into(), digest.into());
    let now = cluster.elapsed();
    cluster.invariants.history.moved(name, digest, now);
}

/// Carries a step out.
pub fn carry_out(cluster: &mut Cluster, what: &What) {
    cluster.note(format_args!("step {what:?}"));
    match what {
        What::Move(upstream, how) => move_upstream(cluster, *upstream, *how),
        What::Source(family, image, edit) => edit_source(cluster, family, image, *edit),
        What::Argument(family, image) => {
            let number = cluster.invariants.history.next_number();
            edit_image(cluster, family, image, |image| {
                image["args"] = json!({"VERSION": number.to_string()});
            });
        }
        What::AddImage(family, image) => {
            let Some(known) = spec(cluster, family) else { return };
            let parent = image.from[0].image.as_deref();
            let there =
                parent.is_none_or(|parent| known.images.iter().any(|known| known.name == parent));
            if there && known.images.iter().all(|known| known.name != image.name) {
                provide_source(cluster, &image.source);
                let image = serde_json::to_value(image).expect("an image");
                edit_family(cluster, family, |spec| {
                    spec["images"].as_array_mut().expect("images").push(image)
                });
            }
        }
        What::RemoveImage(family, image) => {
            let Some(known) = spec(cluster, family) else { return };
            let used = known
                .images
                .iter()
                .flat_map(|image| &image.from)
                .any(|edge| edge.image.as_deref() == Some(image));
            if !used && known.images.len() > 1 {
                edit_family(cluster, family, |spec| {
                    spec["images"]
                        .as_array_mut()
                        .expect("images")
                        .retain(|known| known["name"] != image.as_str());
                    let exports = spec.get_mut("exports").and_then(Value::as_array_mut).into_iter();
                    exports.for_each(|exports| {
                        exports.retain(|export| export["image"] != image.as_str())
                    });
                });
            }
        }
        What::Rewire(family, image, parent) => rewire(cluster, family, image, parent),
        What::Policy(family, policy) => {
            let policy = serde_json::to_value(policy).expect("a policy");
            edit_family(cluster, family, |spec| spec["policy"] = policy);
        }
        What::Suspend(family, suspend) => {
            edit_family(cluster, family, |spec| spec["suspend"] = json!(suspend))
        }
        What::Hold(family, upstream, pinned, lasts) => {
            let Some(known) = spec(cluster, family) else { return };
            let Some(known) = known.upstreams.iter().find(|known| known.name == *upstream) else {
                return;
            };
            let digest =
                cluster.registry.tag(&known.image, FOLLOWED).filter(|_| *pinned).map(str::to_owned);
            let until = lasts.map(|lasts| soon(cluster, &lasts));
            let hold = serde_json::to_value(hold(digest, until)).expect("a hold");
            edit_upstream(cluster, family, upstream, |upstream| upstream["hold"] = hold);
        }
        What::Unhold(family, upstream) => edit_upstream(cluster, family, upstream, |upstream| {
            upstream.as_object_mut().expect("an upstream").remove("hold");
        }),
        What::HoldImage(family, image, lasts) => {
            let until = lasts.as_ref().map(|lasts| soon(cluster, lasts));
            edit_image(cluster, family, image, |image| {
                image["hold"] = json!({"until": until, "reason": "so"})
            });
        }
        What::UnholdImage(family, image) => edit_image(cluster, family, image, |image| {
            image.as_object_mut().expect("an image").remove("hold");
        }),
        What::Check(family, image) => edit_image(cluster, family, image, |image| {
            let checked = image["checks"].as_array().is_some_and(|checks| !checks.is_empty());
            let checks =
                if checked { Vec::new() } else { vec![topology::check(topology::SMOKE, true)] };
            image["checks"] = serde_json::to_value(checks).expect("checks");
        }),
        What::Export(family, image) => edit_family(cluster, family, |spec| {
            let mut exports = spec["exports"].as_array().cloned().unwrap_or_default();
            let before = exports.len();
            exports.retain(|export| export["image"] != image.as_str());
            if exports.len() == before {
                let there = spec["images"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|known| known["name"] == image.as_str());
                exports.extend(there.then(|| json!({"image": image})));
            }
            spec["exports"] = json!(exports);
        }),
        What::Request(asked) => request(cluster, asked),
        What::DeleteRecord(family, image) => {
            cluster.invariants.history.forgets(family);
            cluster.remove(Kind::Image, &Key::new(NAMESPACE, &format!("{family}.{image}")));
        }
        What::ClearStatus(family) => {
            cluster.invariants.history.forgets(family);
            _ = cluster.update(Kind::Family, &family_key(family), |family| {
                family.as_object_mut().expect("a family").remove("status");
            });
        }
        What::DeleteFamily(family) => {
            if let Some(known) = spec(cluster, family) {
                cluster
                    .invariants
                    .history
                    .bury(Family { name: family.clone(), spec: ImageFamilySpec::clone(&known) });
                cluster.remove(Kind::Family, &family_key(family));
            }
        }
        What::RecreateFamily(family) => {
            if let Some(family) = cluster.invariants.history.unbury(family) {
                create_family(cluster, &family);
            }
        }
        What::StealTag(family, image) => steal_tag(cluster, family, image),
        What::Crash(crash) => {
            if cluster.process != 0 {
                cluster.crash = Some(*crash);
            }
        }
        What::Kill(down) => {
            if cluster.process != 0 {
                cluster.kill(*down);
            }
        }
        What::Outage(host, status, lasts) => {
            let until = cluster.elapsed() + *lasts;
            cluster.faults.outages.insert((*host).into(), (*status, until));
        }
        What::Clock(seconds) => cluster.time.skew(SignedDuration::from_secs(*seconds)),
        What::StallWatch(kind, lasts) => {
            let until = cluster.elapsed() + *lasts;
            cluster.faults.stalled.insert(*kind, until);
        }
        What::BreakWatch(kind) => cluster.broken_watches.push(*kind),
    }
    crate::invariants::remember_truth(cluster);
}

fn soon(cluster: &Cluster, lasts: &Duration) -> Timestamp {
    let lasts = SignedDuration::try_from(*lasts).expect("short");
    cluster.time.truth().saturating_add(lasts).expect("soon")
}

/// A person annotates a family, or the record of an image.
fn request(cluster: &mut Cluster, asked: &Asked) {
    let id = cluster.invariants.history.request_id(asked.again);
    let standing = |cluster: &mut Cluster, upstream: &str| {
        let known = spec(cluster, &asked.family)?;
        let known = known.upstreams.iter().find(|known| known.name == upstream)?;
        cluster.registry.tag(&known.image, FOLLOWED).map(str::to_owned)
    };
    let digest = asked.upstream.as_deref().and_then(|upstream| standing(cluster, upstream));
    let digest = digest.filter(|_| asked.action == RequestAction::Approve);
    let until = asked.lasts.map(|lasts| soon(cluster, &lasts));
    let mut value = json!({"id": id, "action": asked.action, "by": "somebody"});
    let on_record = asked.image.as_ref().is_some_and(|(_, on_record)| *on_record);
    let fields = [
        ("image", json!(asked.image.as_ref().map(|(image, _)| image))),
        ("upstream", json!(asked.upstream)),
        ("digest", json!(digest)),
        ("until", json!(until)),
        ("subtree", if asked.subtree { json!(true) } else { Value::Null }),
    ];
    for (name, field) in fields {
        if !field.is_null() && !(name == "image" && on_record) {
            value[name] = field;
        }
    }
    let value = if asked.garbage { format!("{id} please") } else { value.to_string() };
    if asked.action == RequestAction::Cancel {
        cluster.invariants.history.cancels();
    }
    // An id that was used before is one that the family may not have handled, or not seen at all.
    let handled =
        cluster.objects.get(Kind::Family, &family_key(&asked.family)).is_some_and(|family| {
            let known = family["status"]["requests"].as_array().into_iter().flatten();
            known.into_iter().any(|request| request["id"] == id.as_str())
        });
    if let (Some(digest), Some(upstream), false) =
        (digest, &asked.upstream, asked.garbage || handled)
    {
        cluster.invariants.approved(&asked.family, upstream, digest);
    }
    let (kind, key) = match &asked.image {
        Some((image, true)) => {
            (Kind::Image, Key::new(NAMESPACE, &format!("{}.{image}", asked.family)))
        }
        _ => (Kind::Family, family_key(&asked.family)),
    };
    _ = cluster.update(kind, &key, |object| {
        object["metadata"]["annotations"][labels::REQUEST] = json!(value)
    });
}

fn edit_family(cluster: &mut Cluster, family: &str, change: impl FnOnce(&mut Value)) {
    _ = cluster.update(Kind::Family, &family_key(family), |family| change(&mut family["spec"]));
}

fn edit_named(
    cluster: &mut Cluster,
    family: &str,
    list: &str,
    name: &str,
    change: impl FnOnce(&mut Value),
) {
    edit_family(cluster, family, |spec| {
        let entries = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        if let Some(entry) = entries.into_iter().find(|entry| entry["name"] == name) {
            change(entry);
        }
    });
}

fn edit_image(cluster: &mut Cluster, family: &str, image: &str, change: impl FnOnce(&mut Value)) {
    edit_named(cluster, family, "images", image, change);
}

fn edit_upstream(
    cluster: &mut Cluster,
    family: &str,
    upstream: &str,
    change: impl FnOnce(&mut Value),
) {
    edit_named(cluster, family, "upstreams", upstream, change);
}

fn edit_source(cluster: &mut Cluster, family: &str, image: &str, edit: Edit) {
    let Some(known) = spec(cluster, family) else { return };
    let Some(known) = known.images.iter().find(|known| known.name == image) else { return };
    let Some(text) = text_of(cluster, &known.source) else { return };
    let number = cluster.invariants.history.next_number();
    let place = format!("{family} {image}");
    let text = match edit {
        Edit::Revert => match cluster.invariants.history.text_before(&place) {
            Some(before) => before,
            None => return,
        },
        edit => edited(&text, edit, number),
    };
    cluster.invariants.history.text(&place, &text);
    set_text(cluster, family, image, &known.source, text);
}

/// Gives a source another Dockerfile.
pub fn set_text(cluster: &mut Cluster, family: &str, image: &str, source: &Source, text: String) {
    if let Some(named) = &source.config_map {
        let key = Key::new(NAMESPACE, &named.name);
        _ = cluster
            .update(Kind::ConfigMap, &key, |object| object["data"]["Dockerfile"] = json!(text));
    } else if let Some(git) = &source.git {
        commit(cluster, (git.url.clone(), git.revision.clone()), text);
    } else {
        edit_image(cluster, family, image, |image| image["source"]["inline"] = json!(text));
    }
}

/// Lets an image stand on another parent, unless that stands on it already.
fn rewire(cluster: &mut Cluster, family: &str, image: &str, parent: &str) {
    let Some(known) = spec(cluster, family) else { return };
    let mut above = vec![parent.to_owned()];
    let mut seen = 0;
    while seen < above.len() {
        let Some(found) = known.images.iter().find(|known| known.name == above[seen]) else {
            return;
        };
        for edge in &found.from {
            above.extend(edge.image.clone().filter(|name| !above.contains(name)));
        }
        seen += 1;
    }
    let twice = known.images.iter().find(|known| known.name == image);
    let twice = twice
        .is_none_or(|known| known.from.iter().any(|edge| edge.image.as_deref() == Some(parent)));
    if !twice && !above.iter().any(|name| name == image) {
        edit_image(cluster, family, image, |image| {
            let usage = image["from"][0]["use"].clone();
            image["from"][0] = json!({"image": parent, "use": usage});
        });
    }
}

/// Somebody else moves an image's floating tag to another digest of the repository.
fn steal_tag(cluster: &mut Cluster, family: &str, image: &str) {
    let Some(known) = spec(cluster, family) else { return };
    let Some(found) = known.images.iter().find(|known| known.name == image) else { return };
    let name = repository(&known, found);
    let repository = cluster.registry.repository(&name);
    let first = repository.made.keys().next().cloned();
    if let (Some(first), true) = (first, repository.tags.contains_key("latest")) {
        repository.tags.insert("latest".into(), first);
    }
}

/// Something on the agenda that is not the controller's.
pub fn happen(cluster: &mut Cluster, script: &Script, event: Event) {
    match event {
        Event::Step(number) => {
            if let Some(step) = script.steps.get(number) {
                carry_out(cluster, &step.what);
            }
        }
        Event::Work(job, stage) => job_controller::proceed(cluster, &job, stage),
        Event::Collect => job_controller::collect(cluster),
        Event::Late(call) => {
            cluster.is_late = true;
            let (code, _) = crate::api_server::carry_out(cluster, *call);
            cluster.is_late = false;
            cluster.note(format_args!("late {code}"));
        }
        Event::Completes(name, whole) => {
            if cluster.invariants.history.is_newest(&name, &whole) {
                set_upstream(cluster, &name, &whole);
                crate::invariants::remember_truth(cluster);
            }
        }
        Event::Deliver(..) | Event::Start(_) => {}
    }
}

/// Makes the world whole once faults have stopped: people take their hands off, and what is broken
/// for good is mended.
pub fn heal(cluster: &mut Cluster) {
    cluster.faults.end();
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
    let jobs: Vec<std::sync::Arc<Value>> =
        cluster.objects.all(Kind::Job).map(|(_, job)| job.clone()).collect();
    for job in jobs {
        cluster.note(format_args!("left over: {} {}", key_of(&job).name, uid(&job)));
    }
    crate::invariants::remember_truth(cluster);
}

/// Until when at most the world may take to come to rest.
pub const PATIENCE: Duration = Duration::from_hours(12);
