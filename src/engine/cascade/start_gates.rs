//! The list of gates that every start goes through, of a build or of a check: suspension, windows,
//! the pulls that registries allow, the breaker, outages, and the limits of what runs. Each says
//! why it is closed and when it opens, if that is known.

use jiff::Timestamp;

use crate::{
    api::condition::Reason,
    engine::{
        Problem,
        cascade::{
            CascadeContext,
            admission::FreeCapacity,
            breaker_gates::{BreakerGates, build_cause},
            gates,
            outages::{OutageGates, OutageTurn},
            windows::WindowState,
        },
        decision::{ImageDecision, PlannedBuild},
        image::evaluation::{Evaluation, ReadyCheck},
    },
    lineage::{ImageIndex, Parent},
};

/// A build or a check that has all of its inputs.
#[derive(Clone, Debug)]
pub(super) enum ReadyStart {
    Build(PlannedBuild),
    Check(ReadyCheck),
}

impl ReadyStart {
    /// Returns the image that the start is for.
    pub const fn image(&self) -> ImageIndex {
        match self {
            Self::Build(build) => build.image,
            Self::Check(check) => check.image,
        }
    }

    /// Whether a user caused it.
    pub const fn is_user_caused(&self) -> bool {
        match self {
            Self::Build(build) => build.identity.user_caused,
            Self::Check(check) => check.user_caused,
        }
    }
}

/// A gate that is closed for a build or a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClosedGate {
    /// Why it is closed.
    pub problem: Problem,
    /// When it opens, if that does not depend on an event.
    pub opens: Option<Timestamp>,
    /// Whether it opens when an outage is over.
    pub is_outage: bool,
}

impl ClosedGate {
    /// Returns a gate that is closed for this reason, and opens at this time.
    pub const fn new(reason: Reason, message: String, opens: Option<Timestamp>) -> Self {
        Self { problem: Problem { reason, message }, opens, is_outage: false }
    }
}

/// The gates of one decision. What has passed them counts for what comes after it.
pub(super) struct StartGates<'a> {
    context: &'a CascadeContext<'a>,
    breakers: BreakerGates<'a>,
    outages: OutageGates<'a>,
    capacity: FreeCapacity,
}

impl<'a> StartGates<'a> {
    pub fn new(context: &'a CascadeContext<'a>, evaluation: &Evaluation) -> Self {
        Self {
            context,
            breakers: BreakerGates::new(context, evaluation),
            outages: OutageGates::new(context.input, &evaluation.images, context.now),
            capacity: FreeCapacity::new(context.input, context.now),
        }
    }

    /// Sorts starts, so that those of an outage come last, and the one first that has waited
    /// longest.
    pub fn sort(&self, starts: &mut [ReadyStart], images: &[ImageDecision]) {
        starts.sort_by_key(|start| match start {
            ReadyStart::Build(PlannedBuild { image, .. }) => {
                images.get(image.position()).map_or(OutageTurn::Unaffected, |decided| {
                    self.outages.turn(self.context.input, *image, decided)
                })
            }
            ReadyStart::Check(_) => OutageTurn::Unaffected,
        });
    }

    /// Lets a start pass, or returns the first gate that is closed for it.
    pub fn pass(&mut self, start: &ReadyStart, image: &ImageDecision) -> Result<(), ClosedGate> {
        self.suspension()?;
        self.window()?;
        match start {
            ReadyStart::Build(build) => {
                let input = self.context.input;
                self.pulls(build.image)?;
                let cause = build_cause(input, build.image, image);
                self.breakers.check(&cause)?;
                self.outages.check(input, build.image, image)?;
                self.capacity.reserve(start)?;
                self.breakers.admit(&cause);
                self.outages.admit(input, build.image);
                Ok(())
            }
            ReadyStart::Check(_) => self.capacity.reserve(start),
        }
    }

    fn suspension(&self) -> Result<(), ClosedGate> {
        if self.context.input.spec.suspend {
            return Err(ClosedGate::new(Reason::Suspended, "spec.suspend is set".into(), None));
        }
        Ok(())
    }

    /// Closed while the registry of an upstream of the image serves no pulls. The builder would get
    /// the same response as the controller.
    fn pulls(&self, image: ImageIndex) -> Result<(), ClosedGate> {
        let CascadeContext { input, now, .. } = *self.context;
        let upstreams = input.lineage().parents(image).iter().filter_map(|parent| match parent {
            Parent::Upstream(upstream) => Some(upstream.position()),
            Parent::Image(_) | Parent::Import(_) => None,
        });
        let limited = upstreams.filter_map(|position| {
            let resume_at = input.upstreams.get(position)?.pulls_resume_at?;
            Some((resume_at, input.spec.upstreams.get(position)?))
        });
        let last = limited.filter(|(at, _)| *at > now).max_by_key(|(at, _)| *at);
        last.map_or(Ok(()), |(at, upstream)| {
            // Every poll may prolong the pause: with its end the message would change each time.
            let message = format!(
                "the registry of upstream {} limits pulls, and none is left; the build starts when \
                 the registry allows more",
                upstream.name,
            );
            Err(ClosedGate::new(Reason::PullsLimited, message, Some(at)))
        })
    }

    fn window(&self) -> Result<(), ClosedGate> {
        match self.context.window {
            WindowState::Closed { opens } => {
                let message = gates::window_closed_message(opens);
                Err(ClosedGate::new(Reason::WindowClosed, message, opens))
            }
            WindowState::Unrestricted | WindowState::Open { .. } => Ok(()),
        }
    }
}
