//! The changes that no running cascade builds: which of them may start a cascade of their own now,
//! and which wait for a running one.
//!
//! A change touches the images that are built on it, and everything below them. It waits for a
//! running cascade only if it touches an image on which that cascade still works, or one below. An
//! image is worked on until its result is recorded: from then on another cascade may have it.

use std::collections::HashMap;

use crate::{
    api::{
        FailureClass, Image, ImageState, ManagedImageStatus, Supersede, UpstreamStatus,
        condition::Reason,
    },
    engine::{
        cascade::CascadeContext,
        decision::ImageDecision,
        fingerprint::Hasher,
        image::evaluation::{Evaluation, ReadyBuild},
        input::ObservedCascade,
        upstreams::eligible,
    },
    lineage::{ImageIndex, UpstreamIndex},
};

/// Upper bound on the cascades of one family that run at the same time. What comes then waits for
/// one of them to end.
const MAX_RUNNING: usize = 16;

/// The changes that no running cascade builds.
#[derive(Debug, Default)]
pub struct Changes {
    /// The upstreams whose candidates may be adopted now.
    pub upstreams: Vec<UpstreamIndex>,
    /// The builds that are ready, and may start a cascade now.
    pub ready: Vec<ReadyBuild>,
    /// The images that a running cascade has left to the next one, which may start now.
    pub left: Vec<ImageIndex>,
    /// The images that have failed, and that a cascade which starts now tries again.
    pub failed: Vec<ImageIndex>,
    /// The upstreams whose candidates wait for running cascades, each with the positions of those
    /// whose images it touches.
    pub waiting: Vec<(UpstreamIndex, Vec<usize>)>,
    /// The positions of the running cascades for which any change waits.
    pub awaited: Vec<usize>,
    /// The positions of the running cascades that candidates end once they have settled.
    pub superseded: Vec<usize>,
    /// Whether what waits may only wait until results are recorded.
    pub awaits_records: bool,
    /// The digests that builds would use of all candidates that may be adopted.
    candidates: Vec<Change>,
    /// The fingerprints that are wanted and belong to no running cascade.
    wanted: Vec<Change>,
}

/// A digest or a fingerprint that images are to be built from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    text: String,
    wait: ChangeWait,
}

/// Whether a change may start a cascade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeWait {
    None,
    /// It ends the running cascades that it touches once it has settled.
    Supersedes,
    /// It touches no running cascade, and waits for a place, or for a candidate that goes first.
    ForPlace,
    /// It touches a running cascade that it does not end.
    ForCascade,
}

impl ChangeWait {
    /// Returns what a candidate waits for that waits, given the running cascades that it touches
    /// and those of them that it supersedes.
    const fn of_waiting(touched: &[usize], superseded: &[usize]) -> Self {
        match (touched, superseded) {
            ([], _) => Self::ForPlace,
            (_, []) => Self::ForCascade,
            _ => Self::Supersedes,
        }
    }
}

impl From<bool> for ChangeWait {
    fn from(waits: bool) -> Self {
        if waits { Self::ForCascade } else { Self::None }
    }
}

impl Changes {
    /// Finds the changes, and takes the builds that may start a cascade of their own out of the
    /// plan. A ready build that touches images of a running cascade joins the newest of these.
    pub fn find(
        context: &CascadeContext<'_>,
        upstreams: &[UpstreamStatus],
        evaluation: &mut Evaluation,
    ) -> Self {
        let mut busy = BusyImages::of(context, evaluation);
        let candidates = candidates(context, upstreams, &busy);
        busy.reserve(context, &candidates);
        let mut changes = Self::default();
        changes.add_candidates(context, candidates, &busy);
        changes.add_left(evaluation, &busy);
        changes.take_ready(context, evaluation, &busy);
        changes.add_failed(evaluation, &busy);
        changes.awaits_records = busy.awaits_records;
        for positions in [&mut changes.awaited, &mut changes.superseded] {
            positions.sort_unstable();
            positions.dedup();
        }
        changes
    }

    fn add_candidates(
        &mut self,
        context: &CascadeContext<'_>,
        candidates: Vec<Candidate<'_>>,
        busy: &BusyImages,
    ) {
        for Candidate { upstream, status, touched } in candidates {
            let children = context.input.lineage().upstream_children(upstream).iter().copied();
            let waits = !touched.is_empty() || busy.keeps_waiting(children);
            let superseded = superseded_by(context, &touched);
            let wait =
                if waits { ChangeWait::of_waiting(&touched, superseded) } else { ChangeWait::None };
            let candidate = status.candidate.iter();
            let digests = candidate.flat_map(|candidate| candidate.content().built());
            self.candidates.extend(digests.map(|digest| Change { text: digest.to_owned(), wait }));
            if waits {
                self.await_any(&touched, busy);
                self.superseded.extend(superseded);
                self.waiting.push((upstream, touched));
            } else {
                self.upstreams.push(upstream);
            }
        }
    }

    fn add_left(&mut self, evaluation: &Evaluation, busy: &BusyImages) {
        let images = ImageIndex::enumerate(&evaluation.images);
        for (image, decided) in images.filter(|(_, image)| image.reason == Reason::NextCascade) {
            let touched = busy.touched([image]);
            let waits = !touched.is_empty() || busy.keeps_waiting([image]);
            self.want(decided, ChangeWait::from(waits));
            if waits {
                self.await_any(&touched, busy);
            } else {
                self.left.push(image);
            }
        }
    }

    /// Notes that something waits for these cascades, and for all of them if no other may start.
    fn await_any(&mut self, touched: &[usize], busy: &BusyImages) {
        self.awaited.extend(touched);
        if busy.is_full() {
            self.awaited.extend(0..busy.running);
        }
    }

    fn take_ready(
        &mut self,
        context: &CascadeContext<'_>,
        evaluation: &mut Evaluation,
        busy: &BusyImages,
    ) {
        let requests = context.request_effects;
        let is_requested =
            |image| requests.start.contains(&image) || requests.start_pending.contains(&image);
        let ready = std::mem::take(&mut evaluation.plan.ready_builds);
        for mut build in ready {
            let image = build.build.image;
            if context.members.position_of(image).is_some() {
                evaluation.plan.ready_builds.push(build);
                continue;
            }
            let newest = busy.touched([image]).last().copied();
            if let Some(cascade) = newest.and_then(|newest| context.input.cascades.get(newest)) {
                build.build.identity.cascade = cascade.name.clone();
                evaluation.plan.ready_builds.push(build);
                continue;
            }
            let waits = busy.is_full() || busy.keeps_waiting([image]) && !is_requested(image);
            let Some(decided) = evaluation.images.get_mut(image.position()) else { continue };
            self.want(decided, ChangeWait::from(waits));
            if waits {
                self.await_any(&[], busy);
                decided.reason = Reason::Cascading;
                decided.message = "waits until a running cascade has ended".into();
            } else {
                self.ready.push(build);
            }
        }
    }

    fn want(&mut self, image: &ImageDecision, wait: ChangeWait) {
        let wanted = image.fingerprint.as_ref();
        self.wanted.extend(wanted.map(|wanted| Change { text: wanted.to_string(), wait }));
    }

    /// Every cascade retries what has failed, unless a user has cancelled it, and goes on with what
    /// waits for the end of an outage.
    fn add_failed(&mut self, evaluation: &Evaluation, busy: &BusyImages) {
        let has_failed = |image: &ImageDecision| {
            let failure = image.failure.as_ref();
            matches!(image.state, ImageState::Failed | ImageState::Queued)
                && failure.is_some_and(|failure| failure.last.class != FailureClass::Cancelled)
        };
        let failed = ImageIndex::enumerate(&evaluation.images)
            .filter(|(_, image)| has_failed(image))
            .map(|(index, _)| index);
        let may_start =
            |image: ImageIndex| busy.touched([image]).is_empty() && !busy.keeps_waiting([image]);
        self.failed = failed.filter(|image| may_start(*image)).collect();
    }

    /// Whether nothing may start a cascade now.
    #[must_use]
    pub const fn none_may_start(&self) -> bool {
        self.upstreams.is_empty() && self.ready.is_empty() && self.left.is_empty()
    }

    /// Whether no change waits, neither for a running cascade nor to start one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.candidates.is_empty() && self.wanted.is_empty()
    }

    /// Returns the images from which a cascade that starts now begins, except for what has failed.
    pub(super) fn roots<'a>(
        &'a self,
        context: &'a CascadeContext<'_>,
    ) -> impl Iterator<Item = ImageIndex> + 'a {
        let lineage = context.input.lineage();
        let upstreams = self.upstreams.iter();
        let moved = upstreams.flat_map(|upstream| lineage.upstream_children(*upstream)).copied();
        let ready = self.ready.iter().map(|ready| ready.build.image);
        moved.chain(ready).chain(self.left.iter().copied())
    }

    /// Whether any candidate may be adopted, now or once a running cascade allows it.
    #[must_use]
    pub const fn has_candidate(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Whether any change waits for a running cascade.
    #[must_use]
    pub fn any_waits(&self) -> bool {
        let mut changes = self.candidates.iter().chain(&self.wanted);
        changes.any(|change| change.wait != ChangeWait::None)
    }

    /// Whether all changes wait until running cascades have built what they have in common with
    /// them: none may start, and none ends these cascades.
    #[must_use]
    pub const fn all_wait(&self) -> bool {
        self.none_may_start() && self.superseded.is_empty()
    }

    /// Returns a hash of what may start now, or else of what waits. A new value restarts the quiet
    /// time. If candidates end running cascades once they have settled, it is that of all
    /// candidates except those that wait for other cascades: nothing else delays that.
    #[must_use]
    pub fn hash(&self) -> String {
        if !self.superseded.is_empty() {
            return self.hash_of_candidates();
        }
        let waits = self.none_may_start();
        let is_part = |change: &Change| (change.wait != ChangeWait::None) == waits;
        hash(&self.candidates, &self.wanted, is_part)
    }

    /// Returns a hash of what waits for running cascades.
    #[must_use]
    pub fn hash_of_waiting(&self) -> String {
        hash(&self.candidates, &self.wanted, |change| change.wait != ChangeWait::None)
    }

    /// Returns the hash that was recorded if exactly these candidates superseded a cascade.
    #[must_use]
    pub fn hash_of_candidates(&self) -> String {
        hash(&self.candidates, &[], |change| change.wait != ChangeWait::ForCascade)
    }
}

/// Returns the running cascades that a candidate ends once it has settled, of those whose images it
/// touches: with `policy.supersede: Cancel` all of them, or none if it has to wait for any.
///
/// A cascade that has replaced another one runs to completion, so that images are built however
/// fast an upstream moves.
fn superseded_by<'t>(context: &CascadeContext<'_>, touched: &'t [usize]) -> &'t [usize] {
    let input = context.input;
    let may_end = |position: &usize| {
        input.cascades.get(*position).is_some_and(|cascade| cascade.supersedes.is_none())
    };
    let cancels = input.spec.policy.supersede == Supersede::Cancel;
    if cancels && touched.iter().all(may_end) { touched } else { &[] }
}

/// Hashes changes: the candidates' digests and the fingerprints that are wanted.
fn hash(candidates: &[Change], wanted: &[Change], is_part: impl Fn(&Change) -> bool) -> String {
    let add = |hasher: Hasher, changes: &[Change]| {
        let changes = changes.iter().filter(|change| is_part(change));
        let texts: Vec<&str> = changes.map(|change| change.text.as_str()).collect();
        hasher.texts(texts)
    };
    add(add(Hasher::new("change"), candidates), wanted).hex()
}

/// A candidate that may be adopted as far as its upstream says.
struct Candidate<'a> {
    upstream: UpstreamIndex,
    status: &'a UpstreamStatus,
    /// The positions of the cascades that still work on its images or below.
    touched: Vec<usize>,
}

fn candidates<'a>(
    context: &CascadeContext<'_>,
    upstreams: &'a [UpstreamStatus],
    busy: &BusyImages,
) -> Vec<Candidate<'a>> {
    let eligible = UpstreamIndex::enumerate(upstreams).filter(|(_, status)| eligible(status));
    let found = eligible.map(|(upstream, status)| {
        let children = context.input.lineage().upstream_children(upstream).iter().copied();
        Candidate { upstream, status, touched: busy.touched(children) }
    });
    found.collect()
}

/// For each image, the cascades that still work on it or on what is built on it.
struct BusyImages {
    /// One bit per running cascade, parallel to `spec.images`. Empty if no cascade runs.
    below: Vec<u64>,
    /// How many cascades run.
    running: usize,
    /// Whether each image, or one below it, is touched by a candidate that has waited for too long,
    /// parallel to `spec.images`. Empty if there is none.
    reserved: Vec<bool>,
    /// Whether any image has a result that is not recorded yet.
    awaits_records: bool,
}

impl BusyImages {
    /// Finds them in O(images + edges).
    fn of(context: &CascadeContext<'_>, evaluation: &Evaluation) -> Self {
        let running = context.input.cascades.len();
        if running == 0 {
            let (below, reserved) = (Vec::new(), Vec::new());
            return Self { below, running, reserved, awaits_records: false };
        }
        let lineage = context.input.lineage();
        let (mut worked_on, mut awaits_records) = (Vec::new(), false);
        let results: Vec<Results<'_>> = context.input.cascades.iter().map(results).collect();
        let observed = context.input.spec.images.iter().zip(&context.input.images);
        for (index, ((image, observed), decided)) in
            ImageIndex::enumerate(observed.zip(&evaluation.images))
        {
            let cascade = context.members.position_of(index);
            let Some(results) = cascade.and_then(|cascade| results.get(cascade)) else { continue };
            if decided.in_progress {
                worked_on.push(index);
            } else if !is_recorded(results, image, observed.record, decided) {
                worked_on.push(index);
                awaits_records = true;
            }
        }
        let busy = lineage.with_descendants(worked_on);
        let mut below = vec![0; busy.len()];
        for &image in lineage.order().iter().rev() {
            let is_busy = busy.get(image.position()) == Some(&true);
            let own = context.members.position_of(image).filter(|_| is_busy).map_or(0, bit);
            let children = lineage.children(image).iter();
            let bits =
                children.filter_map(|child| below.get(child.position())).fold(own, |a, b| a | b);
            if let Some(place) = below.get_mut(image.position()) {
                *place = bits;
            }
        }
        Self { below, running, reserved: Vec::new(), awaits_records }
    }

    /// Keeps the images of upstreams that have waited for as long as `maxSettle` from cascades that
    /// start later. Otherwise an upstream of many images could wait for ever, while a cascade of
    /// one of them follows another. It has waited since its first candidate, so that one that moves
    /// often is not put off by its own moves.
    fn reserve(&mut self, context: &CascadeContext<'_>, candidates: &[Candidate<'_>]) {
        let lineage = context.input.lineage();
        let max_settle = context.input.spec.policy.max_settle.signed();
        let is_overdue = |candidate: &&Candidate<'_>| {
            let outdated_since = candidate.status.outdated_since;
            !candidate.touched.is_empty()
                && outdated_since.is_none_or(|at| {
                    at.saturating_add(max_settle).is_ok_and(|due| due <= context.now)
                })
        };
        let overdue: Vec<&Candidate<'_>> = candidates.iter().filter(is_overdue).collect();
        if overdue.is_empty() {
            return;
        }
        let children = overdue.iter().flat_map(|of| lineage.upstream_children(of.upstream));
        let mut reserved = lineage.with_descendants(children.copied());
        for &image in lineage.order().iter().rev() {
            let mut children = lineage.children(image).iter();
            let any = children.any(|child| reserved.get(child.position()) == Some(&true));
            if let Some(is_reserved) = reserved.get_mut(image.position()) {
                *is_reserved |= any;
            }
        }
        self.reserved = reserved;
    }

    /// Whether no further cascade may start.
    const fn is_full(&self) -> bool {
        self.running >= MAX_RUNNING
    }

    /// Whether a change that begins with these images waits, although it touches no running
    /// cascade.
    fn keeps_waiting(&self, roots: impl IntoIterator<Item = ImageIndex>) -> bool {
        let is_reserved = |root: ImageIndex| self.reserved.get(root.position()) == Some(&true);
        self.is_full() || roots.into_iter().any(is_reserved)
    }

    /// Returns the positions of the cascades that work on these images or below, the newest last.
    fn touched(&self, roots: impl IntoIterator<Item = ImageIndex>) -> Vec<usize> {
        let roots = roots.into_iter().filter_map(|root| self.below.get(root.position()));
        let bits = roots.fold(0, |a, b| a | b);
        (0..self.running).filter(|position| bits & bit(*position) != 0).collect()
    }
}

/// What the records of running cascades say of their images, by name: `None` of those that are
/// planned and not listed yet.
type Results<'a> = HashMap<&'a str, Option<ImageState>>;

/// Returns what the record of a running cascade says.
fn results<'a>(cascade: &'a ObservedCascade<'_>) -> Results<'a> {
    let planned = cascade.planned.iter().flatten().map(|name| (name.as_str(), None));
    let listed = cascade.status.images.iter();
    planned.chain(listed.map(|result| (result.name.as_str(), Some(result.state)))).collect()
}

/// Whether the state and the digest of an image are recorded, by itself and by its cascade.
fn is_recorded(
    results: &Results<'_>,
    image: &Image,
    record: Option<&ManagedImageStatus>,
    decided: &ImageDecision,
) -> bool {
    let digest = decided.verified.as_ref().map(|verified| verified.digest.as_str());
    record.is_some_and(|record| record.state == decided.state && record.digest.as_deref() == digest)
        && results.get(image.name.as_str()).is_none_or(|state| *state == Some(decided.state))
}

/// Returns the bit of a running cascade. The last one stands for all beyond.
fn bit(position: usize) -> u64 {
    1 << position.min(63)
}
