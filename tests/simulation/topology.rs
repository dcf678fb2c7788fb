//! The families that a seed draws: their graphs, gates and policies.

use groundswell::api::{
    Approval, Breaker, Check, ConfigMapSource, Cutoff, Duration as ApiDuration, Edge, EdgeUse,
    Export, FamilyRef, Follow, GitSource, Image, ImageFamilySpec, OnParentFailure, Policy,
    Promotion, RateLimit, Retries, Source, StrategyRef, Supersede, Upstream, Window,
};

use crate::{
    builder::IRREPRODUCIBLE,
    random::Random,
    script::{BRANCH, FOLLOWED, Family, PUBLIC, REGISTRY, SCANNER},
};

/// A check that a digest passes unless its Dockerfile is bad.
pub const SMOKE: &str = "smoke";
/// A check that never passes and is not required.
pub const REPORT: &str = "report";

/// Draws a family. It may import images that earlier families export.
pub fn family(random: &mut Random, number: usize, upstreams: usize, before: &[Family]) -> Family {
    let name = format!("f{number}");
    let count = match random.below(10) {
        0 => random.within(8..14),
        1..4 => random.within(1..3),
        _ => random.within(3..8),
    };
    let shape = random.below(5);
    let mut images: Vec<Image> = Vec::new();
    for place in 0..count {
        let parents = parents(random, shape, place, count);
        let mut from: Vec<Edge> = parents
            .into_iter()
            .map(|parent| on_image(&format!("i{parent}"), EdgeUse::BuildStage))
            .collect();
        let exporter = random.pick(before).filter(|_| random.chance(250)).cloned();
        if let Some(exporter) = exporter
            && let Some(export) = random.pick(&exporter.spec.exports)
        {
            let family = Some(FamilyRef { namespace: None, name: exporter.name });
            from.push(Edge { family, ..on_image(&export.image, EdgeUse::BuildStage) });
        }
        if from.is_empty() || random.chance(150) {
            from.push(on_upstream(random.below(upstreams)));
        }
        images.push(image(random, &name, &format!("i{place}"), from));
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    // The order in the spec has no meaning.
    for place in (1..order.len()).rev() {
        order.swap(place, random.below(place + 1));
    }
    let images: Vec<Image> = order.into_iter().map(|place| images[place].clone()).collect();
    let export = |image: &Image| Export { image: image.name.clone(), namespaces: Vec::new() };
    let spec = ImageFamilySpec {
        repository: format!("{REGISTRY}/{name}"),
        strategy: StrategyRef { name: "model".into(), ..StrategyRef::default() },
        upstreams: (0..upstreams).map(|number| upstream(random, number)).collect(),
        exports: images.iter().map(export).filter(|_| random.chance(500)).collect(),
        images,
        policy: policy(random),
        suspend: random.chance(30),
        ..ImageFamilySpec::default()
    };
    Family { name, spec }
}

/// Draws the parents of the image at this index, among the images before it.
fn parents(random: &mut Random, shape: usize, place: usize, count: usize) -> Vec<usize> {
    match shape {
        // A chain.
        0 => place.checked_sub(1).into_iter().collect(),
        // A fan.
        1 => (place > 0).then_some(0).into_iter().collect(),
        // Diamonds on top of each other.
        2 => match place % 3 {
            0 if place > 0 => vec![place - 2, place - 1],
            1 => vec![place - 1],
            2 => vec![place - 2],
            _ => Vec::new(),
        },
        // Layers.
        3 => {
            let width = count.div_ceil(3).max(1);
            let layer = place / width;
            let above = layer.saturating_sub(1) * width..layer * width;
            above.filter(|_| random.chance(600)).take(3).collect()
        }
        // Any graph without a cycle.
        _ => (0..place).filter(|_| random.chance(350)).take(4).collect(),
    }
}

pub fn on_upstream(upstream: usize) -> Edge {
    Edge { upstream: Some(format!("u{upstream}")), usage: EdgeUse::BuildStage, ..Edge::default() }
}

pub fn on_image(image: &str, usage: EdgeUse) -> Edge {
    Edge { image: Some(image.into()), usage, ..Edge::default() }
}

/// Draws an image with these edges.
pub fn image(random: &mut Random, family: &str, name: &str, mut from: Vec<Edge>) -> Image {
    if random.chance(800) {
        from[0].usage = EdgeUse::Base;
    }
    let tags: &[&str] = match random.below(5) {
        0 => &[],
        1 => &["latest"],
        2 => &["r{{ build }}"],
        _ => &["latest", "{{ upstream.u0.tag }}-r{{ build }}", "x-{{ fingerprint }}"],
    };
    let mut checks = Vec::new();
    if random.chance(200) {
        checks.push(check(SMOKE, true));
    }
    if random.chance(60) {
        checks.push(check(REPORT, false));
    }
    Image {
        name: name.into(),
        from,
        source: source(random, family, name),
        tags: tags.iter().map(ToString::to_string).collect(),
        checks,
        on_parent_failure: if random.chance(150) {
            OnParentFailure::UseLastVerified
        } else {
            OnParentFailure::Block
        },
        required: random.chance(850),
        ..Image::default()
    }
}

/// Makes every second check of a family run in another image.
pub fn use_scanner(spec: &mut ImageFamilySpec) {
    let checks = spec.images.iter_mut().flat_map(|image| &mut image.checks);
    for check in checks.step_by(2) {
        check.image = Some(format!("{SCANNER}:{FOLLOWED}"));
    }
}

/// Returns a check as in a spec.
pub fn check(name: &str, required: bool) -> Check {
    Check {
        name: name.into(),
        command: vec!["check".into(), name.into()],
        required,
        ..Check::default()
    }
}

fn source(random: &mut Random, family: &str, name: &str) -> Source {
    match random.below(8) {
        0 => Source {
            config_map: Some(ConfigMapSource {
                name: format!("{family}-{name}"),
                ..ConfigMapSource::default()
            }),
            ..Source::default()
        },
        1 => Source {
            git: Some(GitSource {
                url: format!("https://git.test/{family}/{name}"),
                revision: BRANCH.into(),
                dockerfile: "Dockerfile".into(),
                interval: Some(ApiDuration::from_secs(random.seconds(60..600))),
                ..GitSource::default()
            }),
            ..Source::default()
        },
        2 => Source { inline: Some(format!("FROM x {IRREPRODUCIBLE}")), ..Source::default() },
        _ => Source { inline: Some("FROM x".into()), ..Source::default() },
    }
}

fn upstream(random: &mut Random, number: usize) -> Upstream {
    let platforms: &[&str] = if random.chance(300) { &["linux/amd64", "linux/arm64"] } else { &[] };
    Upstream {
        name: format!("u{number}"),
        image: format!("{PUBLIC}/library/u{number}"),
        follow: Follow { tag: FOLLOWED.into() },
        interval: ApiDuration::from_secs(random.seconds(30..600)),
        platforms: platforms.iter().map(ToString::to_string).collect(),
        minimum_age: ApiDuration::from_secs(if random.chance(150) {
            random.seconds(30..1500)
        } else {
            0
        }),
        approval: if random.chance(120) { Approval::Manual } else { Approval::Automatic },
        ..Upstream::default()
    }
}

/// Draws a policy.
pub fn policy(random: &mut Random) -> Policy {
    let settle = if random.chance(300) { 0 } else { random.seconds(1..60) };
    let few = |number: usize| i32::try_from(number).unwrap_or(1);
    Policy {
        settle: ApiDuration::from_secs(settle),
        max_settle: ApiDuration::from_secs(settle + random.seconds(0..300)),
        parallelism: few(random.within(1..5)),
        retries: Retries { build: few(random.below(3)), infrastructure: few(random.below(6)) },
        supersede: if random.chance(300) { Supersede::Cancel } else { Supersede::Finish },
        cutoff: match random.below(6) {
            0 => Cutoff::Never,
            1 => Cutoff::Digest,
            _ => Cutoff::Content,
        },
        promotion: if random.chance(300) { Promotion::Cascade } else { Promotion::Image },
        windows: (0..random.below(12).saturating_sub(9)).map(|_| window(random)).collect(),
        rate_limit: random.chance(100).then(|| RateLimit {
            builds: few(random.within(1..4)),
            per: ApiDuration::from_secs(random.seconds(5..50)),
        }),
        breaker: Breaker {
            consecutive_failures: few(random.below(6)),
            probe_after: ApiDuration::from_secs(random.seconds(10..600)),
        },
        refresh: None,
        weight: few(random.within(1..30)),
    }
}

/// Draws a window that opens once an hour. The offset of its zone may have half an hour.
fn window(random: &mut Random) -> Window {
    let zones = ["UTC", "Europe/Berlin", "Asia/Kolkata"];
    Window {
        schedule: format!("{} * * * *", random.below(60)),
        duration: ApiDuration::from_secs(60 * random.seconds(3..40)),
        time_zone: zones[random.below(3)].into(),
    }
}
