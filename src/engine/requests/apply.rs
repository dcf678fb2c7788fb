//! Applies requests: one method per action. An error is the state and the message of a request that
//! has no effect.

use jiff::Timestamp;

use crate::{
    api::{
        ApprovalRecord, CandidateDigest, HoldTarget, ManagedImageStatus, ManualHold, Request,
        RequestScope, RequestState, RequestedAction, UpstreamStatus,
    },
    engine::{
        causes::short,
        input::{DecideInput, ObservedDigest, ObservedRequest},
        requests::{
            ImageOverrides, RequestAnswer, RequestEffect, RequestEffects, StartKind,
            rollback::AskedRollback,
        },
    },
    lineage::ImageIndex,
};

pub(super) type Applied = Result<RequestEffect, RequestAnswer>;

impl RequestEffects {
    /// Applies a request.
    pub(super) fn apply(
        &mut self,
        input: &DecideInput<'_>,
        observed: &ObservedRequest,
        request: &Request,
        now: Timestamp,
    ) -> Applied {
        match &request.action {
            RequestedAction::Trigger(scope) => trigger(input, scope),
            RequestedAction::Retry(scope) => self.retry(input, scope, request),
            RequestedAction::Cancel(scope) => self.cancel(input, scope, request),
            RequestedAction::Force(scope) => self.force(input, scope, request),
            RequestedAction::Hold { target, digest, until } => {
                check_until(*until, observed, now)?;
                let hold = ManualHold {
                    digest: digest.clone(),
                    until: *until,
                    reason: request.reason.clone(),
                    by: request.by.clone(),
                    request: request.name.clone(),
                    since: Some(request.created),
                };
                let effect = match target {
                    HoldTarget::Image(image) => self.hold_image(input, observed, image, hold),
                    HoldTarget::Upstream(name) => self.hold_upstream(input, observed, name, hold),
                }?;
                self.end_holds(target, RequestState::Superseded, request);
                Ok(effect)
            }
            RequestedAction::Rollback { scope, digest, rollout } => {
                let asked = AskedRollback { scope, digest, rollout: *rollout };
                self.roll_back(input, observed, request, asked)
            }
            RequestedAction::Unhold(HoldTarget::Image(image)) => {
                self.unhold_image(input, image, request)
            }
            RequestedAction::Unhold(HoldTarget::Upstream(upstream)) => {
                self.unhold_upstream(input, upstream, request)
            }
            RequestedAction::Approve { upstream, digest } => {
                let approval = ApprovalRecord {
                    digest: digest.clone(),
                    by: request.by.clone(),
                    request: request.name.clone(),
                    at: Some(request.created),
                };
                let effect = self.approve(input, observed, upstream, approval)?;
                self.replace_approvals(upstream, request);
                Ok(effect)
            }
        }
    }

    /// Returns the effect of a request that starts builds once earlier ones are done. Later
    /// requests may cancel it.
    pub(super) fn queue(input: &DecideInput<'_>, request: &Request) -> Applied {
        let (RequestedAction::Trigger(scope)
        | RequestedAction::Retry(scope)
        | RequestedAction::Force(scope)) = &request.action
        else {
            return Ok(RequestEffect::default());
        };
        let images = Some(images_of(input, scope)?.len());
        let first = match scope {
            RequestScope::Family => None,
            RequestScope::Image(image) | RequestScope::Subtree(image) => {
                Some(find_image(input, image)?)
            }
        };
        Ok(RequestEffect { start: StartKind::Queued(first), images, ..RequestEffect::default() })
    }

    fn retry(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        request: &Request,
    ) -> Applied {
        let images = images_of(input, scope)?;
        self.restart(input, &images, request, |record, overrides| {
            let retried = record.and_then(|record| record.failure.as_ref()?.retried.as_deref());
            if !retried.is_some_and(|retried| request.is_earlier_than(retried)) {
                overrides.retry = Some(request.nonce());
            }
        });
        let message =
            format!("the failures of {} are cleared", describe_scope(scope, images.len()));
        Ok(RequestEffect { message, ..started(images) })
    }

    fn cancel(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        request: &Request,
    ) -> Applied {
        let cancels = images_of(input, scope)?;
        let withdraws_starts = self.withdraw_starts(&cancels, request);
        self.override_images(&cancels, |_, overrides| {
            (overrides.cancel, overrides.retry, overrides.nonce) = (true, None, None);
        });
        let message = format!(
            "unfinished builds of {} are cancelled until an input changes or you request a retry",
            describe_scope(scope, cancels.len())
        );
        let images = Some(cancels.len());
        let effect = RequestEffect { message, images, withdraws_starts, ..Default::default() };
        Ok(RequestEffect { cancels, ..effect })
    }

    fn force(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        request: &Request,
    ) -> Applied {
        let images = images_of(input, scope)?;
        self.restart(input, &images, request, |record, overrides| {
            // What a later request has forced already is as new as this request wants it.
            let nonce = record.and_then(|record| record.nonce.as_deref());
            if !nonce.is_some_and(|nonce| request.is_earlier_than(nonce)) {
                overrides.nonce = Some(request.nonce());
            }
        });
        let verb = if matches!(scope, RequestScope::Subtree(_)) { "are" } else { "is" };
        let message = format!("{} {verb} rebuilt", describe_scope(scope, images.len()));
        Ok(RequestEffect { message, ..started(images) })
    }

    fn hold_image(
        &mut self,
        input: &DecideInput<'_>,
        observed: &ObservedRequest,
        image: &str,
        hold: ManualHold,
    ) -> Applied {
        let index = match find_image(input, image) {
            Ok(index) => index,
            Err(message) if is_active(observed) => return Ok(RequestEffect::lasting(message)),
            Err(refused) => return Err(refused.into()),
        };
        if let Some(request) = self.rolled_back_by(index) {
            let message = format!(
                "{image} is rolled back and held by the request {request}; end that first: kubectl \
                 family unhold {}/{image}",
                input.family
            );
            // An earlier rollback may have waited for the registry.
            let is_active = is_active(observed);
            let state = if is_active { RequestState::Superseded } else { RequestState::Refused };
            return Err(RequestAnswer::new(state, message));
        }
        let message = format!("{image} is held at its current digest{}", describe_end(hold.until));
        self.override_images(&[index], |_, overrides| overrides.hold = Some(hold.clone()));
        Ok(RequestEffect { images: Some(1), ..RequestEffect::lasting(message) })
    }

    fn unhold_image(&mut self, input: &DecideInput<'_>, image: &str, request: &Request) -> Applied {
        let target = HoldTarget::Image(image.into());
        let is_held = self.end_holds(&target, RequestState::Done, request);
        let is_rolled_back = self.end_rollbacks(image, request);
        let is_manual = is_held || is_rolled_back;
        let index = match find_image(input, image) {
            Ok(index) => index,
            Err(_) if is_manual => return Ok(RequestEffect::only(hold_has_ended(image))),
            Err(refused) => return Err(refused.into()),
        };
        self.override_images(&[index], |_, overrides| overrides.hold = None);
        let specified = input.spec.images.get(index.position());
        let is_in_spec = specified.is_some_and(|image| image.hold.is_some());
        Ok(RequestEffect::only(match (is_manual, is_in_spec) {
            (_, true) => format!(
                "{image} is still held by the manifest; remove spec.images[{image}].hold to end \
                 the hold"
            ),
            (true, false) => hold_has_ended(image),
            (false, false) => format!("{image} was not held"),
        }))
    }

    fn hold_upstream(
        &mut self,
        input: &DecideInput<'_>,
        observed: &ObservedRequest,
        upstream: &str,
        mut hold: ManualHold,
    ) -> Applied {
        let status = match self.upstream(input, upstream) {
            Ok(status) => status,
            Err(message) if is_active(observed) => return Ok(RequestEffect::lasting(message)),
            Err(refused) => return Err(refused.into()),
        };
        let adopted = status.adopted.as_ref().map(|adopted| adopted.digest.clone());
        if adopted.is_none() && hold.digest.is_none() {
            // With the family's status, the digest in use was lost. That of another image or tag
            // says nothing.
            if observed.reference.as_ref() == Some(&status.reference) {
                hold.digest.clone_from(&observed.digest);
            }
            if hold.digest.is_none() && !is_active(observed) {
                return Err(RequestAnswer::from(format!(
                    "{upstream} has no adopted digest yet; set `digest` to the digest to hold it at"
                )));
            }
        }
        let at = hold
            .digest
            .as_deref()
            .map_or_else(|| "its current digest".to_owned(), |digest| short(digest).to_owned());
        let message = format!("{upstream} is held at {at}{}", describe_end(hold.until));
        let digest = hold.digest.clone().or(adopted);
        let reference = Some(status.reference.clone());
        status.hold = Some(hold);
        Ok(RequestEffect { digest, reference, ..RequestEffect::lasting(message) })
    }

    fn unhold_upstream(
        &mut self,
        input: &DecideInput<'_>,
        upstream: &str,
        request: &Request,
    ) -> Applied {
        let target = HoldTarget::Upstream(upstream.into());
        let is_manual = self.end_holds(&target, RequestState::Done, request);
        match self.upstream(input, upstream) {
            Ok(status) => status.hold = None,
            Err(_) if is_manual => return Ok(RequestEffect::only(hold_has_ended(upstream))),
            Err(refused) => return Err(refused.into()),
        }
        let mut upstreams = input.spec.upstreams.iter();
        let is_in_spec = upstreams.any(|known| known.name == *upstream && known.hold.is_some());
        Ok(RequestEffect::only(match (is_manual, is_in_spec) {
            (_, true) => format!(
                "{upstream} is still held by the manifest; remove spec.upstreams[{upstream}].hold \
                 to end the hold"
            ),
            (true, false) => hold_has_ended(upstream),
            (false, false) => format!("{upstream} was not held"),
        }))
    }

    fn approve(
        &mut self,
        input: &DecideInput<'_>,
        observed: &ObservedRequest,
        upstream: &str,
        approval: ApprovalRecord,
    ) -> Applied {
        let index = input.spec.upstreams.iter().position(|known| known.name == upstream);
        let newest = index
            .and_then(|index| input.upstreams.get(index)?.newest.as_ref())
            .map(ObservedDigest::content);
        // The tag may point to another digest by now that builds cannot tell from the approved one.
        let recorded = input.status.upstreams.iter().find(|known| known.name == upstream);
        let renamed = recorded
            .and_then(|recorded| recorded.approval.clone())
            .filter(|recorded| recorded.request == approval.request);
        let approval = renamed.unwrap_or(approval);
        let digest = approval.digest.as_str();
        let status = self.upstream(input, upstream)?;
        if status.adopted.as_ref().is_some_and(|adopted| adopted.content().names(digest)) {
            let message = format!("{} is adopted", short(digest));
            return Err(RequestAnswer::new(RequestState::Done, message));
        }
        let waiting = status.waiting.iter().chain(&status.candidate).map(CandidateDigest::content);
        let candidate = status.candidate.as_ref().map(CandidateDigest::content).or(newest);
        if !newest.into_iter().chain(waiting).any(|known| known.names(digest)) {
            let candidate = candidate.map_or_else(
                || "there is no candidate".to_owned(),
                |candidate| format!("the candidate is {}", candidate.digest),
            );
            let message =
                format!("{digest} is not the candidate of {upstream} any more; {candidate}");
            return Err(match newest {
                None => RequestAnswer::new(
                    RequestState::Waiting,
                    format!("waits until upstream {upstream} is polled"),
                ),
                Some(_) if is_active(observed) => {
                    RequestAnswer::new(RequestState::Superseded, message)
                }
                Some(_) => message.into(),
            });
        }
        let message = format!("{} is approved", short(digest));
        status.approval = Some(approval);
        Ok(RequestEffect::lasting(message))
    }

    /// Returns the status of an upstream of the spec; it is added if it is not recorded yet.
    fn upstream(
        &mut self,
        input: &DecideInput<'_>,
        name: &str,
    ) -> Result<&mut UpstreamStatus, String> {
        let unknown = || format!("the family has no upstream `{name}`");
        let upstream = input.spec.upstreams.iter().find(|upstream| upstream.name == name);
        let upstream = upstream.ok_or_else(unknown)?;
        let recorded = self.upstreams.iter().position(|status| status.name == name);
        let position = recorded.unwrap_or_else(|| {
            self.upstreams.push(UpstreamStatus {
                name: name.into(),
                reference: upstream.reference(),
                ..UpstreamStatus::default()
            });
            self.upstreams.len() - 1
        });
        self.upstreams.get_mut(position).ok_or_else(unknown)
    }

    /// Changes what requests override for each of these images.
    /// Has images built that an earlier request may have cancelled. `change` gets what is recorded
    /// of each.
    fn restart(
        &mut self,
        input: &DecideInput<'_>,
        images: &[ImageIndex],
        request: &Request,
        change: impl Fn(Option<&ManagedImageStatus>, &mut ImageOverrides),
    ) {
        self.withdraw_cancels(images, request);
        self.override_images(images, |index, overrides| {
            overrides.cancel = false;
            change(input.images.get(index.position()).and_then(|image| image.record), overrides);
        });
    }

    pub(super) fn override_images(
        &mut self,
        images: &[ImageIndex],
        change: impl Fn(ImageIndex, &mut ImageOverrides),
    ) {
        for image in images {
            if let Some(overrides) = self.images.get_mut(image.position()) {
                change(*image, overrides);
            }
        }
    }
}

impl RequestEffect {
    /// Returns an effect that starts and cancels nothing.
    fn only(message: String) -> Self {
        Self { message, ..Self::default() }
    }

    /// Returns an effect that lasts as long as the object of the request exists.
    pub(super) fn lasting(message: String) -> Self {
        Self { message, lasts: true, ..Self::default() }
    }
}

/// Returns the effect of a request that starts these images.
fn started(starts: Vec<ImageIndex>) -> RequestEffect {
    RequestEffect { images: Some(starts.len()), starts, ..RequestEffect::default() }
}

fn trigger(input: &DecideInput<'_>, scope: &RequestScope) -> Applied {
    let images = images_of(input, scope)?;
    let message = format!(
        "pending changes of {} start without the quiet time",
        describe_scope(scope, images.len())
    );
    Ok(RequestEffect { message, start: StartKind::Pending, ..started(images) })
}

/// Whether the request has had effect before.
pub(super) fn is_active(observed: &ObservedRequest) -> bool {
    observed.state == Some(RequestState::Active)
}

/// Ends a hold whose end has passed, and refuses one that would begin after its end.
fn check_until(
    until: Option<Timestamp>,
    observed: &ObservedRequest,
    now: Timestamp,
) -> Result<(), RequestAnswer> {
    match until {
        Some(until) if until <= now && is_active(observed) => {
            Err(RequestAnswer::new(RequestState::Done, format!("the hold ended at {until:.0}")))
        }
        Some(until) if until <= now => {
            Err(format!("`until` is in the past: it is {until:.0}, and the time is {now:.0}")
                .into())
        }
        _ => Ok(()),
    }
}

fn describe_end(until: Option<Timestamp>) -> String {
    until.map_or_else(String::new, |until| format!(" until {until:.0}"))
}

fn hold_has_ended(name: &str) -> String {
    format!("the hold of {name} has ended")
}

/// Returns the index of the image with this name.
pub(super) fn find_image(input: &DecideInput<'_>, image: &str) -> Result<ImageIndex, String> {
    let position = input.spec.images.iter().position(|known| known.name == image);
    position.map(ImageIndex::new).ok_or_else(|| format!("the family has no image `{image}`"))
}

/// Returns the images of a scope, sorted.
pub(super) fn images_of(
    input: &DecideInput<'_>,
    scope: &RequestScope,
) -> Result<Vec<ImageIndex>, String> {
    Ok(match scope {
        RequestScope::Family => ImageIndex::range(input.spec.images.len()).collect(),
        RequestScope::Image(image) => vec![find_image(input, image)?],
        RequestScope::Subtree(image) => {
            let mask = input.lineage().with_descendants([find_image(input, image)?]);
            ImageIndex::enumerate(mask)
                .filter_map(|(index, is_in)| is_in.then_some(index))
                .collect()
        }
    })
}

/// Returns a scope of this many images as messages show it.
pub(super) fn describe_scope(scope: &RequestScope, images: usize) -> String {
    match scope {
        RequestScope::Family => "the family".into(),
        RequestScope::Image(image) => image.clone(),
        RequestScope::Subtree(image) => format!("{image} and its descendants ({images} images)"),
    }
}
