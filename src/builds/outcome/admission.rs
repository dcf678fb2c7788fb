//! Rejections of Jobs and of their pods: by the API server, a quota, a policy or a node. Pure.
//!
//! What is not admitted now may be admitted later, without a change of the image: a quota has room
//! again, or somebody mends the policy. Such a Job waits, and counts as no attempt.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodStatus},
};
use kube::core::Status;

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{Problem, Reason, shorten},
    },
    builds::{
        outcome::{
            events::PodEvent,
            failure,
            message::{Keep, sanitize},
            own::OwnContainers,
        },
        pod_settings::amount,
    },
};

/// Maximum number of characters of a rejection that are quoted. What to do follows the quotation,
/// and must not be cut off.
const MAX_QUOTE: usize = 320;
/// The reason of the Event of a Job whose pod cannot be created.
const FAILED_CREATE: &str = "FailedCreate";
/// What the message of such an Event begins with.
const ERROR_CREATING: &str = "Error creating: ";
/// What the API server says before the name of a quota that has no room.
const EXCEEDED_QUOTA: &str = "exceeded quota: ";
/// Maximum number of characters of a name or a quantity in a sentence of our own.
const MAX_WORD: usize = 64;
/// How a webhook's own answer begins. It may be of the same form as the API server's.
const WEBHOOK_ANSWER: &str = "admission webhook ";
/// How the API server says that a webhook cannot take part in a dry run.
const NO_DRY_RUN: &str = "does not support dry run";
/// Reasons of failed pods that were admitted to their nodes: they were evicted, preempted or lost.
const ADMITTED_PODS: [&str; 6] =
    ["", "DeadlineExceeded", "NodeLost", "Preempting", "Evicted", "Terminated"];

/// Why the API server does not accept a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRejection {
    /// Something is in the way that may change without the family and the strategy. The Job waits.
    NotNow(Problem),
    /// The Job cannot be used. The image has failed, on the retry budget of the class.
    Failed(BuildFailure),
}

/// Who rejects a Job or a pod, as it is recognized in the text of the rejection.
struct Rejecter {
    /// Parts of the text in lower case, of which one is enough.
    words: &'static [&'static str],
    reason: Reason,
    to_do: &'static str,
}

/// Who rejects Jobs and pods. The first one that is recognized counts.
const REJECTERS: [Rejecter; 8] = [
    Rejecter {
        words: &["failed quota: "],
        reason: Reason::JobRefused,
        to_do: "set what the quota demands: for the builder in the strategy (`cpuLimit` of the \
                shipped ones), for `prepare`, `credentials` and checks with the values `steps` and \
                `checks` of the chart",
    },
    Rejecter {
        words: &[
            EXCEEDED_QUOTA,
            "status unknown for quota",
            "insufficient quota",
            "quota evaluation timed out",
        ],
        reason: Reason::QuotaExceeded,
        to_do: "raise the quota, or wait until other objects are gone",
    },
    Rejecter {
        words: &["violates podsecurity"],
        reason: Reason::JobRefused,
        to_do: "change the namespace's label `pod-security.kubernetes.io/enforce`, or use a \
                strategy that its level admits (for checks: the values \
                `checks.podSecurityContext` and `checks.containerSecurityContext` of the chart)",
    },
    Rejecter {
        words: &["unable to validate against any security context constraint"],
        reason: Reason::JobRefused,
        to_do: "let the pod's ServiceAccount (`serviceAccountName` in the strategy) use a \
                SecurityContextConstraints that allows what the strategy requests",
    },
    Rejecter {
        words: &[" usage per ", "limit to request ratio per "],
        reason: Reason::JobRefused,
        to_do: "change the LimitRange, or the resources in the strategy or in the values `steps` \
                and `checks` of the chart",
    },
    Rejecter {
        words: &["failed calling webhook", "failed to call webhook"],
        reason: Reason::JobRefused,
        to_do: "repair the webhook, or exclude this namespace from it",
    },
    Rejecter {
        words: &["cannot create resource"],
        reason: Reason::JobRefused,
        to_do: "grant this permission to the controller",
    },
    Rejecter {
        words: &["denied the request", "denied request", WEBHOOK_ANSWER],
        reason: Reason::JobRefused,
        to_do: "change the policy, or the build strategy (for checks: the values `checks` of the \
                chart) so that it complies",
    },
];

/// What to do about a rejection by something that is not known.
const OTHER_REJECTER: Rejecter = Rejecter {
    words: &[],
    reason: Reason::JobRefused,
    to_do: "change what forbids it, or the build strategy (for checks: the values `checks` of the \
            chart)",
};

/// Returns why the API server does not accept a Job; `None` if the answer says nothing about the
/// Job: the API server has too much to do, for example.
#[must_use]
pub fn job_rejection(answer: &Status) -> Option<JobRejection> {
    if is_own_validation(answer) {
        let text = format!(
            "{}; correct the build strategy, or the parameters that the family gives to it",
            quote(&answer.message)
        );
        let failed = failure(FailureClass::Input, Reason::InvalidStrategy, &text);
        return Some(JobRejection::Failed(failed));
    }
    let by = rejecter(&answer.message)
        .or_else(|| matches!(answer.code, 400 | 403 | 422).then_some(&OTHER_REJECTER))?;
    Some(JobRejection::NotNow(by.problem("", &answer.message)))
}

/// Whether the API server says only that a webhook cannot take part in a dry run.
#[must_use]
pub fn cannot_run_dry(answer: &Status) -> bool {
    answer.code == 400 && answer.message.contains(NO_DRY_RUN)
}

/// Whether the API server itself finds a Job malformed: a field has an invalid value, or the Job
/// cannot be decoded. Admission plugins answer with the same codes, and name no field, or say who
/// they are.
fn is_own_validation(answer: &Status) -> bool {
    let names_field = answer
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| !cause.field.is_empty());
    match answer.code {
        422 => names_field && !answer.message.starts_with(WEBHOOK_ANSWER),
        400 => answer.reason == "BadRequest" && rejecter(&answer.message).is_none(),
        _ => false,
    }
}

/// Returns why no pod is created for a Job, as the newest of its Events says it.
pub(in crate::builds) fn pod_rejection(events: &[PodEvent]) -> Option<Problem> {
    let event = events.iter().rev().find(|event| event.reason == FAILED_CREATE)?;
    let text = event.message.strip_prefix(ERROR_CREATING).unwrap_or(&event.message);
    Some(rejecter(text).unwrap_or(&OTHER_REJECTER).problem("no pod is created: ", text))
}

/// Returns that no pod is created for a Job, where nothing says why.
pub(super) fn no_pod(job: &Job) -> Problem {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "the cluster creates no pod for the Job, because a quota, a limit range or a policy \
         forbids it; `kubectl describe -n {namespace} job/{name}` shows which one"
    );
    Problem { reason: Reason::PodNotCreated, message }
}

/// Returns why a node did not admit a pod that was scheduled to it, if it did not. Nothing of the
/// pod has run.
pub(super) fn node_rejection(pod: &Pod, own: &OwnContainers<'_>) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let word = status.reason.as_deref()?;
    if ADMITTED_PODS.contains(&word) || is_disrupted(status) || own.has_started(status) {
        return None;
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("?");
    let message = format!(
        "the node {node} rejected the pod ({}): {}; free resources of the node, or change what the \
         strategy requests of it",
        quote(word),
        quote(status.message.as_deref().unwrap_or("it does not say why"))
    );
    Some(Problem { reason: Reason::NodeRefused, message })
}

fn is_disrupted(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")
}

fn rejecter(text: &str) -> Option<&'static Rejecter> {
    let text = text.to_lowercase();
    REJECTERS.iter().find(|rejecter| rejecter.words.iter().any(|words| text.contains(words)))
}

impl Rejecter {
    fn problem(&self, what: &str, text: &str) -> Problem {
        if self.reason == Reason::QuotaExceeded
            && let Some(too_small) = TooSmallQuota::parse(&sanitize(text, Keep::Start))
        {
            return too_small.problem(what, text);
        }
        let message = format!("{what}{}; {}", quote(text), self.to_do);
        Problem { reason: self.reason, message }
    }
}

/// A quota that allows less in total than one Job or pod requests.
struct TooSmallQuota<'a> {
    quota: &'a str,
    resource: &'a str,
    requested: &'a str,
    allowed: &'a str,
}

impl<'a> TooSmallQuota<'a> {
    /// Reads the text of a quota that has no room: `exceeded quota: NAME, requested: R=Q,...,
    /// used: R=Q,..., limited: R=Q,...`. Returns `None` if what is requested fits once enough other
    /// objects are gone.
    fn parse(text: &'a str) -> Option<Self> {
        let (_, text) = text.split_once(EXCEEDED_QUOTA)?;
        let (quota, text) = text.split_once(", requested: ")?;
        let (requested, text) = text.split_once(", used: ")?;
        let (_, limited) = text.split_once(", limited: ")?;
        let limited = limited.split_whitespace().next()?;
        quantities(requested).find_map(|(resource, requested)| {
            let (_, allowed) = quantities(limited).find(|(limited, _)| *limited == resource)?;
            let never_fits = amount(requested)? > amount(allowed)?;
            never_fits.then_some(Self { quota, resource, requested, allowed })
        })
    }

    fn problem(&self, what: &str, text: &str) -> Problem {
        let [quota, resource, requested, allowed] =
            [self.quota, self.resource, self.requested, self.allowed]
                .map(|word| shorten(word, MAX_WORD));
        let lower = if resource.starts_with("count/") || resource == "pods" {
            ""
        } else {
            ", or lower what the strategy and the values `steps` and `checks` of the chart request"
        };
        let message = format!(
            "{what}it never fits into the quota `{quota}`: one needs {resource}={requested}, and \
             the quota allows {allowed} in total; raise the quota{lower}. The cluster says: {}",
            quote(text)
        );
        Problem { reason: Reason::QuotaTooSmall, message }
    }
}

/// Returns the resources of a list in the text of a quota, with their quantities.
fn quantities(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(',').filter_map(|entry| entry.trim().split_once('='))
}

/// Returns a rejection as messages quote it.
fn quote(text: &str) -> String {
    shorten(&sanitize(text, Keep::Start).replace('\n', " "), MAX_QUOTE)
}
