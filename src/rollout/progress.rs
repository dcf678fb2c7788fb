//! How far a workload's pods have been updated to its pod template, according to its status.
//!
//! The rules are those of `kubectl rollout status`: the status must be for the generation of the
//! spec, every pod must be created from the new template, and every pod must be available.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};

/// How far a workload's pods have been updated to its pod template. Each variant has a message for
/// the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutProgress {
    /// Every pod is updated.
    Complete(String),
    /// Pods are being updated, or are waiting to be updated.
    Progressing(String),
    /// The workload's own status reports that the update does not progress.
    Stalled(String),
}

impl RolloutProgress {
    pub(super) fn of_deployment(object: &Deployment) -> Self {
        let (Some(spec), Some(status)) = (&object.spec, &object.status) else {
            return unobserved();
        };
        if status.observed_generation < object.metadata.generation {
            return unobserved();
        }
        let deadline = status.conditions.iter().flatten().find(|c| {
            c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded")
        });
        if let Some(condition) = deadline {
            let message =
                condition.message.as_deref().unwrap_or("it exceeded its progress deadline");
            return Self::Stalled(format!(
                "the Deployment does not progress: {message}; check its newest pods"
            ));
        }
        let wanted = spec.replicas.unwrap_or(1);
        let updated = status.updated_replicas.unwrap_or(0);
        let available = status.available_replicas.unwrap_or(0);
        let old = status.replicas.unwrap_or(0) - updated;
        if spec.paused == Some(true) && (updated < wanted || old > 0) {
            Self::Stalled(
                "the Deployment is paused: resume it with `kubectl rollout resume`".into(),
            )
        } else if updated < wanted {
            Self::Progressing(format!("{updated} of {wanted} pods are updated"))
        } else if old > 0 {
            Self::Progressing(format!("{old} old pods are pending termination"))
        } else if available < updated {
            Self::Progressing(format!("{available} of {updated} updated pods are available"))
        } else {
            Self::Complete(all_pods(updated))
        }
    }

    pub(super) fn of_stateful_set(object: &StatefulSet) -> Self {
        let (Some(spec), Some(status)) = (&object.spec, &object.status) else {
            return unobserved();
        };
        if status.observed_generation < object.metadata.generation {
            return unobserved();
        }
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.update_strategy.as_ref();
        let partition = strategy
            .and_then(|strategy| strategy.rolling_update.as_ref())
            .and_then(|rolling| rolling.partition)
            .unwrap_or(0);
        let wanted = (replicas - partition).max(0);
        // Once every pod is updated, the current revision becomes the update revision and the count
        // may be reset.
        let finished = partition == 0 && status.update_revision == status.current_revision;
        let updated = if finished { status.replicas } else { status.updated_replicas.unwrap_or(0) };
        let ready = status.ready_replicas.unwrap_or(0);
        if updated < wanted
            && strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
        {
            Self::Progressing(on_delete(updated, wanted))
        } else if updated < wanted {
            Self::Progressing(format!("{updated} of {wanted} pods are updated"))
        } else if ready < replicas {
            Self::Progressing(format!("{ready} of {replicas} pods are ready"))
        } else if partition > 0 {
            Self::Complete(format!(
                "{wanted} of {replicas} pods are updated; the partition {partition} excludes the \
                 others"
            ))
        } else {
            Self::Complete(all_pods(replicas))
        }
    }

    pub(super) fn of_daemon_set(object: &DaemonSet) -> Self {
        let (Some(spec), Some(status)) = (&object.spec, &object.status) else {
            return unobserved();
        };
        if status.observed_generation < object.metadata.generation {
            return unobserved();
        }
        let wanted = status.desired_number_scheduled;
        let updated = status.updated_number_scheduled.unwrap_or(0);
        let available = status.number_available.unwrap_or(0);
        let strategy = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if updated < wanted && strategy == Some("OnDelete") {
            Self::Progressing(on_delete(updated, wanted))
        } else if updated < wanted {
            Self::Progressing(format!("{updated} of {wanted} pods are updated"))
        } else if available < wanted {
            Self::Progressing(format!("{available} of {wanted} updated pods are available"))
        } else {
            Self::Complete(all_pods(wanted))
        }
    }

    pub(super) fn of_cron_job() -> Self {
        Self::Complete("the next run uses the digest".into())
    }
}

fn unobserved() -> RolloutProgress {
    RolloutProgress::Progressing(
        "waiting for the workload's controller to observe the change".into(),
    )
}

fn all_pods(count: i32) -> String {
    match count {
        0 => "the workload is scaled to zero pods".into(),
        1 => "the pod is updated".into(),
        count => format!("all {count} pods are updated"),
    }
}

fn on_delete(updated: i32, wanted: i32) -> String {
    format!(
        "{updated} of {wanted} pods are updated; the update strategy is OnDelete: delete the old \
         pods to continue"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(replicas: i32, status: &Value) -> RolloutProgress {
        RolloutProgress::of_deployment(
            &serde_json::from_value(json!({
                "metadata": {"name": "web", "generation": 2},
                "spec": {"replicas": replicas, "selector": {}, "template": {}},
                "status": status
            }))
            .expect("a Deployment"),
        )
    }

    #[test]
    fn a_deployment_is_complete_only_when_all_pods_are_updated_and_available() {
        let status = |generation: i64, replicas: i32, updated: i32, available: i32| {
            json!({
                "observedGeneration": generation, "replicas": replicas,
                "updatedReplicas": updated, "availableReplicas": available
            })
        };
        let cases = [
            (status(1, 3, 3, 3), "unobserved"),
            (status(2, 3, 1, 3), "updating"),
            (status(2, 4, 3, 3), "terminating"),
            (status(2, 3, 3, 2), "starting"),
        ];
        for (status, case) in cases {
            assert!(matches!(deployment(3, &status), RolloutProgress::Progressing(_)), "{case}");
        }
        let complete = status(2, 3, 3, 3);
        assert_eq!(
            deployment(3, &complete),
            RolloutProgress::Complete("all 3 pods are updated".into())
        );
        assert_eq!(
            deployment(0, &json!({"observedGeneration": 2})),
            RolloutProgress::Complete("the workload is scaled to zero pods".into())
        );
    }

    #[test]
    fn a_deployment_past_its_deadline_is_stalled_with_its_own_message() {
        let status = json!({
            "observedGeneration": 2, "replicas": 2, "updatedReplicas": 1,
            "conditions": [{
                "type": "Progressing", "status": "False",
                "reason": "ProgressDeadlineExceeded", "message": "it timed out"
            }]
        });
        let RolloutProgress::Stalled(message) = deployment(1, &status) else {
            panic!("not stalled")
        };
        assert!(message.contains("it timed out"), "{message}");
    }

    fn stateful_set(strategy: &Value, status: &Value) -> RolloutProgress {
        RolloutProgress::of_stateful_set(
            &serde_json::from_value(json!({
                "metadata": {"name": "db", "generation": 1},
                "spec": {"replicas": 3, "selector": {}, "template": {}, "updateStrategy": strategy},
                "status": status
            }))
            .expect("a StatefulSet"),
        )
    }

    #[test]
    fn a_stateful_set_counts_up_to_its_partition() {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
        let status = |updated: i32, ready: i32| {
            json!({
                "observedGeneration": 1, "replicas": 3, "updatedReplicas": updated,
                "readyReplicas": ready, "currentRevision": "a", "updateRevision": "b"
            })
        };
        assert!(matches!(stateful_set(&rolling, &status(0, 3)), RolloutProgress::Progressing(_)));
        assert!(matches!(stateful_set(&rolling, &status(1, 2)), RolloutProgress::Progressing(_)));
        assert!(matches!(stateful_set(&rolling, &status(1, 3)), RolloutProgress::Complete(_)));
        assert!(matches!(
            stateful_set(&json!({"type": "RollingUpdate"}), &status(1, 3)),
            RolloutProgress::Progressing(_)
        ));
        let RolloutProgress::Progressing(message) =
            stateful_set(&json!({"type": "OnDelete"}), &status(0, 3))
        else {
            panic!("not progressing")
        };
        assert!(message.contains("delete the old pods"), "{message}");
    }

    #[test]
    fn a_daemon_set_is_complete_when_all_nodes_are_updated() {
        let daemon_set = |updated: i32, available: i32| {
            RolloutProgress::of_daemon_set(
                &serde_json::from_value(json!({
                    "metadata": {"name": "agent", "generation": 1},
                    "spec": {"selector": {}, "template": {}},
                    "status": {
                        "observedGeneration": 1, "desiredNumberScheduled": 2,
                        "currentNumberScheduled": 2, "numberMisscheduled": 0,
                        "numberReady": available, "updatedNumberScheduled": updated,
                        "numberAvailable": available
                    }
                }))
                .expect("a DaemonSet"),
            )
        };
        assert!(matches!(daemon_set(1, 2), RolloutProgress::Progressing(_)));
        assert!(matches!(daemon_set(2, 1), RolloutProgress::Progressing(_)));
        assert!(matches!(daemon_set(2, 2), RolloutProgress::Complete(_)));
    }
}
