//! Shrinks a failing script to the smallest one that fails in the same way: whatever can be removed
//! without losing the failure is removed.

use std::{
    fmt,
    time::{Duration, Instant},
};

use groundswell::api::{Edge, Image, ImageFamilySpec, Policy, Source, Upstream};

use crate::{
    cluster::Violation,
    faults::Rates,
    runner::run,
    script::{Script, Step},
    trace::TraceOutput,
};

/// Upper bound on the time to shrink a script.
const MAX_SHRINK_TIME: Duration = Duration::from_secs(120);

/// Returns the part of a violation that does not depend on names.
fn signature(violation: &Violation) -> (&'static str, Vec<&str>) {
    let words =
        violation.message.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    (violation.invariant, words.take(6).collect())
}

/// Returns the smallest script found that fails in the same way.
pub fn shrink(script: &Script, violation: &Violation) -> Script {
    let start = Instant::now();
    let mut best = script.clone();
    let fails = |candidate: &Script| {
        start.elapsed() < MAX_SHRINK_TIME
            && run(candidate, TraceOutput::None)
                .violation
                .is_some_and(|found| signature(&found) == signature(violation))
    };
    loop {
        let before = best.clone();
        fewer_steps(&mut best, &fails);
        for simpler in [
            no_rates,
            fewer_rates,
            fewer_families,
            fewer_images,
            fewer_edges,
            simpler_specs,
            shorter,
        ] {
            for candidate in simpler(&best) {
                if candidate != best && fails(&candidate) {
                    best = candidate;
                    break;
                }
            }
        }
        if best == before || start.elapsed() >= MAX_SHRINK_TIME {
            return best;
        }
    }
}

/// Removes steps: half of them, a quarter, and so on down to single steps.
fn fewer_steps(best: &mut Script, fails: &impl Fn(&Script) -> bool) {
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.steps.len() {
            let mut candidate = best.clone();
            let end = (at + size).min(candidate.steps.len());
            candidate.steps.drain(at..end);
            if fails(&candidate) { *best = candidate } else { at += size }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
}

fn no_rates(script: &Script) -> Vec<Script> {
    vec![Script { rates: Rates::NONE, ..script.clone() }]
}

fn fewer_rates(script: &Script) -> Vec<Script> {
    let each = Rates::EACH.iter().map(|rate| {
        let mut fewer = script.clone();
        *rate(&mut fewer.rates) = 0;
        fewer
    });
    each.collect()
}

fn fewer_families(script: &Script) -> Vec<Script> {
    let without = |place| {
        let mut fewer = script.clone();
        fewer.families.remove(place);
        fewer
    };
    (0..script.families.len()).map(without).collect()
}

/// Removes one image and the edges to it.
fn fewer_images(script: &Script) -> Vec<Script> {
    each_spec(script, |spec| {
        (0..spec.images.len())
            .filter(|_| spec.images.len() > 1)
            .map(|place| {
                let mut fewer = spec.clone();
                let gone = fewer.images.remove(place).name;
                fewer.exports.retain(|export| export.image != gone);
                for image in &mut fewer.images {
                    image.from.retain(|edge| edge.image.as_ref() != Some(&gone));
                    keep_an_edge(image);
                }
                fewer
            })
            .collect()
    })
}

fn fewer_edges(script: &Script) -> Vec<Script> {
    each_spec(script, |spec| {
        let places = spec
            .images
            .iter()
            .enumerate()
            .flat_map(|(image, of)| (0..of.from.len()).map(move |edge| (image, edge)));
        places
            .map(|(image, edge)| {
                let mut fewer = spec.clone();
                fewer.images[image].from.remove(edge);
                keep_an_edge(&mut fewer.images[image]);
                fewer
            })
            .collect()
    })
}

fn keep_an_edge(image: &mut Image) {
    if image.from.is_empty() {
        image.from.push(Edge { upstream: Some("u0".into()), ..Edge::default() });
    }
}

/// Replaces drawn settings with defaults.
fn simpler_specs(script: &Script) -> Vec<Script> {
    each_spec(script, |spec| {
        let mut simpler_specs = vec![ImageFamilySpec { policy: Policy::default(), ..spec.clone() }];
        for place in 0..spec.images.len() {
            let image = &spec.images[place];
            let mut with = |image: Image| {
                let mut simpler = spec.clone();
                simpler.images[place] = image;
                simpler_specs.push(simpler);
            };
            let name = image.name.clone();
            with(Image {
                name,
                from: image.from.clone(),
                source: inline(),
                tags: image.tags.clone(),
                ..Image::default()
            });
            with(Image { source: inline(), ..image.clone() });
            with(Image { tags: Vec::new(), ..image.clone() });
        }
        for place in 0..spec.upstreams.len() {
            let Upstream { name, image, follow, interval, .. } = spec.upstreams[place].clone();
            let mut simpler = spec.clone();
            simpler.upstreams[place] =
                Upstream { name, image, follow, interval, ..Upstream::default() };
            simpler_specs.push(simpler);
        }
        simpler_specs
    })
}

fn inline() -> Source {
    Source { inline: Some("FROM x".into()), ..Source::default() }
}

/// Removes the time after the last step.
fn shorter(script: &Script) -> Vec<Script> {
    let last = script.steps.last().map_or(Duration::ZERO, |step| step.at);
    vec![Script { end: last + Duration::from_secs(60), ..script.clone() }]
        .into_iter()
        .filter(|candidate| candidate.end < script.end)
        .collect()
}

fn each_spec(
    script: &Script,
    simpler: impl Fn(&ImageFamilySpec) -> Vec<ImageFamilySpec>,
) -> Vec<Script> {
    let mut candidates = Vec::new();
    for (place, family) in script.families.iter().enumerate() {
        for spec in simpler(&family.spec) {
            let mut candidate = script.clone();
            candidate.families[place].spec = spec;
            candidates.push(candidate);
        }
    }
    candidates
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} upstreams, {:?}", self.seed, self.upstreams, self.rates)?;
        writeln!(
            f,
            "builds may run {:?}, Jobs are kept {:?}, tags audited every {:?}",
            self.timeout, self.ttl_after_finished, self.audit
        )?;
        for family in &self.families {
            let exports: Vec<&str> =
                family.spec.exports.iter().map(|export| export.image.as_str()).collect();
            let policy = serde_json::to_string(&family.spec.policy).unwrap_or_default();
            let suspended = if family.spec.suspend { ", suspended" } else { "" };
            writeln!(f, "family {}{suspended}, exports {exports:?}: {policy}", family.name)?;
            for upstream in &family.spec.upstreams {
                writeln!(f, "  upstream {}", serde_json::to_string(upstream).unwrap_or_default())?;
            }
            for image in &family.spec.images {
                writeln!(f, "  image {}", serde_json::to_string(image).unwrap_or_default())?;
            }
        }
        for Step { at, action } in &self.steps {
            writeln!(f, "  {:>10.3} {action:?}", at.as_secs_f64())?;
        }
        write!(f, "  {:>10.3} faults stop", self.end.as_secs_f64())
    }
}
