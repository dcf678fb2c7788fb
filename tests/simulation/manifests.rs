//! What users write into the cluster consists of fields that the API has. A field that does not
//! exist would be ignored, and the simulation would no longer test what the script says.

use groundswell::api::{BuildStrategy, FamilyRequest, ImageFamily, RequestedAction};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{lost_fields::lost_fields, objects::Kind};

/// The fields that an object may lose when it is written again, because their value is the default.
const MAY_BE_LOST: [&str; 4] = ["suspend", "until", "checks", "exports"];

/// Checks an object that a user has written.
///
/// # Panics
///
/// Panics if the object cannot be read, or has a field that does not exist.
pub fn check(kind: Kind, object: &Value) {
    if let Some(problem) = problem(kind, object) {
        panic!("the manifest of a {kind:?} is wrong: {problem}: {object}");
    }
}

fn problem(kind: Kind, object: &Value) -> Option<String> {
    match kind {
        Kind::Family => problem_as::<ImageFamily>(object),
        Kind::Strategy => problem_as::<BuildStrategy>(object),
        Kind::Request => problem_as::<FamilyRequest>(object).or_else(|| {
            let request: FamilyRequest = serde_json::from_value(object.clone()).ok()?;
            RequestedAction::of(&request.spec).err().map(|error| error.to_string())
        }),
        // The controller writes these, from the types.
        Kind::Image | Kind::Cascade => None,
        Kind::Job | Kind::Pod | Kind::ConfigMap | Kind::Secret => None,
    }
}

fn problem_as<K: Resource + Serialize + DeserializeOwned>(object: &Value) -> Option<String> {
    let typed: K = match serde_json::from_value(object.clone()) {
        Ok(typed) => typed,
        Err(error) => return Some(error.to_string()),
    };
    let kept = serde_json::to_value(&typed).expect("an object serializes");
    let mut lost = lost_fields("", object, &kept);
    lost.retain(|path| !path.rsplit('.').next().is_some_and(|name| MAY_BE_LOST.contains(&name)));
    (!lost.is_empty()).then(|| format!("there are no fields {lost:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_does_not_exist_is_a_problem() {
        let strategy = |field: &str| {
            json!({
                "apiVersion": "groundswell.dev/v1alpha1",
                "kind": "BuildStrategy",
                "metadata": {"name": "model"},
                "spec": {
                    field: "60s",
                    "template": {"spec": {"containers": [{"name": "build", "image": "b"}]}},
                },
            })
        };
        assert_eq!(problem(Kind::Strategy, &strategy("ttlAfterFinished")), None);
        assert_eq!(
            problem(Kind::Strategy, &strategy("keep")).as_deref(),
            Some("there are no fields [\".spec.keep\"]")
        );
        let family = |field: &str| {
            json!({
                "apiVersion": "groundswell.dev/v1alpha1",
                "kind": "ImageFamily",
                "metadata": {"name": "app", "namespace": "team", "generation": 1},
                "spec": {
                    "repository": "registry.example.com/team",
                    "suspend": false,
                    "upstreams": [{"name": "up", "image": "up", "follow": {"tag": "1"}}],
                    "images": [{
                        "name": "base",
                        "from": [{field: "up"}],
                        "source": {"inline": "FROM up"},
                        "hold": {"until": null},
                    }],
                },
            })
        };
        assert_eq!(problem(Kind::Family, &family("upstream")), None);
        assert_eq!(
            problem(Kind::Family, &family("upstreem")).as_deref(),
            Some("there are no fields [\".spec.images[0].from[0].upstreem\"]")
        );
    }
}
