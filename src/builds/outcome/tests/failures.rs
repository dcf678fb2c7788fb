//! The build itself failed: what the message says, and the class and reason of each failure.

use serde_json::json;

use super::*;

#[test]
fn a_failed_command_fails_the_build_and_the_message_shows_its_log() {
    let log = "#5 RUN make PASSWORD=hunter2\n#5 0.1 no rule\nerror: failed to solve: process \
               \"make\" did not complete successfully: exit code: 2";
    let failure =
        failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Build, Reason::BuildFailed.as_str())
    );
    let start = "the container `build` failed with exit code 1: error: failed to solve: process \
                 \"make\" did not complete successfully: exit code: 2; for its full log, run \
                 `kubectl logs -n team job/base-0-0 --all-containers` while the Job exists; the \
                 end of its log:\n#5 RUN make PASSWORD=***\n";
    assert!(failure.message.starts_with(start), "{}", failure.message);
    assert!(failure.message.ends_with("exit code: 2"), "{}", failure.message);
    let silent = failed_with(json!({"terminated": {"exitCode": 3}}));
    assert!(
        silent
            .message
            .starts_with("the container `build` failed with exit code 3; it ended without output"),
        "{}",
        silent.message
    );
    let long = "é\n".repeat(50_000);
    let failure = failed_with(json!({"terminated": {"exitCode": 1, "message": long}}));
    assert!(failure.message.len() < 2500, "{}", failure.message.len());
}

#[test]
fn prepare_reports_its_own_error() {
    use crate::builds::prepare::error::PrepareReason;

    for (reason, class) in [
        (PrepareReason::DockerfileMismatch, FailureClass::Input),
        (PrepareReason::SourceNotFound, FailureClass::Input),
        (PrepareReason::SourceUnavailable, FailureClass::Infrastructure),
        (PrepareReason::UserNamespaceUnavailable, FailureClass::Infrastructure),
        (PrepareReason::InvalidSecret, FailureClass::Infrastructure),
    ] {
        let error = PrepareError::new(reason, "this and that");
        let ended =
            json!({"terminated": {"exitCode": 1, "message": error.to_termination_message()}});
        let status = json!({"phase": "Failed",
            "initContainerStatuses": [container("prepare", ended)],
            "containerStatuses": [container("build",
                json!({"waiting": {"reason": "PodInitializing"}}))]});
        let failure = failure_of(decide(json!({}), json!([pod(START, status)])));
        assert_eq!(
            failure,
            BuildFailure { class, reason: reason.reason().into(), message: "this and that".into() }
        );
    }
}

#[test]
fn a_registry_error_in_the_builders_log_is_classified() {
    for (log, class, reason) in [
        (
            "error: failed to solve: failed to push reg/a:b: unexpected status from PUT request to \
             http://reg/v2: 401 Unauthorized",
            FailureClass::Infrastructure,
            Reason::RegistryDenied,
        ),
        (
            "error: failed to solve: failed to push reg/a:b: unexpected status from PUT request to \
             http://reg/v2: 413 Request Entity Too Large",
            FailureClass::Infrastructure,
            Reason::PushRefused,
        ),
        (
            "error: failed to solve: process \"x\" did not complete successfully: exit code: 137",
            FailureClass::Infrastructure,
            Reason::OutOfMemory,
        ),
    ] {
        let failure =
            failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
        assert_eq!((failure.class, failure.reason.as_str()), (class, reason.as_str()), "{log}");
        assert!(failure.message.ends_with(log), "{}", failure.message);
    }
}

#[test]
fn a_certificate_that_the_builder_does_not_trust_is_explained() {
    let log = "error: failed to solve: failed to push reg/a:b: failed to do request: Head \
               \"https://reg/v2/\": tls: failed to verify certificate: x509: certificate signed by \
               unknown authority";
    let failure =
        failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
    assert_eq!(failure.reason, Reason::RegistryUntrusted);
    assert!(failure.message.contains("list it in `caBundle`"), "{}", failure.message);
}

#[test]
fn a_timeout_is_reported_with_the_end_of_the_log() {
    let ended = container(
        "build",
        json!({"terminated": {"exitCode": 143, "reason": "Error", "message": "#5 RUN sleep inf",
            "finishedAt": "2026-01-01T00:09:00Z"}}),
    );
    let pods = json!([deleted(
        START,
        "2026-01-01T00:09:10Z",
        json!({"phase": "Failed", "containerStatuses": [ended]})
    )]);
    // The Job controller marks the Job as failed only after its pods have ended.
    let failure = failure_of(decide(job_with("FailureTarget", "DeadlineExceeded"), pods));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Build, Reason::DeadlineExceeded.as_str())
    );
    assert!(
        failure.message.contains("\n#5 RUN sleep inf\ntimed out after 3600 s"),
        "{}",
        failure.message
    );
    let ending = json!([deleted(START, "2026-01-01T00:10:05Z", json!({"phase": "Running"}))]);
    let wait = wait_of(decide(job_with("FailureTarget", "DeadlineExceeded"), ending));
    assert_eq!(wait, (String::new(), Some("2026-01-01T00:10:05Z".into())));
}
