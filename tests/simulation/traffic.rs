//! How many requests a cascade of a large family costs at registries.

use std::{collections::BTreeMap, time::Duration};

use groundswell::api::{
    Duration as ApiDuration, EdgeUse, Follow, Image, ImageFamilySpec, Source, StrategyRef, Upstream,
};
use http::Method;

use crate::{
    runner::move_upstreams,
    script::{FOLLOWED, Family, PUBLIC, REGISTRY, Script},
    topology::{on_image, on_upstream},
};

/// How many images each level has: six levels of 200 images.
const LEVELS: [usize; 6] = [1, 4, 15, 40, 60, 80];
/// Upper bound on the requests per image and cascade at the registry that it is pushed to, without
/// those for its tags: whether the fingerprint was built, what the build has pushed, its
/// configuration, and its record.
const MAX_PER_IMAGE: usize = 4;
/// Upper bound on the requests for the tags of an image, which has a floating one and one that
/// names the build: each is set, and the second must not exist.
const MAX_FOR_TAGS: usize = 3;

/// The requests to registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryTraffic {
    /// Their number by host, method and what they are about.
    counts: BTreeMap<String, usize>,
    /// The paths of the manifests that were read from the registry of the upstreams.
    base_manifests: Vec<String>,
}

impl RegistryTraffic {
    pub fn count(&mut self, method: &Method, host: &str, path: &str) {
        let mut parts = path.rsplit('/');
        let (name, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = match name {
            digest if digest.starts_with("sha256:") => "by digest",
            record if record.ends_with("-record") => "record",
            tag if tag.starts_with("gs-") => "gs-",
            "" => "a new one",
            _ => "tag",
        };
        *self.counts.entry(format!("{host} {method} {what} {kind}")).or_default() += 1;
        if host == PUBLIC && *method == Method::GET && what == "manifests" {
            self.base_manifests.push(path.to_owned());
        }
    }

    /// Returns how many requests the registry of the family got that are about tags of users, and
    /// how many others. Audits of tags are left out: each tag is polled at an interval, whether its
    /// image is rebuilt or not.
    fn of_own_registry(&self) -> (usize, usize) {
        let audits = format!("{REGISTRY} HEAD manifests tag");
        let own = self.counts.iter().filter(|(what, _)| what.starts_with(REGISTRY));
        own.filter(|(what, _)| **what != audits).fold((0, 0), |(tags, others), (what, count)| {
            if what.ends_with(" tag") { (tags + count, others) } else { (tags, others + count) }
        })
    }
}

/// A family of six levels without faults, whose upstream moves once.
fn script() -> Script {
    let mut images: Vec<Image> = Vec::new();
    let mut above = 0..0;
    for count in LEVELS {
        let level = images.len()..images.len() + count;
        for place in level.clone() {
            let mut edge = match above.len() {
                0 => on_upstream(0),
                parents => on_image(&format!("i{}", above.start + place % parents), EdgeUse::Base),
            };
            edge.usage = EdgeUse::Base;
            images.push(Image {
                name: format!("i{place}"),
                from: vec![edge],
                source: Source { inline: Some("FROM x".into()), ..Source::default() },
                tags: vec!["latest".into(), "r{{ build }}".into()],
                ..Image::default()
            });
        }
        above = level;
    }
    let mut spec = ImageFamilySpec {
        repository: format!("{REGISTRY}/wide"),
        strategy: StrategyRef { name: "model".into(), ..StrategyRef::default() },
        images,
        upstreams: vec![Upstream {
            name: "u0".into(),
            image: format!("{PUBLIC}/library/u0"),
            follow: Follow { tag: FOLLOWED.into() },
            interval: ApiDuration::from_secs(300),
            ..Upstream::default()
        }],
        ..ImageFamilySpec::default()
    };
    spec.policy.parallelism = 32;
    Script {
        families: vec![Family { name: "wide".into(), spec }],
        end: Duration::from_secs(1),
        // Audits of tags come at times of their own.
        audit: Duration::from_hours(240),
        ..Script::default()
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimization")]
fn a_cascade_of_200_images_asks_registries_a_few_times_per_image() {
    let images: usize = LEVELS.iter().sum();
    let moved = move_upstreams(&script()).expect("no invariant is violated");
    assert_eq!((moved.built.len(), moved.has_succeeded), (images, true));
    let traffic = moved.traffic;
    println!("{images} images: {:#?}", traffic.counts);
    let (tags, others) = traffic.of_own_registry();
    assert!(others <= MAX_PER_IMAGE * images, "{others} requests: {:#?}", traffic.counts);
    assert!(tags <= MAX_FOR_TAGS * images, "{tags} requests for tags: {:#?}", traffic.counts);
    let mut manifests = traffic.base_manifests.clone();
    manifests.sort();
    manifests.dedup();
    assert_eq!(manifests.len(), traffic.base_manifests.len(), "each digest once: {manifests:?}");
}
