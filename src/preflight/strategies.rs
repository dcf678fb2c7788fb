//! The strategy that is tried: that of the cluster, or the shipped one before the installation.

use kube::{Api, Client};

use crate::{
    api::BuildStrategy,
    builds::parameters::serves_namespace,
    preflight::{
        call::{CallError, call},
        report::Finding,
    },
};

/// The shipped strategies by name. The chart installs the same files.
const SHIPPED: [(&str, &str); 2] = [
    ("buildkit", include_str!("../../charts/groundswell/files/strategies/buildkit.yaml")),
    (
        "buildkit-privileged",
        include_str!("../../charts/groundswell/files/strategies/buildkit-privileged.yaml"),
    ),
];

/// When the pre-flight runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckTime {
    /// Before the installation.
    Before,
    /// After it.
    After,
}

/// The strategy that families of a namespace name.
#[derive(Clone, Copy)]
pub struct NamedStrategy<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
}

impl NamedStrategy<'_> {
    /// Returns the strategy of the cluster. If the cluster does not have it or the caller may not
    /// read it, returns the shipped one of the same name.
    pub async fn find(
        self,
        client: &Client,
        time: CheckTime,
    ) -> (Option<BuildStrategy>, Option<Finding>) {
        let api: Api<BuildStrategy> = Api::all(client.clone());
        self.judge(call(api.get(self.name)).await, time)
    }

    fn judge(
        self,
        read: Result<BuildStrategy, CallError>,
        time: CheckTime,
    ) -> (Option<BuildStrategy>, Option<Finding>) {
        let Self { name, namespace } = self;
        let title = format!("strategy {name}");
        let error = match read {
            Ok(strategy) if serves_namespace(&strategy, namespace) => {
                return (Some(strategy), None);
            }
            Ok(strategy) => {
                let message = format!(
                    "does not serve namespace {namespace}; list the namespace in its \
                 spec.namespaces, or name another strategy"
                );
                return (Some(strategy), Some(Finding::problem(title, message)));
            }
            Err(error) => error,
        };
        let found = shipped(name);
        let instead = match found {
            Some(_) => "; the one that this version ships is tried in its place",
            None => "",
        };
        let finding = match (&error, time, &found) {
            (CallError::NotFound(_), CheckTime::Before, Some(_)) => {
                Finding::ok(title, format!("is not installed yet{instead}"))
            }
            (CallError::NotFound(_), _, _) => Finding::problem(
                title,
                format!(
                    "does not exist; `kubectl get buildstrategies` lists those of the cluster, and \
                     the chart's value buildStrategies.NAME.enabled adds one{instead}"
                ),
            ),
            (error, _, _) => Finding::not_checked(title, format!("{error}{instead}")),
        };
        (found, Some(finding))
    }
}

fn shipped(name: &str) -> Option<BuildStrategy> {
    let (_, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
    serde_yaml::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::report::Verdict;

    #[test]
    fn shipped_strategies_are_used_where_there_are_none() {
        for (name, _) in SHIPPED {
            let strategy = shipped(name).expect(name);
            assert_eq!(strategy.metadata.name.as_deref(), Some(name));
        }
        let absent = || CallError::NotFound("404".into());
        let forbidden = || CallError::Forbidden("no".into());
        for (name, error, time, is_found, verdict) in [
            ("buildkit", absent(), CheckTime::Before, true, Verdict::Ok),
            ("buildkit", absent(), CheckTime::After, true, Verdict::Problem),
            ("buildkit", forbidden(), CheckTime::After, true, Verdict::NotChecked),
            ("own", absent(), CheckTime::Before, false, Verdict::Problem),
            ("own", forbidden(), CheckTime::After, false, Verdict::NotChecked),
        ] {
            let named = NamedStrategy { name, namespace: "team" };
            let (found, finding) = named.judge(Err(error), time);
            assert_eq!(found.is_some(), is_found, "{name}");
            let finding = finding.expect("a line");
            assert_eq!(finding.verdict, verdict, "{name}");
            assert_eq!(finding.message.contains("tried in its place"), is_found, "{finding:?}");
        }
        let mut strategy = shipped("buildkit").expect("a strategy");
        let named = NamedStrategy { name: "buildkit", namespace: "team" };
        let (found, finding) = named.judge(Ok(strategy.clone()), CheckTime::After);
        assert!(found.is_some() && finding.is_none());
        strategy.spec.namespaces = Some(vec!["other".into()]);
        let (found, finding) = named.judge(Ok(strategy), CheckTime::After);
        let finding = finding.expect("a line");
        assert!(found.is_some() && finding.verdict == Verdict::Problem);
        assert!(finding.message.contains("does not serve namespace team"), "{finding:?}");
    }
}
