//! What keeps families from following a move, at once or at all: holds and approval of upstreams,
//! their minimum age, and families that are suspended.

use std::collections::BTreeSet;

use jiff::Timestamp;

use groundswell::{
    api::{Approval, Upstream},
    lineage::Parent,
};

use crate::{
    build_times::readable,
    estate_graph::{EstateGraph, GraphNodeKind, NodeId},
    input::{Estate, EstateFamily},
};

/// Finds the gates of a move.
#[derive(Clone, Copy, Debug)]
pub struct MoveGates<'a> {
    pub estate: &'a Estate,
    pub graph: &'a EstateGraph,
    pub now: Timestamp,
}

impl MoveGates<'_> {
    /// Whether a child of what moves follows it: whether its family has an upstream with this
    /// reference that is not held. What is no upstream is followed.
    pub fn follows(&self, child: NodeId, target: NodeId) -> bool {
        let target = self.graph.node(target);
        let Some(target) = target.filter(|node| node.kind == GraphNodeKind::Upstream) else {
            return true;
        };
        let node = self.graph.node(child).and_then(|node| Some((node.family?, node.image?)));
        let Some((family, image)) = node else { return true };
        let Some(family) = self.estate.families.get(family) else { return true };
        let parents = family.blueprint.lineage.parents(image).iter();
        let mut upstreams = parents.filter_map(|parent| match parent {
            Parent::Upstream(upstream) => family.family.spec.upstreams.get(upstream.position()),
            Parent::Image(_) | Parent::Import(_) => None,
        });
        upstreams.any(|one| one.reference() == target.name && !self.is_held(family, one))
    }

    /// Says what the move waits for, one sentence per gate and family.
    pub fn sentences(&self, target: NodeId, rebuilt: &[NodeId]) -> Vec<String> {
        let target = self.graph.node(target);
        let moved = target.filter(|node| node.kind == GraphNodeKind::Upstream);
        let mut sentences = Vec::new();
        if let Some(reference) = moved.map(|node| &node.name) {
            for family in &self.estate.families {
                let upstreams = family.family.spec.upstreams.iter();
                for upstream in upstreams.filter(|one| one.reference() == *reference) {
                    sentences.extend(self.of_upstream(family, upstream));
                }
            }
        }
        let families = rebuilt.iter().filter_map(|node| self.graph.node(*node)?.family);
        let families: BTreeSet<usize> = families.collect();
        let suspended = families
            .into_iter()
            .filter_map(|family| self.estate.families.get(family))
            .filter(|family| family.family.spec.suspend);
        sentences.extend(
            suspended.map(|family| format!("{} is suspended and builds nothing", family.name)),
        );
        sentences
    }

    fn of_upstream(&self, family: &EstateFamily, upstream: &Upstream) -> Vec<String> {
        let name = format!("{}/{}", family.name, upstream.name);
        if self.is_held(family, upstream) {
            return vec![format!("{name} is held, and does not follow")];
        }
        let mut sentences = Vec::new();
        if upstream.approval == Approval::Manual {
            sentences.push(format!("{name} needs approval of the new digest"));
        }
        let age: std::time::Duration = upstream.minimum_age.into();
        if !age.is_zero() {
            sentences.push(format!("{name} waits until the new digest is {} old", readable(age)));
        }
        sentences
    }

    /// Whether the manifest or a request holds an upstream.
    fn is_held(&self, family: &EstateFamily, upstream: &Upstream) -> bool {
        let status = family.family.status.as_ref();
        let mut known = status.into_iter().flat_map(|status| &status.upstreams);
        let recorded = known.find(|known| known.name == upstream.name);
        let manual = recorded.and_then(|known| known.hold.as_ref());
        upstream.hold_at(self.now).is_some()
            || manual.is_some_and(|hold| hold.until.is_none_or(|until| self.now < until))
    }
}
