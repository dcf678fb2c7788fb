//! Labels of the verified build that tags of its image name: they are read once per digest.

use std::sync::Arc;

use crate::{
    api::LabelRecord,
    engine::{
        decision::{Effect, ImageDecision},
        image::evaluation::{ImageEval, Plan},
        input::{LabelAnswer, VerifiedBuild},
    },
    identity::ImageDigest,
};

impl ImageEval<'_> {
    /// Adds the labels that the tags of the image name to its verified build, or has them read.
    /// The tags of an adopted image are not set, so that its labels are not read.
    pub(in crate::engine) fn add_labels(&self, decision: &mut ImageDecision, plan: &mut Plan) {
        let Some(verified) = decision.verified.as_ref() else { return };
        let is_adopted = verified.adopted.is_some();
        let names = if is_adopted { &[][..] } else { self.blueprint.labels.as_slice() };
        if names.is_empty() && verified.labels.is_empty() {
            return;
        }
        let read = select(names, &verified.labels)
            .or_else(|| select(names, self.answered_labels(&verified.digest)));
        if let Some(labels) = read {
            if labels != verified.labels {
                let build = VerifiedBuild::clone(verified);
                decision.verified = Some(Arc::new(VerifiedBuild { labels, ..build }));
            }
            return;
        }
        match &self.observed.labels {
            Some(LabelAnswer::Unread { digest, ask_at, .. })
                if *digest == verified.digest && *ask_at > self.context.now =>
            {
                plan.wake(*ask_at);
            }
            _ => plan.effects.push(Effect::ReadLabels {
                image: self.index,
                digest: verified.digest.clone(),
                names: names.to_vec(),
            }),
        }
    }

    /// Returns the labels of a digest that the registry has answered with.
    fn answered_labels(&self, wanted: &ImageDigest) -> &[LabelRecord] {
        match &self.observed.labels {
            Some(LabelAnswer::Read { digest, labels }) if digest == wanted => labels,
            _ => &[],
        }
    }
}

/// Returns the labels of these names if all of them are known.
fn select(names: &[String], known: &[LabelRecord]) -> Option<Vec<LabelRecord>> {
    let of = |name: &String| known.iter().find(|label| label.name == *name).cloned();
    names.iter().map(of).collect()
}
