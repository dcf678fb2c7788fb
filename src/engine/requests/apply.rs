//! Applies requests: one method per action. An error says why a request is refused.

use jiff::Timestamp;

use crate::{
    api::{
        ApprovalRecord, CandidateDigest, ManualHold, Request, RequestScope, RequestedAction,
        UpstreamStatus,
    },
    engine::{
        causes::short,
        input::{DecideInput, ObservedDigest},
        requests::{HoldChange, ImageOverrides, RequestEffect, RequestEffects},
    },
    lineage::ImageIndex,
};

impl RequestEffects {
    /// Applies a request.
    pub(super) fn apply(
        &mut self,
        input: &DecideInput<'_>,
        request: &Request,
        now: Timestamp,
    ) -> Result<RequestEffect, String> {
        let hold = |digest: Option<&String>, until: Option<Timestamp>, reason: Option<&String>| {
            ManualHold {
                digest: digest.cloned(),
                until,
                reason: reason.cloned(),
                by: request.by.clone(),
                since: Some(now),
            }
        };
        match &request.action {
            RequestedAction::Trigger(scope) => trigger(input, scope),
            RequestedAction::Retry(scope) => self.retry(input, scope, &request.id),
            RequestedAction::Cancel(scope) => self.cancel(input, scope),
            RequestedAction::Force(scope) => self.force(input, scope, &request.id),
            RequestedAction::HoldImage { image, until, reason } => {
                check_until(*until, now)?;
                self.hold_image(input, image, hold(None, *until, reason.as_ref()))
            }
            RequestedAction::UnholdImage { image } => self.unhold_image(input, image),
            RequestedAction::HoldUpstream { upstream, digest, until, reason } => {
                check_until(*until, now)?;
                let hold = hold(digest.as_ref(), *until, reason.as_ref());
                self.hold_upstream(input, upstream, hold)
            }
            RequestedAction::UnholdUpstream { upstream } => self.unhold_upstream(input, upstream),
            RequestedAction::Approve { upstream, digest } => {
                let by = request.by.clone();
                let approval = ApprovalRecord { digest: digest.clone(), by, at: Some(now) };
                self.approve(input, upstream, approval)
            }
        }
    }

    fn retry(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        request: &str,
    ) -> Result<RequestEffect, String> {
        let starts =
            self.override_images(input, scope, |overrides| overrides.retry = Some(request.into()))?;
        let message =
            format!("the failures of {} are cleared", describe_scope(scope, starts.len()));
        Ok(RequestEffect { message, starts, ..RequestEffect::default() })
    }

    fn cancel(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
    ) -> Result<RequestEffect, String> {
        let cancels = self.override_images(input, scope, |overrides| overrides.cancel = true)?;
        let message = format!(
            "unfinished builds of {} are cancelled until an input changes or you request a retry",
            describe_scope(scope, cancels.len())
        );
        Ok(RequestEffect { message, cancels, ..RequestEffect::default() })
    }

    fn force(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        request: &str,
    ) -> Result<RequestEffect, String> {
        let starts =
            self.override_images(input, scope, |overrides| overrides.nonce = Some(request.into()))?;
        let message = format!("{} is rebuilt", describe_scope(scope, starts.len()));
        Ok(RequestEffect { message, starts, ..RequestEffect::default() })
    }

    fn hold_image(
        &mut self,
        input: &DecideInput<'_>,
        image: &str,
        hold: ManualHold,
    ) -> Result<RequestEffect, String> {
        let index = find_image(input, image)?;
        // A request that is applied again before it is recorded must give the same result.
        let observed = input.images.get(index.position());
        let recorded = observed.and_then(|observed| observed.record?.hold.clone());
        let hold = recorded.filter(|recorded| is_same_hold(recorded, &hold)).unwrap_or(hold);
        self.override_images(input, &RequestScope::Image(image.into()), |overrides| {
            overrides.hold = Some(HoldChange::Set(hold.clone()));
        })?;
        Ok(RequestEffect::only(format!("{image} is held at its current digest")))
    }

    fn unhold_image(
        &mut self,
        input: &DecideInput<'_>,
        image: &str,
    ) -> Result<RequestEffect, String> {
        let index = find_image(input, image)?.position();
        let is_manual = input
            .images
            .get(index)
            .is_some_and(|observed| observed.record.is_some_and(|record| record.hold.is_some()));
        self.override_images(input, &RequestScope::Image(image.into()), |overrides| {
            overrides.hold = Some(HoldChange::End);
        })?;
        let is_in_spec = input.spec.images.get(index).is_some_and(|image| image.hold.is_some());
        Ok(RequestEffect::only(match (is_manual, is_in_spec) {
            (_, true) => format!(
                "{image} is still held by the manifest; remove spec.images[{image}].hold to end \
                 the hold"
            ),
            (true, false) => format!("the hold of {image} has ended"),
            (false, false) => format!("{image} was not held"),
        }))
    }

    fn hold_upstream(
        &mut self,
        input: &DecideInput<'_>,
        upstream: &str,
        hold: ManualHold,
    ) -> Result<RequestEffect, String> {
        let status = self.upstream(input, upstream)?;
        if status.adopted.is_none() && hold.digest.is_none() {
            return Err(format!(
                "{upstream} has no adopted digest yet; set `digest` to the digest to hold it at"
            ));
        }
        let digest = hold
            .digest
            .as_deref()
            .map_or_else(|| "its current digest".to_owned(), |digest| short(digest).to_owned());
        if !status.hold.as_ref().is_some_and(|known| is_same_hold(known, &hold)) {
            status.hold = Some(hold);
        }
        Ok(RequestEffect::only(format!("{upstream} is held at {digest}")))
    }

    fn unhold_upstream(
        &mut self,
        input: &DecideInput<'_>,
        upstream: &str,
    ) -> Result<RequestEffect, String> {
        let is_in_spec = input
            .spec
            .upstreams
            .iter()
            .any(|known| known.name == *upstream && known.hold.is_some());
        let is_manual = self.upstream(input, upstream)?.hold.take().is_some();
        Ok(RequestEffect::only(match (is_manual, is_in_spec) {
            (_, true) => format!(
                "{upstream} is still held by the manifest; remove spec.upstreams[{upstream}].hold \
                 to end the hold"
            ),
            (true, false) => format!("the hold of {upstream} has ended"),
            (false, false) => format!("{upstream} was not held"),
        }))
    }

    fn approve(
        &mut self,
        input: &DecideInput<'_>,
        upstream: &str,
        approval: ApprovalRecord,
    ) -> Result<RequestEffect, String> {
        let digest = approval.digest.as_str();
        let index = input.spec.upstreams.iter().position(|known| known.name == upstream);
        let newest = index
            .and_then(|index| input.upstreams.get(index)?.newest.as_ref())
            .map(ObservedDigest::content);
        let status = self.upstream(input, upstream)?;
        if status.adopted.as_ref().is_some_and(|adopted| adopted.content().names(digest)) {
            return Ok(RequestEffect::only(format!("{} is already adopted", short(digest))));
        }
        let waiting = status.waiting.iter().chain(&status.candidate).map(CandidateDigest::content);
        let candidate = status.candidate.as_ref().map(CandidateDigest::content).or(newest);
        if !newest.into_iter().chain(waiting).any(|known| known.names(digest)) {
            let candidate = candidate.map_or_else(
                || "there is no candidate".to_owned(),
                |candidate| format!("the candidate is {}", candidate.digest),
            );
            return Err(format!(
                "{digest} is not the candidate of {upstream} any more; {candidate}"
            ));
        }
        let message = format!("{} is approved", short(digest));
        if status.approval.as_ref().is_none_or(|known| known.digest != digest) {
            status.approval = Some(approval);
        }
        Ok(RequestEffect::only(message))
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

    /// Changes what requests override for each image of a scope, and returns these images.
    fn override_images(
        &mut self,
        input: &DecideInput<'_>,
        scope: &RequestScope,
        change: impl Fn(&mut ImageOverrides),
    ) -> Result<Vec<ImageIndex>, String> {
        let images = images_of(input, scope)?;
        for image in &images {
            if let Some(overrides) = self.images.get_mut(image.position()) {
                change(overrides);
            }
        }
        Ok(images)
    }
}

impl RequestEffect {
    /// Returns an effect that starts and cancels nothing.
    fn only(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

fn trigger(input: &DecideInput<'_>, scope: &RequestScope) -> Result<RequestEffect, String> {
    let starts = images_of(input, scope)?;
    let message = format!(
        "pending changes of {} start without the quiet time",
        describe_scope(scope, starts.len())
    );
    Ok(RequestEffect { message, starts, starts_pending: true, ..RequestEffect::default() })
}

/// Whether two holds are the same, whenever they were set.
fn is_same_hold(a: &ManualHold, b: &ManualHold) -> bool {
    (&a.digest, a.until, &a.reason, &a.by) == (&b.digest, b.until, &b.reason, &b.by)
}

/// Refuses an end that has passed.
fn check_until(until: Option<Timestamp>, now: Timestamp) -> Result<(), String> {
    match until {
        Some(until) if until <= now => {
            Err(format!("`until` is in the past: it is {until:.0}, and the time is {now:.0}"))
        }
        _ => Ok(()),
    }
}

/// Returns the index of the image with this name.
fn find_image(input: &DecideInput<'_>, image: &str) -> Result<ImageIndex, String> {
    let position = input.spec.images.iter().position(|known| known.name == image);
    position.map(ImageIndex::new).ok_or_else(|| format!("the family has no image `{image}`"))
}

/// Returns the images of a scope.
fn images_of(input: &DecideInput<'_>, scope: &RequestScope) -> Result<Vec<ImageIndex>, String> {
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
fn describe_scope(scope: &RequestScope, images: usize) -> String {
    match scope {
        RequestScope::Family => "the family".into(),
        RequestScope::Image(image) => image.clone(),
        RequestScope::Subtree(image) => format!("{image} and its descendants ({images} images)"),
    }
}
