//! Moves of upstreams, and of the image that checks run in: which digests their tags point to.

use std::collections::BTreeMap;

use crate::{
    cluster::{Cluster, Event},
    random::Random,
    registry::{Content, OTHER_PLATFORM, PLATFORM, layer},
    scene::upstream_repository,
    script::{FOLLOWED, Move, SCANNER},
};

/// Moves the tag of an upstream.
pub fn move_upstream(cluster: &mut Cluster, upstream: usize, how: Move) {
    let name = upstream_repository(upstream);
    let number = cluster.invariants.history.next_number();
    cluster.invariants.history.forget_incomplete(&name);
    let current = cluster.registry.tag(&name, FOLLOWED).map(str::to_owned);
    let mut random = Random::of(cluster.seed, &format!("{name} {number}"));
    let layers = match (how, &current) {
        (Move::Same | Move::Index, Some(current)) => {
            cluster.registry.layers(&format!("{name}@{current}")).unwrap_or_default().to_vec()
        }
        _ => (0..random.within(1..3))
            .map(|place| layer(&[&name, &number.to_string(), &place.to_string()]))
            .collect(),
    };
    let annotations = BTreeMap::new();
    let digest = if how == Move::Back {
        match cluster.invariants.history.previous_digest(&name) {
            Some(previous) => previous,
            None => return,
        }
    } else {
        let mut images = Vec::new();
        let kept = cluster.registry.followed(&name, FOLLOWED);
        let repository = cluster.registry.repository(&name);
        for architecture in [PLATFORM, OTHER_PLATFORM] {
            if let (Move::Index, PLATFORM, Some(kept)) = (how, architecture, &kept) {
                images.push((kept.clone(), architecture));
                continue;
            }
            let content = Content { architecture, layers: layers.clone(), created: number };
            images.push((repository.push(&content, &annotations), architecture));
        }
        if how == Move::Incomplete {
            let complete = cluster.registry.repository(&name).push_index(&images);
            let pause = random.pause(60_000..1_200_000);
            cluster.invariants.history.record_completion(&name, &complete);
            cluster.schedule(pause, Event::Completes(name.clone(), complete));
            images.truncate(1);
        }
        let digest = cluster.registry.repository(&name).push_index(&images);
        if how == Move::Bad {
            let (built, _) = &images[0];
            cluster.invariants.history.record_bad_base(&format!("{name}@{built}"));
        }
        digest
    };
    set_upstream(cluster, &name, &digest);
}

/// Sets the tag of an upstream to a digest.
pub fn set_upstream(cluster: &mut Cluster, name: &str, digest: &str) {
    cluster.note(format_args!("upstream {name} at {digest}"));
    cluster.registry.set_tag(name, FOLLOWED, digest);
    let built = cluster.registry.followed(name, FOLLOWED).expect("a digest");
    let now = cluster.elapsed();
    cluster.invariants.history.moved(name, digest, &built, now);
}

/// Moves the tag of the image that checks run in.
pub fn move_scanner(cluster: &mut Cluster) {
    let number = cluster.invariants.history.next_number().to_string();
    let repository = cluster.registry.repository(SCANNER);
    let images = [PLATFORM, OTHER_PLATFORM].map(|architecture| {
        let layers = vec![layer(&[SCANNER, &number])];
        let content = Content { architecture, layers, created: 0 };
        (repository.push(&content, &BTreeMap::new()), architecture)
    });
    let digest = repository.push_index(&images);
    cluster.note(format_args!("scanner at {digest}"));
    cluster.registry.set_tag(SCANNER, FOLLOWED, &digest);
}
