//! Which digests upstreams must be adopted at, and which ones tags must point to.

use groundswell::api::{Image, Promotion, Upstream, condition::Reason};

use super::{FamilyView, FinalState, Oracle};
use crate::{invariants::short, registry::PLATFORM, scene::repository, script::FOLLOWED};

impl Oracle<'_> {
    /// Returns the adopted digest of an upstream, if it is the expected one.
    pub(super) fn adopted(
        &self,
        family: &FamilyView,
        upstream: &Upstream,
    ) -> Result<String, String> {
        let registry = &self.cluster.registry;
        let tagged = registry.tag(&upstream.image, FOLLOWED).unwrap_or_default();
        let current = registry.followed(&upstream.image, FOLLOWED).unwrap_or_default();
        let row = family.status.upstreams.iter().find(|row| row.name == upstream.name);
        // After failures the upstream is polled again after a while, and then the row is written
        // once more.
        if row.is_some_and(|row| row.known_reason() == Some(Reason::RegistryUnavailable)) {
            return Err(format!("upstream {} could not be polled", upstream.name));
        }
        let platform = format!("linux/{PLATFORM}");
        let adopted = row
            .and_then(|row| row.adopted.as_ref())
            .and_then(|adopted| adopted.content().for_platform(&platform))
            .map(str::to_owned)
            .unwrap_or_default();
        let manual = row.and_then(|row| row.hold.as_ref()).filter(|hold| self.is_held(Some(hold)));
        let lacks_platform = !upstream.platforms.is_empty()
            && !registry.offers_all(&format!("{}@{tagged}", upstream.image));
        // A digest that was replaced before is not adopted for a day.
        let has_returned = row.is_some_and(|row| {
            row.known_reason() == Some(Reason::DigestReturned) && row.superseded.contains(&current)
        });
        let expected = match (upstream.hold_at(self.cluster.time.truth()), manual) {
            (Some(hold), _) => hold.digest.clone(),
            (None, Some(hold)) => hold.digest.clone(),
            // A digest that lacks a platform is not adopted.
            (None, None) => Some(current.clone()).filter(|_| !lacks_platform && !has_returned),
        };
        let candidate = row
            .and_then(|row| row.candidate.as_ref())
            .and_then(|candidate| candidate.content().for_platform(&platform));
        if adopted != current && candidate != Some(current.as_str()) {
            return Err(format!(
                "upstream {} was not observed at {}",
                upstream.name,
                short(&current)
            ));
        }
        match expected {
            Some(expected) if expected != adopted => Err(format!(
                "upstream {} is adopted at {}, and not at {}",
                upstream.name,
                short(&adopted),
                short(&expected)
            )),
            _ => Ok(adopted),
        }
    }

    /// Returns whether a tag that names a build is taken by an earlier build. An error says which
    /// tag points to an unexpected digest.
    ///
    /// After a record was lost or a family was recreated, builds are numbered from the build that
    /// the floating tag points to: that may be an older one, or none. A promotion that was recorded
    /// there is lost as well.
    pub(super) fn tags(
        &self,
        family: &FamilyView,
        image: &Image,
        final_states: &[FinalState],
    ) -> Result<bool, String> {
        let may_count_again = self.cluster.invariants.history.may_count_again(&family.key.name);
        let mut is_taken = false;
        let record = family.record(&image.name);
        let index = family
            .spec
            .images
            .iter()
            .position(|known| known.name == image.name)
            .unwrap_or_default();
        let name = repository(&family.spec, image);
        let digest = record.digest.as_deref().unwrap_or_default();
        let is_complete = family
            .spec
            .images
            .iter()
            .zip(final_states)
            .all(|(image, final_state)| !image.required || *final_state == FinalState::Current);
        for template in &image.tags {
            let build = record.build.unwrap_or_default().to_string();
            let fingerprint = record.fingerprint.clone().unwrap_or_default();
            let tag = template
                .replace("{{ build }}", &build)
                .replace("{{ fingerprint }}", short(&fingerprint))
                .replace("{{ upstream.u0.tag }}", FOLLOWED);
            let floats = tag == *template;
            let rolled_back = record.rollback.as_ref().filter(|_| floats && !digest.is_empty());
            let rolled_back = rolled_back.map(|rollback| rollback.digest.as_str());
            let expected = match (final_states[index], floats, family.spec.policy.promotion) {
                (FinalState::Current, true, Promotion::Cascade) if !is_complete => {
                    record.promoted.as_deref()
                }
                (FinalState::Current, _, _) => Some(digest),
                (FinalState::Held, _, _) if rolled_back.is_some() => rolled_back,
                _ => continue,
            };
            let current = self.cluster.registry.tag(&name, &tag);
            if may_count_again && !floats && current.is_some() && current != expected {
                is_taken = true;
            } else if current != expected && !(may_count_again && expected.is_none()) {
                return Err(format!(
                    "{name}:{tag} points to {:?}, and not to {:?}",
                    current.map(short),
                    expected.map(short)
                ));
            }
        }
        Ok(is_taken)
    }
}
