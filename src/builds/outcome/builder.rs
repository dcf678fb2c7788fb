//! Classifies the final error of a builder. Only the final error line counts, because everything
//! that a command of the Dockerfile prints comes before it. The patterns match the wording of
//! `BuildKit`, `Buildah` and `kaniko`.

use std::sync::LazyLock;

use regex::Regex;

use crate::{
    api::{FailureClass, condition::Reason},
    builds::outcome::message,
    registry,
};

/// What follows the text of a failed command in a builder's error, before the exit code.
const COMMAND_FAILED: &str = "did not complete successfully";

/// Returns the final error line of a builder's log, or an empty string if it has none.
pub(super) fn error_line(log: &str) -> &str {
    message::tail(log).lines().rev().find(|line| is_error(line)).unwrap_or_default().trim()
}

fn is_error(line: &str) -> bool {
    let start: String = line.trim_start().chars().take(6).collect::<String>().to_lowercase();
    line.contains("failed to solve")
        || start == "error:"
        || start == "error "
        || line.starts_with("could not connect to")
}

/// Returns the class and the reason of a builder's failure.
pub(super) fn classify(log: &str) -> (FailureClass, Reason) {
    use FailureClass::{Build, Infrastructure};
    let line = error_line(log).to_lowercase();
    let contains = |patterns: &[&str]| patterns.iter().any(|pattern| line.contains(pattern));
    // The text of the command itself may contain any of the patterns below.
    if let Some((_, how)) = line.rsplit_once(COMMAND_FAILED) {
        let killed = ["exit code: 137", "signal: killed", "cannot allocate memory"]
            .iter()
            .any(|word| how.contains(word));
        return if killed {
            (Infrastructure, Reason::OutOfMemory)
        } else {
            (Build, Reason::BuildFailed)
        };
    }
    // The policy that `prepare` writes.
    if contains(&["denied by policy: source denied by policy"]) {
        return (FailureClass::Input, Reason::DockerfileMismatch);
    }
    if contains(&[
        "could not connect to",
        "code = unavailable",
        "error reading from server",
        "failed to receive status",
    ]) {
        return (Infrastructure, Reason::BuilderUnavailable);
    }
    if contains(&["cannot allocate memory", "signal: killed"]) {
        return (Infrastructure, Reason::OutOfMemory);
    }
    if contains(&["no space left on device"]) {
        return (Infrastructure, Reason::DiskFull);
    }
    let pushes = contains(&["failed to push", "pushing image", "push permission"]);
    let pulls = contains(&[
        "failed to resolve source",
        "failed to do request",
        "failed to authorize",
        "failed to fetch",
        "failed to copy:",
        "unexpected status",
        "pull access denied",
        "initializing source",
        "retrieving image",
    ]);
    if pushes || pulls {
        (
            Infrastructure,
            registry_reason(&line, if pushes { Transfer::Push } else { Transfer::Pull }),
        )
    } else {
        (Build, Reason::BuildFailed)
    }
}

/// What a builder did with a registry when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Pull,
    Push,
}

/// Returns the reason of a failure that a registry caused. `line` is in lower case.
fn registry_reason(line: &str, transfer: Transfer) -> Reason {
    let pushes = transfer == Transfer::Push;
    let contains = |patterns: &[&str]| patterns.iter().any(|pattern| line.contains(pattern));
    // The code of the error, with or without a status: some registries limit the rate with a 403.
    if contains(&[": toomanyrequests: "]) {
        return Reason::RegistryUnavailable;
    }
    if contains(&[": x509: "]) {
        return Reason::RegistryUntrusted;
    }
    if !pushes && registry::names_policy(line) {
        return Reason::DownloadBlocked;
    }
    match status(line) {
        Some(401 | 403) => return Reason::RegistryDenied,
        Some(408 | 425 | 429 | 500..) => return Reason::RegistryUnavailable,
        Some(_) if pushes => return Reason::PushRefused,
        Some(404) => return Reason::ImageNotFound,
        Some(_) | None => {}
    }
    if pushes && contains(&["quota", "configured upper limit"]) {
        return Reason::PushRefused;
    }
    if contains(&[
        "unauthorized",
        "access denied",
        "denied: ",
        "authorization failed",
        "insufficient_scope",
        "authentication required",
        "no basic auth credentials",
    ]) {
        return Reason::RegistryDenied;
    }
    if contains(&[
        "not found",
        "manifest unknown",
        "manifest_unknown",
        "name unknown",
        "name_unknown",
    ]) {
        return if pushes { Reason::PushRefused } else { Reason::ImageNotFound };
    }
    if pushes && contains(&["tag invalid", "immutable"]) {
        return Reason::PushRefused;
    }
    Reason::RegistryUnavailable
}

/// Returns the HTTP status that an error line quotes. Digits in a digest or a port do not count.
fn status(line: &str) -> Option<u16> {
    STATUS.as_ref()?.captures_iter(line).last()?.get(1)?.as_str().parse().ok()
}

static STATUS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?:: |status code |status: |code=)([45][0-9]{2})\b").ok());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::ReasonTrait;

    #[test]
    fn the_last_error_line_counts() {
        assert_eq!(error_line("error: one\n#5 error: two\nError: three\n"), "Error: three");
        assert_eq!(error_line("#5 0.1 error: of a command"), "");
        assert_eq!(
            error_line("#5 ERROR: process\n------\nerror: failed to solve: x"),
            "error: failed to solve: x"
        );
    }

    #[test]
    fn errors_are_classified_by_their_final_line() {
        use FailureClass::{Build, Infrastructure};
        let digest = "sha256:4015032904010000000000000000000000000000000000000000000000000404";
        let missing = format!(
            "error: failed to solve: reg/a@{digest}: failed to resolve source metadata for \
             reg/a@{digest}: reg/a@{digest}: not found"
        );
        let unreachable = format!(
            "error: failed to solve: failed to resolve source metadata for reg/a@{digest}: failed \
             to do request: Head \"http://reg:5000/v2/a\": dial tcp 10.0.0.1:5000: connect: \
             connection refused"
        );
        let command = |end: &str| {
            format!(
                "error: failed to solve: process \"/bin/sh -c echo failed to push: 401 no space \
                 left on device\" did not complete successfully: {end}"
            )
        };
        let pushed = |status: &str| {
            format!(
                "#9 pushing layers\nerror: failed to solve: failed to push reg/a:b: unexpected \
                 status from PUT request to http://reg/v2/a/manifests/b: {status}"
            )
        };
        let denied = |context: &str| {
            format!(
                "error: failed to solve: {context}source \"docker-image://docker.io/evil/x:1\" \
                 denied by policy: source denied by policy"
            )
        };
        for (log, class, reason) in [
            (command("exit code: 1"), Build, Reason::BuildFailed),
            (command("exit code: 137"), Infrastructure, Reason::OutOfMemory),
            (command("cannot allocate memory"), Infrastructure, Reason::OutOfMemory),
            ("failed to push is what the test prints\nerror: failed to solve: process \"x\" did \
              not complete successfully: exit code: 2".into(), Build, Reason::BuildFailed),
            ("error: failed to solve: dockerfile parse error on line 1: unknown instruction: FRON"
                .into(), Build, Reason::BuildFailed),
            ("error: failed to solve: failed to compute cache key: failed to calculate checksum of \
              ref x: \"/404\": not found".into(), Build, Reason::BuildFailed),
            (String::new(), Build, Reason::BuildFailed),
            (denied("failed to resolve source metadata for docker.io/library/evil:1: could not \
              resolve image due to policy: "), FailureClass::Input, Reason::DockerfileMismatch),
            (denied("failed to load LLB: error evaluating the source policy: "),
                FailureClass::Input, Reason::DockerfileMismatch),
            (format!("{}\nerror: failed to solve: process \"x\" did not complete successfully: \
              exit code: 2", denied("")), Build, Reason::BuildFailed),
            (pushed("401 Unauthorized"), Infrastructure, Reason::RegistryDenied),
            (pushed("403 Forbidden"), Infrastructure, Reason::RegistryDenied),
            ("error: failed to solve: failed to push reg/a:b: push access denied, repository does \
              not exist or may require authorization: server message: insufficient_scope: \
              authorization failed".into(), Infrastructure, Reason::RegistryDenied),
            ("error: failed to solve: failed to fetch oauth token: unexpected status from GET \
              request to https://auth/token: 401 Unauthorized".into(), Infrastructure,
                  Reason::RegistryDenied),
            ("error checking push permissions: GET https://reg/v2/: UNAUTHORIZED: authentication \
              required".into(), Infrastructure, Reason::RegistryDenied),
            (pushed("503 Service Unavailable"), Infrastructure, Reason::RegistryUnavailable),
            (pushed("429 Too Many Requests"), Infrastructure, Reason::RegistryUnavailable),
            ("error: failed to solve: failed to push reg/a: failed to do request: Head \
              \"http://reg\": dial tcp: lookup reg: no such host".into(), Infrastructure,
                  Reason::RegistryUnavailable),
            (unreachable, Infrastructure, Reason::RegistryUnavailable),
            (pushed("400 Bad Request"), Infrastructure, Reason::PushRefused),
            (pushed("413 Request Entity Too Large"), Infrastructure, Reason::PushRefused),
            (pushed("404 Not Found"), Infrastructure, Reason::PushRefused),
            ("Error: pushing image \"x\" to \"docker://reg/a\": writing manifest: tag invalid: the \
              repository is immutable".into(), Infrastructure, Reason::PushRefused),
            (missing, Infrastructure, Reason::ImageNotFound),
            ("error: failed to solve: reg/a: failed to resolve source metadata: unexpected status \
              from HEAD request to http://reg/v2/a: 404 Not Found".into(), Infrastructure,
                  Reason::ImageNotFound),
            ("error: failed to solve: write /var/lib/buildkit/x: no space left on device".into(),
                Infrastructure, Reason::DiskFull),
            ("could not connect to unix:///run/buildkit/buildkitd.sock after 40 trials\n========== \
              log ==========\nbuildkitd: operation not permitted".into(), Infrastructure,
                  Reason::BuilderUnavailable),
            ("error: failed to receive status: rpc error: code = Unavailable desc = error reading \
              from server: EOF".into(), Infrastructure, Reason::BuilderUnavailable),
        ] {
            assert_eq!(classify(&log), (class, reason), "{log}");
        }
    }

    /// As public reports quote what registries say.
    #[test]
    fn what_waiting_ends_and_what_a_user_has_to_correct_have_different_reasons() {
        let pushed = |why: &str| format!("failed to push reg/a:b: {why}");
        let pulled = |why: &str| format!("reg/a:1: failed to resolve source metadata: {why}");
        for (error, reason) in [
            (
                pulled("toomanyrequests: You have reached your pull rate limit."),
                Reason::RegistryUnavailable,
            ),
            (
                "failed to copy: httpReadSeeker: failed open: unexpected status code \
                 https://reg/v2/a/manifests/sha256:de: 429 Too Many Requests - Server message: \
                 toomanyrequests: You have reached your pull rate limit."
                    .into(),
                Reason::RegistryUnavailable,
            ),
            (
                pushed("unexpected status: 403 Forbidden: toomanyrequests: slow down"),
                Reason::RegistryUnavailable,
            ),
            (
                "failed to copy: httpReadSeeker: failed open: unexpected status code \
                 https://reg/v2/a/blobs/sha256:de: 403 Forbidden - Server message: unknown: \
                 Artifact download request rejected: a was not downloaded due to the download \
                 blocking policy configured in Xray for docker-local."
                    .into(),
                Reason::DownloadBlocked,
            ),
            (
                "failed to push reg/toomanyrequests:b: denied: permission_denied: write_package"
                    .into(),
                Reason::RegistryDenied,
            ),
            (
                pushed("denied: Your authorization token has expired. Reauthenticate."),
                Reason::RegistryDenied,
            ),
            (
                pushed("name unknown: The repository with name 'a' does not exist"),
                Reason::PushRefused,
            ),
            (
                pushed("denied: current usage of 1 GiB will exceed the configured upper limit"),
                Reason::PushRefused,
            ),
            (
                pushed(
                    "failed to do request: Head \"https://reg/v2/\": tls: failed to verify \
                     certificate: x509: certificate signed by unknown authority",
                ),
                Reason::RegistryUntrusted,
            ),
        ] {
            let log = format!("error: failed to solve: {error}");
            assert_eq!(classify(&log), (FailureClass::Infrastructure, reason), "{log}");
            let waits = reason == Reason::RegistryUnavailable;
            assert_eq!(reason.has(ReasonTrait::AwaitsCorrection), !waits, "{reason}");
        }
    }
}
