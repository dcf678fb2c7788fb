//! Requests that contradict each other: a later one takes precedence over the earlier ones.

use crate::{
    api::{HoldTarget, Request, RequestState, RequestedAction},
    engine::requests::{AppliedRequest, RequestAnswer, RequestEffect, RequestEffects, StartKind},
    lineage::ImageIndex,
};

impl RequestEffects {
    /// A request cancels builds of these images: earlier requests do not start them any more.
    /// Returns whether one of them is replaced.
    pub(super) fn withdraw_starts(&mut self, images: &[ImageIndex], later: &Request) -> bool {
        let mut any = false;
        for effect in self.earlier_effects() {
            let withdrawn = match effect.start {
                StartKind::Queued(first) if effect.replaced.is_none() => {
                    withdraw_queued(first, effect.images, images)
                }
                _ => withdraw(&mut effect.starts, images),
            };
            any |= withdrawn == Withdrawn::Everything;
            withdrawn.replaces(&mut effect.replaced, || {
                format!("the request {} cancels what this one would have started", later.name)
            });
        }
        any
    }

    /// A request starts builds of these images: earlier requests do not cancel them any more.
    pub(super) fn withdraw_cancels(&mut self, images: &[ImageIndex], later: &Request) {
        for effect in self.earlier_effects() {
            withdraw(&mut effect.cancels, images).replaces(&mut effect.replaced, || {
                format!("the request {} starts what this one would have cancelled", later.name)
            });
        }
    }

    /// Ends the earlier holds of an image or upstream, with the state that they get. Returns
    /// whether there were any.
    pub(super) fn end_holds(
        &mut self,
        target: &HoldTarget,
        state: RequestState,
        later: &Request,
    ) -> bool {
        let message = match state {
            RequestState::Superseded => format!("the hold of the request {} applies", later.name),
            _ => format!("the request {} has ended the hold", later.name),
        };
        self.replace_lasting(
            state,
            &message,
            |action| matches!(action, RequestedAction::Hold { target: held, .. } if held == target),
        )
    }

    /// Replaces the earlier approvals of an upstream.
    pub(super) fn replace_approvals(&mut self, upstream: &str, later: &Request) {
        let message = format!("the request {} approves a digest of {upstream}", later.name);
        self.replace_lasting(RequestState::Superseded, &message, |action| {
            matches!(action, RequestedAction::Approve { upstream: of, .. } if of == upstream)
        });
    }

    /// Replaces the earlier requests that last and have such an action. Returns whether there were
    /// any.
    fn replace_lasting(
        &mut self,
        state: RequestState,
        message: &str,
        is_concerned: impl Fn(&RequestedAction) -> bool,
    ) -> bool {
        let mut any = false;
        for AppliedRequest { observed, effect } in &mut self.applied {
            if let (Ok(request), Ok(effect)) = (&observed.request, effect)
                && effect.lasts
                && effect.replaced.is_none()
                && is_concerned(&request.action)
            {
                effect.replaced = Some(RequestAnswer::new(state, message.to_owned()));
                any = true;
            }
        }
        any
    }

    fn earlier_effects(&mut self) -> impl Iterator<Item = &mut RequestEffect> {
        self.applied.iter_mut().filter_map(|applied| applied.effect.as_mut().ok())
    }
}

/// Whether anything is left of what a request starts or cancels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withdrawn {
    AsBefore,
    Everything,
}

impl Withdrawn {
    /// Replaces a request of which nothing is left.
    fn replaces(self, replaced: &mut Option<RequestAnswer>, message: impl Fn() -> String) {
        if self == Self::Everything {
            replaced.get_or_insert_with(|| RequestAnswer::new(RequestState::Superseded, message()));
        }
    }
}

/// Whether a request cancels these images of one that is queued: all of them, or it stays as it
/// is. What is cancelled is an image, an image with its descendants, or the family. So it contains
/// the descendants of each of its images, unless it is a single one.
fn withdraw_queued(
    first: Option<ImageIndex>,
    count: Option<usize>,
    cancelled: &[ImageIndex],
) -> Withdrawn {
    let has_first = first.is_none_or(|first| cancelled.binary_search(&first).is_ok());
    if has_first && count.is_some_and(|count| count <= cancelled.len()) {
        Withdrawn::Everything
    } else {
        Withdrawn::AsBefore
    }
}

/// Removes images from those that a request starts or cancels.
fn withdraw(from: &mut Vec<ImageIndex>, images: &[ImageIndex]) -> Withdrawn {
    let before = from.len();
    from.retain(|image| images.binary_search(image).is_err());
    if before > 0 && from.is_empty() { Withdrawn::Everything } else { Withdrawn::AsBefore }
}
