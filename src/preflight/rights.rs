//! Rights: those of the caller, and those of the controller's `ServiceAccount`. The API server is
//! asked about each right by itself, because a role says nothing about other authorizers.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;

use crate::{
    api::GROUP,
    preflight::{
        call::{CallError, call},
        report::Finding,
    },
};

/// The rules of the controller in the chart. There is no copy of them here.
const CONTROLLER_RULES: &str = include_str!("../../charts/groundswell/templates/_rules.tpl");
/// Number of questions that are asked at once.
const MAX_CONCURRENT_REVIEWS: usize = 8;

/// A rule of a role, as the chart writes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoleRule {
    /// The API groups. The core group is empty.
    pub api_groups: Vec<String>,
    /// The resources, as `resource` or `resource/subresource`.
    pub resources: Vec<String>,
    /// The verbs.
    pub verbs: Vec<String>,
}

/// One right: a verb on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AccessRight {
    group: String,
    resource: String,
    verb: String,
    /// The namespace, if it is not the one that is checked; empty for the whole cluster.
    elsewhere: Option<String>,
    /// The object, if the right is for one only.
    object: Option<String>,
}

/// Whose rights are reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewedSubject<'a> {
    /// The caller.
    Caller,
    /// A `ServiceAccount`.
    ServiceAccount {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
}

/// Returns the rules of the controller in a namespace that it serves.
///
/// # Errors
/// Returns an error if the chart's template is not a list of rules, which a test prevents.
pub fn controller_rules() -> anyhow::Result<Vec<RoleRule>> {
    let is_template = |line: &&str| line.trim_start().starts_with("{{");
    let rules: Vec<&str> = CONTROLLER_RULES.lines().filter(|line| !is_template(line)).collect();
    Ok(serde_yaml::from_str(&rules.join("\n"))?)
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> RoleRule {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    RoleRule { api_groups: owned(&[group]), resources: owned(resources), verbs: owned(verbs) }
}

/// Returns what the author of families needs in their namespace.
fn author_rules() -> [RoleRule; 5] {
    [
        rule(GROUP, &["imagefamilies"], &["get", "list", "create", "update", "patch", "delete"]),
        rule(GROUP, &["managedimages"], &["get", "list"]),
        rule(GROUP, &["cascades"], &["get", "list"]),
        rule(GROUP, &["familyrequests"], &["get", "list", "create", "delete"]),
        rule("", &["secrets", "configmaps"], &["create"]),
    ]
}

/// Returns what an installation needs in the whole cluster.
fn installation_rules() -> [RoleRule; 4] {
    [
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], &["create", "patch"]),
        rule("rbac.authorization.k8s.io", &["clusterroles", "clusterrolebindings"], &["create"]),
        rule(
            "admissionregistration.k8s.io",
            &["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            &["create"],
        ),
        rule(GROUP, &["buildstrategies"], &["create", "patch"]),
    ]
}

/// Returns what an installation needs in its own namespace.
fn installation_rules_in_namespace() -> [RoleRule; 4] {
    [
        rule("apps", &["deployments"], &["create"]),
        rule("", &["configmaps", "serviceaccounts", "services"], &["create"]),
        rule("policy", &["poddisruptionbudgets"], &["create"]),
        rule("rbac.authorization.k8s.io", &["roles", "rolebindings"], &["create"]),
    ]
}

/// Checks that the caller may write families in a namespace.
pub async fn check_author(client: &Client, namespace: &str) -> Finding {
    let rights = expand(&author_rules());
    let denied = denied(client, ReviewedSubject::Caller, Some(namespace), &rights).await;
    let to_do = format!("ask for the role `edit` in namespace {namespace}");
    judge("your rights", &format!("you, in namespace {namespace},"), &rights, &denied, &to_do)
}

/// Checks that the caller may install Groundswell.
pub async fn check_installer(client: &Client, operator_namespace: &str) -> Finding {
    let mut here = expand(&installation_rules_in_namespace());
    for right in &mut here {
        right.elsewhere = Some(operator_namespace.into());
    }
    let rights = [expand(&installation_rules()), here].concat();
    let denied = denied(client, ReviewedSubject::Caller, None, &rights).await;
    let to_do = "have a cluster administrator install Groundswell, or the part that needs it \
                 (docs/operations.md, \"Who installs what\")";
    judge("your rights", "you", &rights, &denied, to_do)
}

/// Returns what the controller needs outside of the namespaces that it serves: to read strategies,
/// the namespace itself and the Leases of other installations, to lead, and to make the keys of
/// build records.
fn rights_elsewhere(namespace: &str, operator_namespace: &str) -> Vec<AccessRight> {
    let lease = Some("groundswell");
    let needed = [
        (GROUP, "buildstrategies", &["get", "list", "watch"][..], "", None),
        ("", "namespaces", &["get"][..], "", Some(namespace)),
        ("coordination.k8s.io", "leases", &["get"][..], "", lease),
        ("coordination.k8s.io", "leases", &["get", "update"][..], operator_namespace, lease),
        ("coordination.k8s.io", "leases", &["create"][..], operator_namespace, None),
        ("", "secrets", &["create"][..], operator_namespace, None),
    ];
    let rights = needed.into_iter().flat_map(|(group, resource, verbs, elsewhere, object)| {
        verbs.iter().map(move |verb| AccessRight {
            group: group.into(),
            resource: resource.into(),
            verb: (*verb).into(),
            elsewhere: Some(elsewhere.into()),
            object: object.map(Into::into),
        })
    });
    rights.collect()
}

/// Checks that the controller has the rights that its chart gives to it: in the namespace, in the
/// cluster, and in its own namespace.
pub async fn check_controller_rights(
    client: &Client,
    subject: ReviewedSubject<'_>,
    namespace: &str,
    operator_namespace: &str,
) -> Finding {
    let title = "controller's rights";
    let rights = match controller_rules() {
        Ok(rules) => expand(&rules),
        Err(error) => return Finding::not_checked(title, error.to_string()),
    };
    let rights = [rights, rights_elsewhere(namespace, operator_namespace)].concat();
    let denied = denied(client, subject, Some(namespace), &rights).await;
    let who = match subject {
        ReviewedSubject::Caller => format!("the controller, in namespace {namespace},"),
        ReviewedSubject::ServiceAccount { namespace: own, name } => {
            format!("the ServiceAccount {own}/{name}, in namespace {namespace},")
        }
    };
    let to_do = "upgrade the chart with rbac.create, or add the rules to the controller's role";
    judge(title, &who, &rights, &denied, to_do)
}

fn expand(rules: &[RoleRule]) -> Vec<AccessRight> {
    let mut rights = Vec::new();
    for RoleRule { api_groups, resources, verbs } in rules {
        for group in api_groups {
            for resource in resources {
                rights.extend(verbs.iter().map(|verb| AccessRight {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    elsewhere: None,
                    object: None,
                }));
            }
        }
    }
    rights
}

/// Returns the rights that a subject lacks.
async fn denied(
    client: &Client,
    subject: ReviewedSubject<'_>,
    namespace: Option<&str>,
    rights: &[AccessRight],
) -> Result<Vec<AccessRight>, CallError> {
    let reviews = rights.iter().map(|right| async move {
        let allowed = is_allowed(client, subject, right.attributes(namespace)).await?;
        Ok((!allowed).then(|| right.clone()))
    });
    let answers: Vec<Option<AccessRight>> =
        stream::iter(reviews).buffered(MAX_CONCURRENT_REVIEWS).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn is_allowed(
    client: &Client,
    subject: ReviewedSubject<'_>,
    attributes: ResourceAttributes,
) -> Result<bool, CallError> {
    let parameters = PostParams::default();
    let status = match subject {
        ReviewedSubject::Caller => {
            let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            call(api.create(&parameters, &review)).await?.status
        }
        ReviewedSubject::ServiceAccount { namespace, name } => {
            let api: Api<SubjectAccessReview> = Api::all(client.clone());
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                groups: Some(vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".into(),
                ]),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            call(api.create(&parameters, &review)).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}

impl AccessRight {
    fn attributes(&self, namespace: Option<&str>) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (self.resource.as_str(), None),
        };
        ResourceAttributes {
            group: Some(self.group.clone()),
            resource: Some(resource.into()),
            subresource: subresource.map(Into::into),
            verb: Some(self.verb.clone()),
            namespace: self.elsewhere.clone().or_else(|| namespace.map(Into::into)),
            name: self.object.clone(),
            ..ResourceAttributes::default()
        }
    }
}

/// `who` is the subject of a sentence.
fn judge(
    title: &str,
    who: &str,
    rights: &[AccessRight],
    denied: &Result<Vec<AccessRight>, CallError>,
    to_do: &str,
) -> Finding {
    match denied {
        Ok(denied) if denied.is_empty() => {
            Finding::ok(title, format!("{who} may do all of the {} actions needed", rights.len()))
        }
        Ok(denied) => {
            Finding::problem(title, format!("{who} may not {}; {to_do}", name_rights(denied)))
        }
        Err(error) => Finding::not_checked(title, error.to_string()),
    }
}

/// Returns rights as `verb, verb resources.group`.
fn name_rights(rights: &[AccessRight]) -> String {
    let mut verbs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for AccessRight { group, resource, verb, elsewhere, object } in rights {
        let dot = if group.is_empty() { "" } else { "." };
        let object = object.as_ref().map_or_else(String::new, |name| format!(" {name}"));
        let place = match elsewhere.as_deref() {
            None => String::new(),
            Some("") => " in the whole cluster".into(),
            Some(namespace) => format!(" in namespace {namespace}"),
        };
        verbs.entry(format!("{resource}{dot}{group}{object}{place}")).or_default().push(verb);
    }
    let named = verbs.iter().map(|(resource, verbs)| format!("{} {resource}", verbs.join(", ")));
    named.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::report::Verdict;

    #[test]
    fn the_controllers_rules_are_those_of_the_chart() {
        let rules = controller_rules().expect("rules");
        let written = CONTROLLER_RULES.matches("- apiGroups:").count();
        assert_eq!(rules.len(), written);
        let rights = expand(&rules);
        let has = |group: &str, resource: &str, verb: &str| {
            rights.iter().any(|right| {
                (right.group.as_str(), right.resource.as_str(), right.verb.as_str())
                    == (group, resource, verb)
            })
        };
        assert!(has("batch", "jobs", "create") && has("", "secrets", "get"));
        assert!(has("groundswell.dev", "imagefamilies/status", "patch"));
        assert!(rights.len() < 100, "{} questions are too many", rights.len());
    }

    #[test]
    fn a_subresource_is_asked_for_by_itself() {
        let right = |resource: &str| AccessRight {
            group: "g".into(),
            resource: resource.into(),
            verb: "patch".into(),
            elsewhere: None,
            object: None,
        };
        let attributes = right("cascades/status").attributes(Some("team"));
        assert_eq!(attributes.resource.as_deref(), Some("cascades"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
        assert_eq!(right("cascades").attributes(None).subresource, None);
    }

    #[tokio::test]
    async fn each_right_is_asked_for_and_those_denied_are_named() {
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
            let body = request.into_body().collect_bytes().await.expect("a body");
            let mut review: serde_json::Value = serde_json::from_slice(&body).expect("a review");
            let verb = review["spec"]["resourceAttributes"]["verb"].as_str().unwrap_or_default();
            review["status"] = serde_json::json!({"allowed": verb != "delete"});
            let answer = kube::client::Body::from(review.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(http::Response::new(answer))
        });
        let finding = check_author(&Client::new(service, "team"), "team").await;
        assert_eq!(finding.verdict, Verdict::Problem);
        assert_eq!(
            finding.message,
            "you, in namespace team, may not delete familyrequests.groundswell.dev; delete \
             imagefamilies.groundswell.dev; ask for the role `edit` in namespace team"
        );
    }

    #[test]
    fn rights_outside_of_the_namespace_name_their_place() {
        let rights = rights_elsewhere("team", "groundswell-system");
        assert_eq!(
            name_rights(&rights),
            "get, list, watch buildstrategies.groundswell.dev in the whole cluster; get, update \
             leases.coordination.k8s.io groundswell in namespace groundswell-system; get \
             leases.coordination.k8s.io groundswell in the whole cluster; create \
             leases.coordination.k8s.io in namespace groundswell-system; get namespaces team in \
             the whole cluster; create secrets in namespace groundswell-system"
        );
        let lease = rights.iter().find(|right| right.verb == "update").expect("the Lease");
        let asked = lease.attributes(Some("team"));
        assert_eq!(asked.namespace.as_deref(), Some("groundswell-system"));
        assert_eq!(asked.name.as_deref(), Some("groundswell"));
        // The chart grants them.
        let cluster = include_str!("../../charts/groundswell/templates/rbac-cluster.yaml");
        let leader = include_str!("../../charts/groundswell/templates/rbac-leader-election.yaml");
        for (granted, rule) in [
            (cluster, "[buildstrategies]\n  verbs: [get, list, watch]\n"),
            (cluster, "[leases]\n  resourceNames: [groundswell]\n  verbs: [get]\n"),
            (leader, "[leases]\n  resourceNames: [groundswell]\n  verbs: [get, update]\n"),
            (leader, "[leases]\n  verbs: [create]\n"),
            (leader, "[secrets]\n  verbs: [create]\n"),
        ] {
            assert!(granted.contains(&format!("resources: {rule}")), "{rule}");
        }
        let strategies = rights[0].attributes(Some("team"));
        assert_eq!(strategies.namespace.as_deref(), Some(""), "not the namespace of the family");
    }

    #[test]
    fn missing_rights_are_named_with_what_to_do() {
        let rights = expand(&author_rules());
        let judged = |denied| judge("t", "you", &rights, &denied, "ask");
        assert_eq!(judged(Ok(vec![])).verdict, Verdict::Ok);
        let lacking = judged(Ok(vec![rights[3].clone(), rights[4].clone(), rights[14].clone()]));
        assert_eq!(lacking.verdict, Verdict::Problem);
        assert_eq!(
            lacking.message,
            "you may not update, patch imagefamilies.groundswell.dev; create secrets; ask"
        );
        let unknown = judged(Err(CallError::Forbidden("no".into())));
        assert_eq!((unknown.verdict, unknown.message.as_str()), (Verdict::NotChecked, "no"));
    }
}
