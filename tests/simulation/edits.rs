//! Edits of specs and of sources.

use groundswell::{api::Source, controller::object_cache::Key};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    objects::Kind,
    registry::layer,
    scene::{family_key, spec},
    script::{BRANCH, Edit, NAMESPACE, edited},
};

/// Creates the object or the commit that a source names, if it does not exist.
pub fn provide_source(cluster: &mut Cluster, source: &Source) {
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

/// Returns the current Dockerfile of a source.
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

pub fn edit_family(cluster: &mut Cluster, family: &str, change: impl FnOnce(&mut Value)) {
    _ = cluster.update(Kind::Family, &family_key(family), |family| change(&mut family["spec"]));
}

pub fn edit_named(
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

pub fn edit_image(
    cluster: &mut Cluster,
    family: &str,
    image: &str,
    change: impl FnOnce(&mut Value),
) {
    edit_named(cluster, family, "images", image, change);
}

pub fn edit_upstream(
    cluster: &mut Cluster,
    family: &str,
    upstream: &str,
    change: impl FnOnce(&mut Value),
) {
    edit_named(cluster, family, "upstreams", upstream, change);
}

pub fn edit_source(cluster: &mut Cluster, family: &str, image: &str, edit: Edit) {
    let Some(known) = spec(cluster, family) else { return };
    let Some(known) = known.images.iter().find(|known| known.name == image) else { return };
    let Some(text) = text_of(cluster, &known.source) else { return };
    let number = cluster.invariants.history.next_number();
    let place = format!("{family} {image}");
    let text = match edit {
        Edit::Revert => match cluster.invariants.history.previous_text(&place) {
            Some(before) => before,
            None => return,
        },
        edit => edited(&text, edit, number),
    };
    cluster.invariants.history.record_text(&place, &text);
    set_text(cluster, family, image, &known.source, text);
}

/// Replaces the Dockerfile of a source.
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

/// Replaces an image's first parent, unless the new parent is built on the image, or is a parent of
/// it already.
pub fn rewire(cluster: &mut Cluster, family: &str, image: &str, parent: &str) {
    let Some(known) = spec(cluster, family) else { return };
    let mut ancestors = vec![parent.to_owned()];
    let mut visited = 0;
    while visited < ancestors.len() {
        let Some(found) = known.images.iter().find(|known| known.name == ancestors[visited]) else {
            return;
        };
        for edge in &found.from {
            ancestors.extend(edge.image.clone().filter(|name| !ancestors.contains(name)));
        }
        visited += 1;
    }
    let has_edge = known.images.iter().find(|known| known.name == image);
    let has_edge = has_edge
        .is_none_or(|known| known.from.iter().any(|edge| edge.image.as_deref() == Some(parent)));
    if !has_edge && !ancestors.iter().any(|name| name == image) {
        edit_image(cluster, family, image, |image| {
            let usage = image["from"][0]["use"].clone();
            image["from"][0] = json!({"image": parent, "use": usage});
        });
    }
}
