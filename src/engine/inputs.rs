//! The inputs of a build: from the parents, the source, the spec and the strategy, or what stands in the way of knowing them.

use jiff::Timestamp;

use super::{
    Fault,
    decision::{ImageDecision, PinnedParent},
    fingerprint::spec_hash,
    observation::Sight,
    walk::{Step, Walk, repository},
};
use crate::{
    api::{Edge, ImageFamilySpec, ImageState, Inputs, ParentDigest, condition::reason},
    lineage::Parent,
};

/// Inputs, all of them known.
pub(super) struct Known {
    /// What the fingerprint is made of.
    pub inputs: Inputs,
    /// The parents, as the build gets them.
    pub parents: Vec<PinnedParent>,
    /// When the oldest upstream digest below was first seen.
    pub base_seen: Option<Timestamp>,
    /// Whether the source's revision is the one of the last build, because the one of now is still being asked for. Enough to
    /// tell that an image is current, and not enough to build it.
    pub remembered: bool,
}

/// What stands between an image and its build, from the sight of its parents.
pub(super) enum Obstacle {
    /// The ancestor at this index has failed.
    Blocked(usize),
    /// Something is missing; the flag says whether it is on its way.
    Waiting(Fault, bool),
}

/// The reference by which a Dockerfile names a parent, if the edge does not say: see [`Edge::reference`].
fn reference(spec: &ImageFamilySpec, edge: &Edge, parent: Parent) -> String {
    edge.reference.clone().unwrap_or_else(|| match parent {
        Parent::Upstream(upstream) => {
            spec.upstreams.get(upstream).map(crate::api::Upstream::reference).unwrap_or_default()
        }
        Parent::Image(image) => {
            spec.images.get(image).map(|image| format!("{}:latest", repository(spec, image))).unwrap_or_default()
        }
    })
}

impl Step<'_> {
    /// The inputs of a build, if every one of them is known and every parent is current.
    pub(super) fn inputs(&self, walk: &Walk) -> Result<Known, Obstacle> {
        let mut pinned = Vec::with_capacity(self.image.from.len());
        let mut base_seen: Option<Timestamp> = None;
        let mut waiting: Vec<(String, bool)> = Vec::new();
        for (edge, parent) in self.image.from.iter().zip(self.seen.lineage.parents(self.index)) {
            let (repository, digest, since) = match *parent {
                Parent::Upstream(upstream) => self.upstream(upstream)?,
                Parent::Image(parent) => {
                    let decision = walk.images.get(parent);
                    if let Some(by) = decision.and_then(|decision| failed_ancestor(parent, decision)) {
                        return Err(Obstacle::Blocked(by));
                    }
                    let good =
                        decision.filter(|decision| decision.state == ImageState::Current).and_then(|d| d.good.as_ref());
                    let Some(good) = good else {
                        waiting.push((edge.parent().into(), decision.is_some_and(|decision| decision.in_progress)));
                        continue;
                    };
                    (self.repository_of(parent), good.digest.clone(), good.base_seen)
                }
            };
            base_seen = [base_seen, since].into_iter().flatten().min();
            let reference = reference(self.seen.spec, edge, *parent);
            pinned.push(PinnedParent { edge: edge.clone(), repository, reference, digest });
        }
        if !waiting.is_empty() {
            let names: Vec<&str> = waiting.iter().map(|(name, _)| name.as_str()).take(10).collect();
            let message = format!("waiting for {}", names.join(", "));
            let in_progress = waiting.iter().any(|(_, in_progress)| *in_progress);
            return Err(Obstacle::Waiting(Fault { reason: reason::WAITING_FOR_PARENT, message }, in_progress));
        }
        let (source, remembered) = self.source()?;
        let strategy = known(&self.sight.strategy, "the build strategy is being looked up")?;
        let references: Vec<String> = pinned.iter().map(|parent| parent.reference.clone()).collect();
        let inputs = Inputs {
            parents: pinned
                .iter()
                .map(|parent| ParentDigest { name: parent.edge.parent().into(), digest: parent.digest.clone() })
                .collect(),
            source,
            spec: spec_hash(self.image, &references),
            strategy,
            nonce: String::new(),
        };
        Ok(Known { inputs, parents: pinned, base_seen, remembered })
    }

    /// The source's revision, and whether it is only remembered: after a restart, a revision that is asked for over the
    /// network is not known for a moment, and what is current must not look stale for that.
    fn source(&self) -> Result<(String, bool), Obstacle> {
        let recorded = self.sight.record.and_then(|record| record.inputs.as_ref());
        match (&self.sight.source, recorded) {
            (Sight::Pending, Some(inputs)) => Ok((inputs.source.clone(), true)),
            (sight, _) => Ok((known(sight, "the source is being looked up")?, false)),
        }
    }

    fn repository_of(&self, image: usize) -> String {
        self.seen.spec.images.get(image).map(|image| repository(self.seen.spec, image)).unwrap_or_default()
    }

    fn upstream(&self, index: usize) -> Result<(String, String, Option<Timestamp>), Obstacle> {
        let status = self.upstreams.get(index);
        let image = self.seen.spec.upstreams.get(index).map(|upstream| upstream.image.clone()).unwrap_or_default();
        if let Some(adopted) = status.and_then(|status| status.adopted.as_ref()) {
            Ok((image, adopted.digest.clone(), adopted.first_seen))
        } else {
            let name = status.map_or("", |status| status.name.as_str());
            let why = status.and_then(|status| status.message.as_deref()).unwrap_or("its digest is being looked up");
            // What the status says in its own reason, as the constant that it is.
            let told = status.and_then(|status| status.reason.as_deref());
            let fault = self.seen.upstreams.get(index).and_then(|sight| sight.fault.as_ref());
            let reason = [reason::HELD, reason::PLATFORM_MISSING]
                .into_iter()
                .chain(fault.map(|fault| fault.reason))
                .find(|reason| Some(*reason) == told)
                .unwrap_or(reason::RESOLVING);
            let message = format!("upstream {name}: {why}");
            Err(Obstacle::Waiting(Fault { reason, message }, reason == reason::RESOLVING))
        }
    }
}

fn known(sight: &Sight<String>, pending: &str) -> Result<String, Obstacle> {
    match sight {
        Sight::Known(value) => Ok(value.clone()),
        Sight::Pending => Err(Obstacle::Waiting(Fault { reason: reason::RESOLVING, message: pending.into() }, true)),
        Sight::Faulty(fault) => Err(Obstacle::Waiting(fault.clone(), false)),
    }
}

fn failed_ancestor(parent: usize, decision: &ImageDecision) -> Option<usize> {
    match decision.state {
        ImageState::Failed => Some(parent),
        ImageState::Blocked => decision.blocked_by,
        _ => None,
    }
}
