//! What must survive the loss of records and statuses: what users agreed to, and which of several
//! builds from the same inputs is the newest.

use groundswell::api::Upstream;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    invariants::{reconcile_view, records::refused, short},
    objects::{Kind, key_of, owner, uid},
    registry::{BuildOrigin, built_digest},
};

/// Checks that a floating tag does not go from the result of a requested rebuild back to an earlier
/// build from the same inputs.
pub fn tag_moved(
    cluster: &Cluster,
    name: &str,
    from: &str,
    to: &str,
) -> Option<(&'static str, String)> {
    let repository = cluster.registry.repositories.get(name)?;
    let (before, after) = (repository.order.get(from)?, repository.order.get(to)?);
    if after >= before {
        return None;
    }
    let origins = |digest: &str| repository.origins.get(digest).map_or(&[][..], Vec::as_slice);
    let is_same = |one: &BuildOrigin, other: &BuildOrigin| {
        (&one.image, &one.source, &one.parents, &one.args)
            == (&other.image, &other.source, &other.parents, &other.args)
    };
    let same = origins(from).iter().any(|one| origins(to).iter().any(|other| is_same(one, other)));
    same.then(|| {
        let message = format!("{name} from {} to the earlier {}", short(from), short(to));
        ("rebuilds from the same inputs are not taken back", message)
    })
}

/// Checks that the mark of a requested rebuild moves to a later build only.
pub fn mark_moved(
    cluster: &Cluster,
    name: &str,
    from: Option<&str>,
    to: &str,
) -> Option<(&'static str, String)> {
    let repository = cluster.registry.repositories.get(name)?;
    let from = from?;
    let (before, after) = (repository.order.get(from)?, repository.order.get(to)?);
    (after < before).then(|| {
        let message = format!("{name}: the mark goes from {} to {}", short(from), short(to));
        ("marks of rebuilds move to later builds", message)
    })
}

/// Checks that the first digest that a family adopts after it has lost its status was agreed to
/// before, or comes through the gates. Records the digests that are adopted.
pub fn first_adopted(
    cluster: &mut Cluster,
    before: Option<&Value>,
    family: &Value,
) -> Option<(&'static str, String)> {
    let key = key_of(family);
    let (spec, started_at) = reconcile_view(cluster, &key)?;
    let mut found = None;
    for upstream in &spec.upstreams {
        let Some(new) = adopted_digest(family, upstream) else { continue };
        let agreed = (uid(family).to_owned(), upstream.reference());
        let was_lost = before.is_some_and(|before| adopted_digest(before, upstream).is_none());
        let known = cluster.invariants.agreed.get(&agreed);
        if was_lost
            && known.is_some_and(|known| !known.contains(&new))
            && is_remembered(cluster, family, upstream)
            && let Some(why) =
                before.and_then(|before| refused(cluster, &key, before, upstream, &new, started_at))
        {
            let message =
                format!("{} of {}: {}, and {}", upstream.name, key.name, short(&new), why.message);
            found = Some(("a lost status agrees to nothing", message));
        }
        cluster.invariants.agreed.entry(agreed).or_default().insert(new);
    }
    found
}

/// Returns the digest that builds use of an upstream, according to the status of a family.
fn adopted_digest(family: &Value, upstream: &Upstream) -> Option<String> {
    let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
    let mut rows = rows.filter(|row| {
        row["name"] == upstream.name.as_str() && row["reference"] == upstream.reference().as_str()
    });
    rows.find_map(|row| built_digest(&row["adopted"]).map(str::to_owned))
}

/// Whether a record of the family remembers an upstream.
fn is_remembered(cluster: &Cluster, family: &Value, upstream: &Upstream) -> bool {
    let reference = upstream.reference();
    let mut records = cluster.objects.all(Kind::Image);
    records.any(|(_, record)| {
        let remembered = record["spec"]["upstreams"].as_array().into_iter().flatten();
        owner(record) == uid(family)
            && remembered.into_iter().any(|known| known["reference"] == reference.as_str())
    })
}
