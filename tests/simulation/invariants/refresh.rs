//! Images are refreshed when their builds are old, and not before.

use groundswell::api::{RefreshReason, refresh::time_of_nonce};
use jiff::Timestamp;
use serde_json::Value;

use crate::objects::key_of;

/// Returns the refresh that a record begins: its nonce, and why.
pub fn begun<'o>(before: &Value, record: &'o Value) -> Option<(&'o str, RefreshReason)> {
    let (old, new) = (&before["status"], &record["status"]);
    // A record that was lost finds the nonce of its build again.
    let is_lost = old["digest"].is_null();
    let nonce = new["nonce"].as_str().filter(|_| !is_lost && old["nonce"] != new["nonce"])?;
    Some((nonce, RefreshReason::of_nonce(nonce)?))
}

/// Checks a record that may begin a refresh.
pub fn written(before: Option<&Value>, record: &Value) -> Option<(&'static str, String)> {
    let before = before?;
    let (nonce, RefreshReason::Age(every)) = begun(before, record)?;
    let old = &before["status"];
    let stands_since: Timestamp = old["standsSince"].as_str()?.parse().ok()?;
    let last = old["nonce"].as_str().and_then(time_of_nonce);
    let since = last.map_or(stands_since, |last| last.max(stands_since));
    // The nonce names the second.
    let age = time_of_nonce(nonce)?.as_second() - since.as_second();
    let is_early = age < every.signed().as_secs();
    is_early.then(|| {
        let message = format!("{} is refreshed as {nonce}; since {since}", key_of(record).name);
        ("images are refreshed after their age", message)
    })
}
