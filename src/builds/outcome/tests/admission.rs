//! The API server, a quota, a policy or a node rejects the Job or its pod. The texts are those of
//! Kubernetes 1.36.

use kube::core::Status;
use serde_json::{Value, json};

use super::*;
use crate::api::condition::ReasonClass;

fn answer(code: u16, reason: &str, message: &str, causes: Value) -> Status {
    serde_json::from_value(json!({"status": "Failure", "code": code, "reason": reason,
        "message": message, "details": {"causes": causes}}))
    .expect("a status")
}

fn waits(answer: &Status) -> Problem {
    match job_rejection(answer) {
        Some(JobRejection::NotNow(problem)) => problem,
        other => panic!("{other:?}: {answer:?}"),
    }
}

#[test]
fn what_may_be_admitted_later_waits_with_the_words_of_the_rejecter() {
    let quota = "jobs.batch \"base-0-0\" is forbidden: exceeded quota: jobs, requested: \
                 count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5";
    let unknown = "jobs.batch \"base-0-0\" is forbidden: status unknown for quota: jobs";
    let scopes = "insufficient quota to match these scopes: [{PriorityClass In [high]}]";
    let policy = "jobs.batch \"base-0-0\" is forbidden: ValidatingAdmissionPolicy 'images' with \
                  binding 'x' denied request: no signature";
    let webhook = "admission webhook \"validate.kyverno.svc\" denied the request: no signature";
    let broken = "Internal error occurred: failed calling webhook \"validate.kyverno.svc\": failed \
                  to call webhook: no endpoints available";
    let rights = "jobs.batch is forbidden: User \"system:serviceaccount:g:g\" cannot create \
                  resource \"jobs\" in API group \"batch\" in the namespace \"team\"";
    let none = || json!([]);
    let unnamed = || json!([{"message": "no signature"}]);
    let named = || json!([{"reason": "FieldValueInvalid", "message": "m", "field": "spec.x"}]);
    for (status, text, reason, to_do) in [
        (answer(403, "Forbidden", quota, none()), quota, Reason::QuotaExceeded, "raise the quota"),
        (answer(403, "Forbidden", unknown, none()), unknown, Reason::QuotaExceeded, "raise"),
        (answer(500, "", scopes, none()), scopes, Reason::QuotaExceeded, "raise"),
        (answer(403, "Forbidden", policy, none()), policy, Reason::JobRefused, "policy"),
        (answer(422, "Invalid", policy, unnamed()), policy, Reason::JobRefused, "policy"),
        (answer(401, "Unauthorized", policy, unnamed()), policy, Reason::JobRefused, "policy"),
        (answer(400, "", webhook, none()), webhook, Reason::JobRefused, "policy"),
        (answer(400, "BadRequest", webhook, none()), webhook, Reason::JobRefused, "policy"),
        (answer(409, "Conflict", webhook, none()), webhook, Reason::JobRefused, "policy"),
        (answer(422, "Invalid", webhook, named()), webhook, Reason::JobRefused, "policy"),
        (answer(500, "InternalError", broken, none()), broken, Reason::JobRefused, "webhook"),
        (answer(403, "Forbidden", rights, none()), rights, Reason::JobRefused, "permission"),
        (answer(403, "Forbidden", "no", none()), "no", Reason::JobRefused, "what forbids it"),
        (answer(422, "Invalid", "no", unnamed()), "no", Reason::JobRefused, "what forbids it"),
    ] {
        let problem = waits(&status);
        assert_eq!(problem.reason, reason, "{text}");
        let rest = problem.message.strip_prefix(text).expect(&problem.message);
        assert!(rest.starts_with("; ") && rest.contains(to_do), "{rest}");
    }
}

#[test]
fn what_never_fits_into_a_quota_needs_a_user() {
    let exceeded = |rest: &str| format!("pods \"base-0-0-x\" is forbidden: exceeded quota: {rest}");
    for (text, said) in [
        (
            exceeded(
                "compute, requested: pods=1,requests.memory=512Mi, used: pods=9,\
                 requests.memory=0, limited: pods=9,requests.memory=256Mi",
            ),
            "it never fits into the quota `compute`: one needs requests.memory=512Mi, and the \
             quota allows 256Mi in total; raise the quota, or lower what the strategy",
        ),
        (
            exceeded(
                "jobs, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: \
                      count/jobs.batch=0",
            ),
            "the quota allows 0 in total; raise the quota. The cluster says: pods",
        ),
        (
            exceeded("cpu, requested: limits.cpu=2500m, used: limits.cpu=0, limited: limits.cpu=2"),
            "limits.cpu=2500m",
        ),
    ] {
        let problem = waits(&answer(403, "Forbidden", &text, json!([])));
        assert_eq!(problem.reason, Reason::QuotaTooSmall, "{text}");
        assert!(problem.message.contains(said), "{}", problem.message);
        assert!(problem.message.ends_with(&text), "{}", problem.message);
    }
    assert_eq!(Reason::QuotaTooSmall.class(), ReasonClass::NeedsUser);
    // It fits once other objects are gone, or nobody knows.
    for rest in [
        "m, requested: requests.memory=256Mi, used: requests.memory=1, limited: \
         requests.memory=256Mi",
        "m, requested: requests.memory=1Gi, used: requests.memory=0, limited: requests.memory=lots",
        "m, requested: requests.memory=1Gi",
        "m, requested: a=2, used: a=1, limited: b=1",
    ] {
        let problem = waits(&answer(403, "Forbidden", &exceeded(rest), json!([])));
        assert_eq!(problem.reason, Reason::QuotaExceeded, "{rest}");
    }
}

#[test]
fn a_malformed_job_has_failed_and_the_strategy_is_to_be_corrected() {
    let invalid = "Job.batch \"base-0-0\" is invalid: spec.template.spec.containers[0]\
                   .resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
                   limit of 1";
    let causes = json!([{"reason": "FieldValueInvalid", "message": "Invalid value",
        "field": "spec.template.spec.containers[0].resources.requests"}]);
    let undecodable = "Job in version \"v1\" cannot be handled as a Job: quantities must match";
    for status in
        [answer(422, "Invalid", invalid, causes), answer(400, "BadRequest", undecodable, json!([]))]
    {
        let rejection = job_rejection(&status);
        let Some(JobRejection::Failed(failure)) = rejection else { panic!("{rejection:?}") };
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Input, Reason::InvalidStrategy.as_str())
        );
        assert!(failure.message.starts_with(&status.message), "{}", failure.message);
        assert!(failure.message.contains("; correct the build strategy"), "{}", failure.message);
    }
}

#[test]
fn an_answer_that_is_not_about_the_job_is_no_rejection() {
    for (code, reason, message) in [
        (429, "TooManyRequests", "too many requests, please try again later"),
        (500, "InternalError", "Internal error occurred: etcdserver: request timed out"),
        (503, "ServiceUnavailable", "apiserver not ready"),
        (409, "AlreadyExists", "jobs.batch \"base-0-0\" already exists"),
        (409, "Conflict", "Operation cannot be fulfilled on resourcequotas \"jobs\""),
        (404, "NotFound", "namespaces \"team\" not found"),
    ] {
        assert_eq!(job_rejection(&answer(code, reason, message, json!([]))), None, "{message}");
    }
    let no_dry_run = "admission webhook \"w\" does not support dry run";
    assert!(cannot_run_dry(&answer(400, "BadRequest", no_dry_run, json!([]))));
    assert!(!cannot_run_dry(&answer(400, "BadRequest", "no", json!([]))));
}

#[test]
fn a_long_rejection_is_cut_so_that_what_to_do_stays() {
    let text =
        format!("admission webhook \"w\" denied the request:\nTOKEN=abc {}", "é".repeat(9000));
    let message = waits(&answer(400, "", &text, json!([]))).message;
    assert!(message.chars().count() < 450, "{}", message.len());
    assert!(message.contains("TOKEN=***") && !message.contains('\n'), "{message}");
    assert!(message.contains("…; change the policy, or the build strategy (for checks:"));
    assert!(message.ends_with(") so that it complies"), "{message}");
}

fn events(list: &[&str]) -> PodEvents {
    let mut events = PodEvents::default();
    let event = |message: &&str| PodEvent {
        reason: "FailedCreate".into(),
        message: format!("Error creating: {message}"),
    };
    events.record("u", list.iter().map(event).collect());
    events
}

#[test]
fn a_job_whose_pod_cannot_be_created_is_not_admitted() {
    let job = json!({"metadata": {"creationTimestamp": START, "uid": "u"},
        "spec": {"template": {}, "activeDeadlineSeconds": 3600}, "status": {"startTime": START}});
    let at =
        |list: &[&str], now: &str| decide_with_events(job.clone(), json!([]), &events(list), now);
    let used_up = "pods \"base-0-0-x\" is forbidden: exceeded quota: compute, requested: \
                   limits.cpu=2, used: limits.cpu=8, limited: limits.cpu=8";
    let missing = "pods \"base-0-0-x\" is forbidden: failed quota: compute: must specify \
                   limits.cpu for: prepare";
    let range = "pods \"base-0-0-x\" is forbidden: minimum memory usage per Container is 1Gi, but \
                 request is 64Mi";
    let ratio = "pods \"x\" is forbidden: cpu max limit to request ratio per Container is 2, but \
                 provided ratio is 4.000000";
    let security = "pods \"base-0-0-x\" is forbidden: violates PodSecurity \"restricted:latest\": \
                    unrestricted capabilities (container \"build\" must set …)";
    let constraint = "pods \"x\" is forbidden: unable to validate against any security context \
                      constraint: [provider restricted-v2: .containers[0].procMount: Invalid]";
    let account = "pods \"x\" is forbidden: error looking up service account team/builder";
    // The Job controller has tried only once so far.
    assert!(matches!(at(&[used_up], "2026-01-01T00:00:29Z"), BuildJobOutcome::Waiting(_)));
    for (list, text, reason, to_do) in [
        (&[missing, used_up][..], used_up, Reason::QuotaExceeded, "raise the quota"),
        (&[missing][..], missing, Reason::JobRefused, "`cpuLimit`"),
        (&[range][..], range, Reason::JobRefused, "LimitRange"),
        (&[ratio][..], ratio, Reason::JobRefused, "LimitRange"),
        (&[security][..], security, Reason::JobRefused, "pod-security.kubernetes.io/enforce"),
        (&[constraint][..], constraint, Reason::JobRefused, "`serviceAccountName`"),
        (&[account][..], account, Reason::JobRefused, "what forbids it"),
    ] {
        let problem = not_admitted(at(list, "2026-01-01T00:00:30Z"));
        assert_eq!(problem.reason, reason, "{text}");
        assert!(problem.message.contains(text), "{}", problem.message);
        assert!(problem.message.contains(to_do), "{}", problem.message);
    }
    // A Job whose deadline is short is given up sooner.
    let mut short = job.clone();
    short["spec"]["activeDeadlineSeconds"] = json!(20);
    let outcome = decide_with_events(short, json!([]), &events(&[used_up]), "2026-01-01T00:00:10Z");
    assert_eq!(not_admitted(outcome).reason, Reason::QuotaExceeded);
    // The pod was admitted since, and the watch of pods lags.
    let mut active = job.clone();
    active["status"]["active"] = json!(1);
    let outcome = decide_with_events(active, json!([]), &events(&[used_up]), NOW);
    assert_eq!(outcome, BuildJobOutcome::Waiting(PodWait::default()));
}

#[test]
fn the_events_of_a_job_without_a_pod_are_needed_after_a_while() {
    let job = |status: Value| -> Job {
        serde_json::from_value(json!({"spec": {"template": {}}, "status": status})).expect("a Job")
    };
    let at = |text: &str| text.parse::<Timestamp>().expect("a time");
    let started = job(json!({"startTime": START}));
    assert!(!job_needs_events(&started, at("2026-01-01T00:00:29Z")));
    assert!(job_needs_events(&started, at("2026-01-01T00:00:30Z")));
    for status in [
        json!({}),
        json!({"startTime": START, "active": 1}),
        json!({"startTime": START, "conditions": [{"type": "Failed", "status": "True"}]}),
    ] {
        assert!(!job_needs_events(&job(status.clone()), at(NOW)), "{status}");
    }
}

#[test]
fn a_pod_that_its_node_rejects_is_not_admitted() {
    let rejected = |reason: &str, message: &str| {
        json!([pod(START, json!({"phase": "Failed", "reason": reason, "message": message}))])
    };
    let text = "Pod was rejected: Node didn't have enough resource: cpu";
    let problem = not_admitted(decide(json!({}), rejected("OutOfcpu", text)));
    assert_eq!(problem.reason, Reason::NodeRefused);
    assert!(problem.message.contains("node n1 rejected the pod (OutOfcpu): Pod was rejected"));
    for reason in ["Evicted", "Preempting", "NodeLost", "Terminated"] {
        failure_of(decide(json!({}), rejected(reason, "m")));
    }
}
