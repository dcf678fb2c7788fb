//! The digest that a build reports: the container of the builder writes the digest that it has
//! pushed into its termination message. The controller compares it with what the registry has.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};

use crate::{
    builds::{
        job::PREPARE,
        outcome::{
            own::{OwnContainers, OwnEnd},
            pod,
        },
        own_containers::OwnTemplate,
    },
    identity::ImageDigest,
};

/// How a digest begins in a message.
const PREFIX: &str = "sha256:";
/// Number of hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// What the pod of a build reports to have pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushReport {
    /// This digest.
    Pushed(ImageDigest),
    /// The pod has ended and reports no digest, or several.
    Nothing,
    /// No pod is known to have ended.
    Unknown,
}

impl PushReport {
    /// Reads the report of a build. `pods` are the pods that its Job controls, in any order. A
    /// container that has failed reports nothing, and neither does a pod that does not run the
    /// containers of the Job's template.
    #[must_use]
    pub fn of(job: &Job, pods: &[Pod]) -> Self {
        let own = OwnContainers::of(job);
        let has_succeeded =
            |pod: &&Pod| pod::phase(pod) == "Succeeded" || own.end(pod) == OwnEnd::Succeeded;
        let template = OwnTemplate::of(job);
        let is_ours = |pod: &&Pod| template.difference(pod).is_none();
        let ended: Vec<&Pod> = pods.iter().filter(has_succeeded).filter(is_ours).collect();
        if ended.is_empty() {
            return Self::Unknown;
        }
        let statuses = ended.iter().filter_map(|pod| pod.status.as_ref());
        let messages =
            statuses.flat_map(|status| own.terminated(status)).filter_map(|(container, ended)| {
                let is_builder = container.name != PREPARE && ended.exit_code == 0;
                ended.message.as_deref().filter(|_| is_builder)
            });
        let mut digests: Vec<&str> = messages.flat_map(digests_in).collect();
        digests.sort_unstable();
        digests.dedup();
        match digests[..] {
            [digest] => Self::Pushed(digest.into()),
            _ => Self::Nothing,
        }
    }

    /// Returns the digest, if there is one.
    #[must_use]
    pub fn digest(self) -> Option<ImageDigest> {
        match self {
            Self::Pushed(digest) => Some(digest),
            Self::Nothing | Self::Unknown => None,
        }
    }
}

/// Returns the digests in a message.
fn digests_in(message: &str) -> impl Iterator<Item = &str> {
    message.match_indices(PREFIX).filter_map(|(start, _)| {
        let end = start + PREFIX.len() + DIGITS;
        let digest = message.get(start..end)?;
        let is_hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let digits = digest.as_bytes().get(PREFIX.len()..)?;
        let is_longer = message.as_bytes().get(end).is_some_and(u8::is_ascii_hexdigit);
        (digits.iter().all(is_hexadecimal) && !is_longer).then_some(digest)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns a container that has ended.
    fn ended(name: &str, code: i32, message: &str) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "message": message}}})
    }

    /// Returns the report of a pod whose containers have ended like this.
    fn report(phase: &str, containers: &[Value]) -> PushReport {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"annotations": {"groundswell.dev/containers": "prepare,build,second"}},
            "spec": {"template": {"spec": {
                "initContainers": [{"name": "prepare"}],
                "containers": [{"name": "build"}, {"name": "second"}, {"name": "foreign"}],
            }}},
        }))
        .expect("a Job");
        let status = json!({"phase": phase, "containerStatuses": containers});
        let pod: Pod = serde_json::from_value(json!({"status": status})).expect("a pod");
        PushReport::of(
            &job,
            &[Pod { spec: job.spec.clone().expect("a spec").template.spec, ..pod }],
        )
    }

    #[test]
    fn the_builder_reports_one_digest() {
        let (one, two) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{:064}", 2));
        let pushed = || PushReport::Pushed(one.as_str().into());
        for (message, expected) in [
            (one.clone(), pushed()),
            (format!("{one}\n"), pushed()),
            (format!("pushed registry.example.com/app@{one} in 3 s\n{one}"), pushed()),
            (format!("{one} {two}"), PushReport::Nothing),
            (String::new(), PushReport::Nothing),
            ("sha256:abc".into(), PushReport::Nothing),
            (format!("{one}0"), PushReport::Nothing),
            (one.to_uppercase(), PushReport::Nothing),
            (format!("sha256:{}", "é".repeat(40)), PushReport::Nothing),
        ] {
            let containers = [ended("build", 0, &message), ended("second", 0, "")];
            assert_eq!(report("Succeeded", &containers), expected, "{message}");
            assert_eq!(report("Running", &containers), expected, "a foreign container runs on");
        }
    }

    #[test]
    fn a_pod_whose_image_somebody_has_changed_reports_nothing() {
        let message = format!("sha256:{}", "a".repeat(64));
        let template = |image: &str| json!({"containers": [{"name": "build", "image": image}]});
        let job = json!({"spec": {"template": {"spec": template("builder")}}});
        let job: Job = serde_json::from_value(job).expect("a Job");
        let reported = |image: &str| {
            let status =
                json!({"phase": "Succeeded", "containerStatuses": [ended("build", 0, &message)]});
            let pod = json!({"spec": template(image), "status": status});
            PushReport::of(&job, &[serde_json::from_value(pod).expect("a pod")])
        };
        assert_eq!(reported("builder"), PushReport::Pushed(message.as_str().into()));
        assert_eq!(reported("evil"), PushReport::Unknown);
    }

    #[test]
    fn no_other_container_reports_one() {
        let one = format!("sha256:{}", "a".repeat(64));
        let second = || ended("second", 0, "");
        for other in ["prepare", "foreign"] {
            let containers = [ended(other, 0, &one), ended("build", 0, ""), second()];
            assert_eq!(report("Succeeded", &containers), PushReport::Nothing, "{other}");
        }
        let failed = [ended("build", 1, &one), second()];
        assert_eq!(report("Failed", &failed), PushReport::Unknown);
        assert_eq!(report("Running", &[ended("build", 0, &one)]), PushReport::Unknown);
        assert_eq!(PushReport::of(&Job::default(), &[]), PushReport::Unknown);
    }
}
