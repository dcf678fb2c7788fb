//! What each image must have become.

use groundswell::api::{
    Cutoff, Edge, FailureClass, Image, ImageState, ManagedImageStatus, ManualHold, OnParentFailure,
    labels,
};
use jiff::Timestamp;

use super::{FamilyView, FinalState, Oracle, Strictness};
use crate::{
    builder::{BAD, BROKEN, MISMATCH},
    edits::text_of,
    invariants::short,
    job_controller::Phase,
    objects::{label, owner},
    registry::BuildOrigin,
    scene::repository,
};

/// A parent from the point of view of its child.
struct Parent {
    /// `repository@digest`, if there is a digest to build from.
    pinned: Option<String>,
    final_state: FinalState,
    /// Whether the digest has passed the current checks.
    checked: bool,
    /// Whether the parent is rolled back, so that its children stay as they are.
    rolled_back: bool,
}

/// The parents that a build is to be made from.
struct WantedParents {
    /// Each as `repository@digest`.
    pinned: Vec<String>,
    /// Whether any digest of it will do.
    any_digest: Vec<bool>,
}

impl WantedParents {
    /// Whether a build was made from these parents.
    fn match_build(&self, made: &BuildOrigin) -> bool {
        let repository = |pinned: &str| pinned.split('@').next().unwrap_or_default().to_owned();
        let wanted = self.pinned.iter().zip(&self.any_digest);
        made.parents.len() == self.pinned.len()
            && made.parents.iter().zip(wanted).all(|(made, (wanted, any_digest))| {
                made == wanted || *any_digest && repository(made) == repository(wanted)
            })
    }
}

impl Oracle<'_> {
    /// Returns the final state of an image. An error says what is wrong with it.
    pub(super) fn final_state(
        &mut self,
        family: &FamilyView,
        image: &Image,
    ) -> Result<FinalState, String> {
        let key = (family.key.name.clone(), image.name.clone());
        if let Some(final_state) = self.final_states.get(&key) {
            return Ok(*final_state);
        }
        let final_state = self.determine_final_state(family, image)?;
        self.final_states.insert(key, final_state);
        Ok(final_state)
    }

    fn determine_final_state(
        &mut self,
        family: &FamilyView,
        image: &Image,
    ) -> Result<FinalState, String> {
        let record = family.record(&image.name);
        let expect = |final_state: FinalState, states: &[ImageState]| {
            let message = format!(
                "{} is {} ({}), and not {final_state:?}",
                image.name,
                record.state.as_str(),
                record.message
            );
            if states.contains(&record.state) { Ok(final_state) } else { Err(message) }
        };
        let mut parents = Vec::new();
        for edge in &image.from {
            parents.push(self.parent(family, image, edge)?);
        }
        let failed: fn(&Parent) -> bool =
            |parent| matches!(parent.final_state, FinalState::Failed | FinalState::Blocked);
        let last_verified = image.on_parent_failure == OnParentFailure::UseLastVerified;
        let held = self.is_image_held(family, image);
        if parents
            .iter()
            .any(|parent| failed(parent) && !(last_verified && parent.pinned.is_some()))
        {
            // A held image stays as it is, whatever happens to its ancestors.
            return if held && (record.digest.is_some() || record.rollback.is_some()) {
                expect(FinalState::Held, &[ImageState::Held])
            } else {
                expect(FinalState::Blocked, &[ImageState::Blocked])
            };
        }
        let pinned: Option<Vec<String>> =
            parents.iter().map(|parent| parent.pinned.clone()).collect();
        let Some(pinned) = pinned else {
            let states = if held {
                &[ImageState::Held, ImageState::Waiting][..]
            } else {
                &[ImageState::Waiting]
            };
            let final_state = if record.state == ImageState::Held {
                FinalState::Held
            } else {
                FinalState::Waiting
            };
            return expect(final_state, states);
        };
        let any_digest = parents.iter().map(|parent| parent.rolled_back).collect();
        let pinned = WantedParents { pinned, any_digest };
        let text = text_of(self.cluster, &image.source).unwrap_or_default();
        let current = record.state == ImageState::Current
            && self.lineage(family, image, &record, &text, &pinned).is_ok();
        let smoke = image.checks.iter().any(|check| check.required);
        let fails_check = smoke && text.contains(BAD);
        if held && !current {
            // While its inputs are unchanged, checks run although the image is held.
            let unchanged = self.lineage(family, image, &record, &text, &pinned).is_ok();
            return if fails_check && unchanged && record.state == ImageState::Failed {
                Ok(FinalState::Failed)
            } else {
                expect(FinalState::Held, &[ImageState::Held])
            };
        }
        let unchecked = |final_state: fn(&Parent) -> bool| {
            parents.iter().any(|parent| !parent.checked && final_state(parent))
        };
        if !current && unchecked(failed) {
            return expect(FinalState::Blocked, &[ImageState::Blocked]);
        }
        if !current && unchecked(|parent| parent.final_state == FinalState::Held) {
            return expect(FinalState::Waiting, &[ImageState::Waiting]);
        }
        if text.contains(BROKEN) || text.contains(MISMATCH) || fails_check {
            return expect(FinalState::Failed, &[ImageState::Failed]);
        }
        let cancelled = record
            .failure
            .as_ref()
            .is_some_and(|failure| failure.last.class == FailureClass::Cancelled);
        let lenient = self.strictness == Strictness::Lenient || !self.is_reached(family, image);
        if record.state == ImageState::Failed
            && (cancelled || lenient && self.last_failed(family, image))
        {
            return Ok(FinalState::Failed);
        }
        expect(FinalState::Current, &[ImageState::Current])?;
        self.lineage(family, image, &record, &text, &pinned)?;
        Ok(FinalState::Current)
    }

    /// Returns whether an image depends on an upstream whose moves are adopted and passed on, so
    /// that another cascade follows.
    fn is_reached(&self, family: &FamilyView, image: &Image) -> bool {
        let now = self.cluster.time.truth();
        image.from.iter().any(|edge| {
            if let Some(upstream) = &edge.upstream {
                let row = family.status.upstreams.iter().find(|row| row.name == *upstream);
                let manual = row
                    .and_then(|row| row.hold.as_ref())
                    .is_some_and(|hold| self.is_held(Some(hold)));
                let found = family.spec.upstreams.iter().find(|known| known.name == *upstream);
                return !manual && found.is_some_and(|found| found.hold_at(now).is_none());
            }
            let of =
                edge.family.as_ref().map_or(Some(family), |other| self.families.get(&other.name));
            let parent = edge.image.as_deref().unwrap_or_default();
            of.and_then(|of| Some((of, of.image(parent)?))).is_some_and(|(of, parent)| {
                !self.is_image_held(of, parent) && self.is_reached(of, parent)
            })
        })
    }

    fn is_image_held(&self, family: &FamilyView, image: &Image) -> bool {
        image.hold.as_ref().is_some_and(|hold| self.lasts(hold.until))
            || self.is_held(family.record(&image.name).hold.as_ref())
    }

    /// Returns whether a hold that a request has set is active.
    pub(super) fn is_held(&self, hold: Option<&ManualHold>) -> bool {
        hold.is_some_and(|hold| self.lasts(hold.until))
    }

    /// Returns whether a hold with this end is active; `None` is no end.
    fn lasts(&self, until: Option<Timestamp>) -> bool {
        until.is_none_or(|until| self.cluster.time.truth() < until)
    }

    /// Returns whether the last Job of an image failed, or no Job is left.
    fn last_failed(&self, family: &FamilyView, image: &Image) -> bool {
        let jobs = self.cluster.work.values().filter(|work| owner(&work.job) == family.uid);
        let last = jobs
            .filter(|work| label(&work.job, labels::IMAGE) == image.name)
            .max_by_key(|work| work.number);
        last.is_none_or(|work| work.phase != Phase::Succeeded || !work.has_pushed())
    }

    fn parent(
        &mut self,
        family: &FamilyView,
        child: &Image,
        edge: &Edge,
    ) -> Result<Parent, String> {
        if let Some(upstream) = &edge.upstream {
            let found = family.spec.upstreams.iter().find(|known| known.name == *upstream);
            let found = found.ok_or_else(|| format!("there is no upstream {upstream}"))?;
            let digest = self.adopted(family, found)?;
            let pinned = (!digest.is_empty()).then(|| format!("{}@{digest}", found.image));
            return Ok(Parent {
                pinned,
                final_state: FinalState::Current,
                checked: true,
                rolled_back: false,
            });
        }
        let name = edge.image.as_deref().unwrap_or_default();
        let families = self.families;
        let of = match &edge.family {
            None => Some(family),
            Some(other) => families
                .get(&other.name)
                .filter(|other| other.spec.exports.iter().any(|export| export.image == name)),
        };
        let Some((of, found)) = of.and_then(|of| Some((of, of.image(name)?))) else {
            return Ok(Parent {
                pinned: None,
                final_state: FinalState::Waiting,
                checked: true,
                rolled_back: false,
            });
        };
        let final_state = self.final_state(of, found)?;
        let record = of.record(name);
        let digest = record.digest.clone();
        let pinned = digest.map(|digest| format!("{}@{digest}", repository(&of.spec, found)));
        // A digest that another family exports counts as checked.
        let is_checked = |pinned: &String| self.cluster.invariants.is_surely_checked(found, pinned);
        // A digest whose checks were cancelled is not used, whatever their result.
        let cancelled = record.failure.as_ref().is_some_and(|failure| {
            failure.last.class == FailureClass::Cancelled
                && failure.fingerprint.is_some()
                && failure.fingerprint == record.fingerprint
        });
        let checked = edge.family.is_some() || pinned.as_ref().is_none_or(is_checked) && !cancelled;
        // An image of another family that waits may wait forever: its current digest is used. Of
        // one in the same family, only a child that asks for it uses the last verified digest.
        let last_verified = child.on_parent_failure == OnParentFailure::UseLastVerified;
        let has_digest =
            final_state != FinalState::Waiting || edge.family.is_some() || last_verified && checked;
        let rolled_back = record.rollback.is_some();
        // What it is rolled back to has passed the checks of its time.
        let checked = checked || rolled_back;
        Ok(Parent { pinned: pinned.filter(|_| has_digest), final_state, checked, rolled_back })
    }

    /// Checks that an image's digest was built from its current inputs.
    fn lineage(
        &self,
        family: &FamilyView,
        image: &Image,
        record: &ManagedImageStatus,
        text: &str,
        parents: &WantedParents,
    ) -> Result<(), String> {
        let name = repository(&family.spec, image);
        let digest = record.digest.clone().unwrap_or_default();
        let pinned = format!("{name}@{digest}");
        let registry = &self.cluster.registry;
        let Some(content) = registry.content(&pinned) else {
            return Err(format!("{} is current at {digest}, which does not exist", image.name));
        };
        let kept = registry.repositories.get(&name);
        let builds = kept.into_iter().flat_map(|kept| &kept.origins);
        let from_these = builds.filter(|(_, made)| {
            made.iter().any(|made| {
                made.source == text && parents.match_build(made) && made.args == image.args
            })
        });
        let never_spares = family.spec.policy.cutoff == Cutoff::Never;
        // A spared build stays valid when the policy becomes `Never`, because the registry records
        // it.
        let spared_before = |made: &[BuildOrigin]| {
            self.cluster.invariants.history.has_spared(&family.key.name)
                && made.iter().any(|made| {
                    registry.tag(&name, &format!("gs-{}", made.fingerprint)) == Some(&digest)
                })
        };
        let same = |other: &str, made: &[BuildOrigin]| {
            other == digest
                || (!never_spares || spared_before(made))
                    && registry.content(&format!("{name}@{other}")) == Some(content)
        };
        let mut was_built = false;
        for (other, made) in from_these {
            was_built = true;
            if same(other, made) {
                return Ok(());
            }
        }
        let made = registry.origins(&pinned);
        Err(format!(
            "{} is current at {}, which was made from {made:?}, and not from {text:?} and \
             {:?}; a build from these exists: {was_built}",
            image.name,
            short(&digest),
            parents.pinned
        ))
    }
}
