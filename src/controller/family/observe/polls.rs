//! What the pollers are to poll for a family: its upstreams, its Git sources, and the floating tags
//! that it has set. No client is needed.

use std::{collections::HashMap, sync::Arc};

use kube::runtime::reflector::ObjectRef;

use crate::{
    api::{GitSource, late_source::LateSource},
    builds::git::GitFolder,
    controller::{
        family::observe::{
            Observer,
            ownership::is_record_of,
            upstreams::{recorded_digest, upstream_needs},
        },
        folder_poller::FolderInterest,
    },
    registry::Keychain,
    upstream::{ImageKey, Interest, PollPurpose, TagNeeds, UpstreamDigest},
};

impl Observer<'_> {
    /// Registers what the pollers are to poll, in place of what was registered before.
    pub fn register_polls(&mut self, keychain: &Arc<Keychain>) {
        self.cache.image_keys.begin_reconcile(keychain);
        let owner = ObjectRef::from_obj(&*self.family);
        let mut seeds = HashMap::new();
        let tags = self.tag_interests(keychain, &mut seeds);
        self.context.tags.set_seeded_interests(&owner, tags, seeds);
        self.context.revisions.set_interests(&owner, self.git_interests());
    }

    /// Returns the tags to poll. Adds what is recorded of those of upstreams to `seeds`, so that an
    /// index that has not changed is not read again after a restart.
    fn tag_interests(
        &mut self,
        keychain: &Arc<Keychain>,
        seeds: &mut HashMap<ImageKey, UpstreamDigest>,
    ) -> Vec<Interest<ImageKey>> {
        let (context, keys) = (self.context, &mut self.cache.image_keys);
        let mut interests = Vec::new();
        for upstream in &self.family.spec.upstreams {
            let needs = upstream_needs(upstream);
            let key = keys.key(&context.registry, upstream.reference(), &needs, keychain);
            if let Some(seed) = recorded_digest(upstream, &self.family)
                && context.tags.latest(&key).is_none()
            {
                seeds.insert(key.clone(), seed);
            }
            let interval = upstream.interval.into();
            interests.push(Interest { key, interval, purpose: PollPurpose::Follow });
        }
        let records = context.stores.images.group(&self.key).into_iter();
        for record in records.filter(|record| is_record_of(record, &self.family)) {
            let tags = record.status.iter().flat_map(|status| &status.tags);
            for tag in tags.filter(|tag| !tag.immutable) {
                let reference = format!("{}:{}", record.spec.repository, tag.tag);
                let needs = TagNeeds::default();
                let key = keys.key(&context.registry, reference, &needs, keychain);
                let interval = context.audit.into();
                interests.push(Interest { key, interval, purpose: PollPurpose::Audit });
            }
        }
        interests
    }

    /// Returns the Git sources whose next poll is later than their intervals ask for.
    pub(super) fn late_sources(&self) -> Vec<LateSource> {
        let sources = self.family.spec.images.iter().filter_map(|image| image.source.git.as_ref());
        self.context.revisions.late_sources(sources.map(|source| self.git_key(source)))
    }

    fn git_interests(&self) -> Vec<FolderInterest> {
        let sources = self.family.spec.images.iter().filter_map(|image| image.source.git.as_ref());
        let interest = |git: &GitSource| {
            // A path that leaves the repository is the problem of that image, and is not polled.
            let folder = GitFolder::of(git).ok()?;
            Some(FolderInterest { key: self.git_key(git), folder, interval: git.interval().into() })
        };
        sources.filter_map(interest).collect()
    }
}
