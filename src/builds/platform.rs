//! The platform of a build: what the image's strategy names, or else the default of its family. The
//! pods of a build and of its checks run on nodes of the platform.

use std::collections::BTreeMap;

use crate::{
    api::{BuildStrategy, StrategyRef},
    builds::{parameters::parameters, strategy::StrategyError},
    registry::Platform,
};

/// The parameter of a strategy that names the platform of its builds.
pub const PLATFORM_PARAMETER: &str = "platform";
/// The label of a node with its operating system.
const OS_LABEL: &str = "kubernetes.io/os";
/// The label of a node with its architecture.
const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";

/// Returns the platform that a strategy names with a family's parameters, or `None` if it names
/// none.
///
/// # Errors
/// Returns an error if the family sets an invalid parameter, or if the value is not a platform.
pub fn named_platform(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
) -> Result<Option<Platform>, StrategyError> {
    let parameters = parameters(strategy, chosen)?;
    let Some(value) = parameters.get(PLATFORM_PARAMETER).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let platform = Platform::from_user(value).ok_or_else(|| StrategyError::InvalidPlatform {
        strategy: strategy.metadata.name.clone().unwrap_or_default(),
        value: value.clone(),
    })?;
    Ok(Some(platform))
}

/// Returns the labels of the nodes of a platform. Nodes have no label for a variant, and those that
/// run 386 are amd64 nodes.
fn node_labels(platform: &Platform) -> [(&'static str, &str); 2] {
    let architecture = match platform.architecture.as_str() {
        "386" => "amd64",
        other => other,
    };
    [(OS_LABEL, &platform.os), (ARCHITECTURE_LABEL, architecture)]
}

/// Returns what is wrong with a node selector that selects nodes of another platform.
#[must_use]
pub fn selector_conflict(
    selector: Option<&BTreeMap<String, String>>,
    platform: &Platform,
) -> Option<String> {
    node_labels(platform).into_iter().find_map(|(label, value)| {
        let selected = selector?.get(label).filter(|selected| *selected != value)?;
        Some(format!(
            "selects nodes with {label}={selected}, but the build is for {platform}; remove the \
             label from nodeSelector, or set the parameter `{PLATFORM_PARAMETER}`"
        ))
    })
}

/// Returns a node selector that selects nodes of a platform only.
#[must_use]
pub fn select_nodes(
    selector: Option<BTreeMap<String, String>>,
    platform: &Platform,
) -> BTreeMap<String, String> {
    let mut selector = selector.unwrap_or_default();
    let labels = node_labels(platform);
    selector.extend(labels.map(|(label, value)| (label.to_owned(), value.to_owned())));
    selector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BuildStrategySpec, Parameter};

    fn strategy(default: &str) -> BuildStrategy {
        let parameter =
            Parameter { name: "platform".into(), default: default.into(), ..Parameter::default() };
        let parameters = vec![parameter];
        BuildStrategy::new("s", BuildStrategySpec { parameters, ..BuildStrategySpec::default() })
    }

    fn chosen(platform: Option<&str>) -> StrategyRef {
        let parameters = platform.map(|value| ("platform".into(), value.into()));
        StrategyRef { name: "s".into(), parameters: parameters.into_iter().collect() }
    }

    #[test]
    fn a_build_for_386_runs_on_nodes_of_amd64() {
        for (platform, expected) in
            [("linux/386", "amd64"), ("linux/amd64/v3", "amd64"), ("linux/arm/v6", "arm")]
        {
            let platform = Platform::from_user(platform).expect("a platform");
            let selector = select_nodes(None, &platform);
            assert_eq!(selector[ARCHITECTURE_LABEL], expected, "{platform}");
            assert_eq!(selector_conflict(Some(&selector), &platform), None);
        }
    }

    #[test]
    fn a_family_may_name_the_platform_and_else_the_strategy_does() {
        for (default, of_family, expected) in [
            ("", None, None),
            ("linux/amd64", None, Some("linux/amd64")),
            ("linux/amd64", Some("linux/aarch64"), Some("linux/arm64")),
            ("linux/amd64", Some(""), None),
        ] {
            let named = named_platform(&strategy(default), &chosen(of_family)).expect("valid");
            assert_eq!(named.map(|platform| platform.to_string()).as_deref(), expected);
        }
        let undeclared = BuildStrategy::new("s", BuildStrategySpec::default());
        assert_eq!(named_platform(&undeclared, &chosen(None)), Ok(None));
        let error = named_platform(&strategy(""), &chosen(Some("arm64"))).expect_err("invalid");
        assert_eq!(
            error.to_string(),
            "BuildStrategy `s`: the parameter `platform` has the value `arm64`, which is not a \
             platform such as linux/arm64"
        );
    }
}
