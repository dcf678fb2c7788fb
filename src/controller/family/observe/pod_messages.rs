//! What the containers of pods have printed, without the family's credentials. It comes before the
//! messages are cut: a part of a secret would not be found. No client is needed.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::registry::Keychain;

/// Whether a container of a pod has ended with a message that contains a credential.
pub(super) fn prints_credential(pod: &Pod, keychain: &Keychain) -> bool {
    let mut messages = container_statuses(pod).filter_map(ended_message);
    messages.any(|message| matches!(keychain.redact(message), Cow::Owned(_)))
}

/// Returns a pod without credentials in the messages of its containers.
pub(super) fn without_credentials(pod: &Pod, keychain: &Keychain) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.iter_mut();
    let containers = status
        .flat_map(|status| [&mut status.init_container_statuses, &mut status.container_statuses]);
    for container in containers.flatten().flatten() {
        let ended = container.state.as_mut().and_then(|state| state.terminated.as_mut());
        if let Some(message) = ended.and_then(|ended| ended.message.as_mut()) {
            *message = keychain.redact(message).into_owned();
        }
    }
    pod
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    let lists =
        status.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
    lists.flatten().flatten()
}

fn ended_message(container: &ContainerStatus) -> Option<&str> {
    container.state.as_ref()?.terminated.as_ref()?.message.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_credential_is_left_in_what_a_container_has_printed() {
        let token = "t0ken-".repeat(400);
        let config = json!({ "auths": { "r.example.com": { "identitytoken": token } } });
        let config = config.to_string();
        let keychain = Keychain::from_secrets([("push", config.as_bytes())]).expect("a keychain");
        let pod = |init: &str, main: &str| -> Pod {
            let ended = |message: &str| {
                json!([{ "name": "c", "image": "i", "imageID": "",
                "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 1, "message": message } } }])
            };
            let status =
                json!({ "initContainerStatuses": ended(init), "containerStatuses": ended(main) });
            serde_json::from_value(json!({ "metadata": {}, "status": status })).expect("a pod")
        };
        assert!(!prints_credential(&pod("nothing", "t0ken"), &keychain));
        for printed in [pod(&token, "b"), pod("a", &format!("{token}\nno findings"))] {
            assert!(prints_credential(&printed, &keychain));
            let shown = without_credentials(&printed, &keychain);
            let messages: String = container_statuses(&shown).filter_map(ended_message).collect();
            assert!(messages.contains("[redacted]") && !messages.contains("t0ken"), "{messages}");
        }
    }
}
