//! The writes to the API server, from its own metric `apiserver_request_total`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{AddAssign, Sub},
};

use kube::Client;

/// The verbs that change something.
const VERBS: [&str; 5] = ["APPLY", "DELETE", "PATCH", "POST", "PUT"];

/// Number of writes by verb, resource and group.
#[derive(Clone, Debug, Default)]
pub struct Writes(BTreeMap<String, i64>);

impl Writes {
    /// Counts the writes of all clients since the API server was started.
    pub async fn count(client: &Client) -> Self {
        let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
        let text = client.request_text(request).await.expect("the API server's metrics");
        let mut writes = BTreeMap::new();
        for line in text.lines() {
            let Some((labels, value)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|rest| rest.split_once("} "))
            else {
                continue;
            };
            if let Some(what) = what(labels) {
                // Prometheus writes large numbers as 1.5e+06.
                let value: f64 = value.parse().expect("a number");
                #[allow(clippy::cast_possible_truncation, reason = "a count")]
                let value = value as i64;
                *writes.entry(what).or_default() += value;
            }
        }
        Self(writes)
    }

    fn get(&self, what: &str) -> i64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl Sub for Writes {
    type Output = Self;

    fn sub(mut self, before: Self) -> Self {
        for (what, count) in before.0 {
            *self.0.entry(what).or_default() -= count;
        }
        self
    }
}

impl AddAssign for Writes {
    fn add_assign(&mut self, more: Self) {
        for (what, count) in more.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// Returns what a row of the metric counts; `None` if it counts no write.
fn what(labels: &str) -> Option<String> {
    let label = |name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0)
    };
    let verb = label("verb").filter(|verb| VERBS.contains(verb))?;
    let slashed = |part: &str| if part.is_empty() { String::new() } else { format!("/{part}") };
    let group = label("group")
        .filter(|group| !group.is_empty())
        .map_or_else(String::new, |group| format!(".{group}"));
    let tried = if label("dry_run").is_some_and(|dry| !dry.is_empty()) { " (dry run)" } else { "" };
    // The first letter of a label's name is not part of another's: `,resource=` and not
    // `subresource=`.
    let resource = labels
        .split(',')
        .find_map(|label| label.strip_prefix("resource=\""))?
        .trim_end_matches('"');
    Some(format!("{verb:6} {resource}{}{group}{tried}", slashed(label("subresource")?)))
}

/// Prints both sides and the difference, per image. Rows with less than 0.01 writes per image on
/// both sides are left out.
pub fn print(ours: &Writes, bare: &Writes, images: usize) {
    let per_image = |count: i64| count as f64 / images as f64;
    println!("  {:56} {:>10} {:>10} {:>10}", "", "controller", "bare loop", "more");
    let mut totals = (0, 0);
    let rows: BTreeSet<&String> = ours.0.keys().chain(bare.0.keys()).collect();
    for what in rows {
        let (ours, bare) = (ours.get(what), bare.get(what));
        totals = (totals.0 + ours, totals.1 + bare);
        if per_image(ours.max(bare)) >= 0.01 {
            let (ours, bare) = (per_image(ours), per_image(bare));
            println!("  {what:56} {ours:10.2} {bare:10.2} {:10.2}", ours - bare);
        }
    }
    let (ours, bare) = (per_image(totals.0), per_image(totals.1));
    println!("  {:56} {ours:10.2} {bare:10.2} {:10.2}", "all", ours - bare);
}
