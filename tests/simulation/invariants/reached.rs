//! How often the simulation reached each policy and each branch of the rules. An invariant about
//! what never happens is worth nothing, so a sweep prints the counts, and a test asserts that each
//! of [`EXPECTED`] is reached.

use std::collections::BTreeMap;

use serde_json::Value;

use super::refresh;
use crate::{cluster::Cluster, objects::Kind};

/// What a sweep over a few hundred seeds must reach.
pub const EXPECTED: [&str; 51] = [
    "breaker: opens",
    "breaker: trial build",
    "cascade: Complete",
    "cascade: Incomplete",
    "cascade: Superseded",
    "cascade: runs next to another",
    "cascade: tries a failed image again",
    "check: retried",
    "image: AncestorFailed",
    "image: BreakerOpen",
    "image: BuildFailed",
    "image: BuildLimitReached",
    "image: Cancelled",
    "image: CheckFailed",
    "image: Checking",
    "image: Held",
    "image: InfrastructureFailed",
    "image: NextCascade",
    "image: ParallelismReached",
    "image: RateLimited",
    "image: Retrying",
    "image: Settling",
    "image: Suspended",
    "image: WaitingForParent",
    "image: WindowClosed",
    "limit: in the cluster reached",
    "limit: in the namespace reached",
    "limit: of an upstream reached",
    "order: a user's build starts first",
    "order: a longer path starts first",
    "pause: after a failed build",
    "pause: after an infrastructure failure",
    "pending: at maxSettle",
    "pending: settled",
    "promotion: together",
    "refresh: by age",
    "request: Approve Done",
    "request: Approve Refused",
    "request: Cancel Done",
    "request: Cancel Refused",
    "request: Force Done",
    "request: Hold Active",
    "request: Retry Done",
    "request: Rollback Active",
    "request: Rollback Refused",
    "request: Trigger Done",
    "request: Unhold Done",
    "rollback: a tag goes back",
    "spared: a build with equal content",
    "upstream: AwaitingApproval",
    "upstream: MinimumAge",
];

/// The counts, by name.
pub type Reached = BTreeMap<String, u64>;

/// Counts that the simulation reached something.
pub fn reach(cluster: &mut Cluster, what: impl Into<String>) {
    *cluster.invariants.reached.entry(what.into()).or_default() += 1;
}

/// Counts what a status says that the one before did not.
pub fn written(cluster: &mut Cluster, kind: Kind, before: Option<&Value>, object: &Value) {
    let status = &object["status"];
    let old = before.map(|before| &before["status"]).unwrap_or(&Value::Null);
    if kind == Kind::Image
        && let Some(before) = before
        && refresh::begun(before, object).is_some()
    {
        reach(cluster, "refresh: by age");
    }
    match kind {
        Kind::Image if old["reason"] != status["reason"] => {
            reach(cluster, format!("image: {}", status["reason"].as_str().unwrap_or_default()));
        }
        Kind::Cascade if old["phase"] != status["phase"] => {
            reach(cluster, format!("cascade: {}", status["phase"].as_str().unwrap_or_default()));
        }
        Kind::Request if old["state"] != status["state"] => {
            let action = object["spec"]["action"].as_str().unwrap_or_default();
            let state = status["state"].as_str().unwrap_or_default();
            reach(cluster, format!("request: {action} {state}"));
        }
        Kind::Family => {
            if old["breaker"].is_null() && !status["breaker"].is_null() {
                reach(cluster, "breaker: opens");
            }
            for row in status["upstreams"].as_array().into_iter().flatten() {
                let known = old["upstreams"].as_array().into_iter().flatten();
                let mut known = known.filter(|known| known["name"] == row["name"]);
                let reason = row["reason"].as_str();
                if let Some(reason) = reason
                    .filter(|_| known.next().is_none_or(|known| known["reason"] != row["reason"]))
                {
                    reach(cluster, format!("upstream: {reason}"));
                }
            }
        }
        _ => {}
    }
}
