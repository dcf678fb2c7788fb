//! What the steps of one reconcile of a family share.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::{Api, Resource, core::NamespaceResourceScope};
use tracing::Span;

use crate::{
    api::Image,
    controller::{
        context::Context,
        error::ReconcileError,
        family::{observe::snapshot::Snapshot, registry::allowance::RegistryAllowance},
        reconcile_cache::ReconcileCache,
    },
    engine::{CascadeDecision, Decision, decide},
    identity::CascadeName,
    lineage::ImageIndex,
};

/// One reconcile of a family, once its snapshot is taken. Each step is a method in a file of its
/// own; [`super::reconcile()`] lists them in order.
pub struct Reconcile<'a> {
    /// What every reconcile shares.
    pub context: &'a Context,
    /// What this reconcile has read.
    pub snapshot: Snapshot,
    /// What is to be done. Steps add the results of their effects to it.
    pub decision: Decision,
    /// What is kept of the family until the next reconcile.
    pub cache: &'a mut ReconcileCache,
    /// The time of this reconcile, which every step uses, so that they agree.
    pub now: Timestamp,
    /// How long it may still ask registries.
    pub registry_time: RegistryAllowance,
    /// Images about which not everything that was decided is recorded in this reconcile. Their
    /// tags stay, and their Jobs are not deleted.
    pub unrecorded: BTreeSet<ImageIndex>,
    /// Why the first of them could not be recorded, unless all are only left to the next reconcile.
    pub record_error: Option<ReconcileError>,
    /// The tracing span of this reconcile.
    span: Span,
    /// The cascades that the span names.
    traced_cascades: String,
}

impl<'a> Reconcile<'a> {
    /// Decides over a snapshot. The reconcile logs into the current span.
    pub fn new(
        context: &'a Context,
        snapshot: Snapshot,
        cache: &'a mut ReconcileCache,
        now: Timestamp,
    ) -> Self {
        let decision = decide(&snapshot.input(cache), now);
        let (span, traced_cascades) = (Span::current(), String::new());
        let (unrecorded, record_error) = (BTreeSet::new(), None);
        let mut reconcile = Self {
            context,
            snapshot,
            decision,
            cache,
            now,
            registry_time: RegistryAllowance::begin(),
            unrecorded,
            record_error,
            span,
            traced_cascades,
        };
        reconcile.trace_cascades();
        reconcile
    }

    /// Decides again, over the same snapshot and what the cache and the allowance hold by now.
    pub fn decide(&mut self) {
        self.decision = decide(&self.snapshot.input(self.cache), self.now);
        self.trace_cascades();
    }

    /// Names the cascades that run or start in the span, once: a text formatter appends every
    /// record.
    fn trace_cascades(&mut self) {
        let starting = match &self.decision.cascade {
            CascadeDecision::Start { name, .. } => Some(name),
            _ => None,
        };
        let running = self.decision.members.names().iter();
        let names: Vec<&str> = running.chain(starting).map(CascadeName::as_str).collect();
        let cascades = names.join(",");
        if !cascades.is_empty() && cascades != self.traced_cascades {
            self.span.record("cascade", cascades.as_str());
            self.traced_cascades = cascades;
        }
    }

    /// Returns the client for objects of one kind in the family's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.context.client.clone(), &self.snapshot.key.namespace)
    }

    /// Returns the name of the running cascade that an image belongs to, or the empty string.
    #[must_use]
    pub fn cascade_of(&self, image: ImageIndex) -> &str {
        self.decision.members.name_of(image).map_or("", CascadeName::as_str)
    }

    /// Returns an image of the spec by its index.
    #[must_use]
    pub fn image(&self, index: ImageIndex) -> Option<&Image> {
        self.snapshot.family.spec.images.get(index.position())
    }

    /// Returns the name of an image by its index, or the empty string.
    #[must_use]
    pub fn image_name(&self, index: ImageIndex) -> &str {
        self.image(index).map_or("", |image| image.name.as_str())
    }
}
