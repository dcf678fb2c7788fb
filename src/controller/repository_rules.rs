//! Which namespaces may name which repositories, by the operator's configuration. No client is
//! needed.

use serde::Deserialize;

use crate::{
    api::condition::{Problem, Reason},
    rollout::{normalize_folder, normalize_repository},
};

/// The name of the configuration in messages.
const SETTING: &str = "repositories";
/// Maximum number of globs that a message lists.
const MAX_LISTED: usize = 8;

/// The rules. Without any, every namespace may name every repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryRules(Vec<RepositoryRule>);

/// Repositories, and the namespaces whose families may push to them. `*` stands for any characters.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct RepositoryRule {
    repositories: Vec<String>,
    namespaces: Vec<String>,
}

/// The error for an invalid configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RepositoryRulesError {
    /// The text is not YAML, or a field has the wrong type or an unknown name.
    #[error("{SETTING}: {0}")]
    Syntax(String),
    /// An entry allows nothing.
    #[error("{SETTING}[{index}].{field} is empty; list what the entry allows, or remove it")]
    Empty {
        /// The index of the entry.
        index: usize,
        /// The field.
        field: &'static str,
    },
    /// A repository has no host.
    #[error(
        "{SETTING}[{index}].repositories: `{glob}` does not begin with the host of a registry; \
         write it as in registry.example.com/team/* or docker.io/team/*"
    )]
    NoHost {
        /// The index of the entry.
        index: usize,
        /// The repository.
        glob: String,
    },
}

impl RepositoryRules {
    /// Reads the rules: a list in YAML.
    ///
    /// # Errors
    /// Returns an error for the first entry that is invalid.
    pub fn from_yaml(text: &str) -> Result<Self, RepositoryRulesError> {
        let rules: Option<Vec<RepositoryRule>> = serde_yaml::from_str(text)
            .map_err(|error| RepositoryRulesError::Syntax(error.to_string()))?;
        let mut rules = rules.unwrap_or_default();
        for (index, rule) in rules.iter_mut().enumerate() {
            for (field, globs) in
                [("repositories", &rule.repositories), ("namespaces", &rule.namespaces)]
            {
                if globs.is_empty() {
                    return Err(RepositoryRulesError::Empty { index, field });
                }
            }
            for glob in &mut rule.repositories {
                let host = glob.split_once('/').map_or(glob.as_str(), |(host, _)| host);
                if !host.contains(['.', ':', '*']) && host != "localhost" {
                    return Err(RepositoryRulesError::NoHost { index, glob: glob.clone() });
                }
                *glob = normalize_folder(glob);
            }
        }
        Ok(Self(rules))
    }

    /// Returns the problem of an image whose repository its namespace may not name.
    #[must_use]
    pub fn refusal(&self, namespace: &str, image: &str, repository: &str) -> Option<Problem> {
        if self.allows(namespace, repository) {
            return None;
        }
        let allowed: Vec<&str> = self.of_namespace(namespace).collect();
        let shown: Vec<String> =
            allowed.iter().take(MAX_LISTED).map(|glob| format!("`{glob}`")).collect();
        let allowed = match allowed.len().saturating_sub(MAX_LISTED) {
            _ if shown.is_empty() => "no repository".to_owned(),
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        };
        let message = format!(
            "spec.images[{image}]: its repository is {repository}, and the operator allows \
             families of the namespace `{namespace}` {allowed}; change spec.repository or the \
             image's `path`, or ask an admin to add the repository to `{SETTING}` of the chart"
        );
        Some(Problem { reason: Reason::RepositoryNotAllowed, message })
    }

    /// Returns whether families of a namespace may push to a repository.
    #[must_use]
    pub fn allows(&self, namespace: &str, repository: &str) -> bool {
        let repository = normalize_repository(repository);
        self.0.is_empty() || self.of_namespace(namespace).any(|glob| matches(glob, &repository))
    }

    fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(|rule| rule.namespaces.iter().any(|glob| matches(glob, namespace)))
            .flat_map(|rule| rule.repositories.iter().map(String::as_str))
    }
}

/// Whether a text matches a glob, in which `*` stands for any characters.
fn matches(glob: &str, text: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "
- repositories: ['Registry.example.com:443/platform/*', docker.io/team/app]
  namespaces: [platform, 'ci-*']
- repositories: ['registry.example.com/*/shared']
  namespaces: ['*']
";

    #[test]
    fn a_namespace_may_name_what_its_rules_list() {
        let rules = RepositoryRules::from_yaml(RULES).expect("valid");
        for (namespace, repository, allowed) in [
            ("platform", "registry.example.com/platform/a/b", true),
            ("ci-1", "REGISTRY.example.com/platform/a", true),
            ("ci-1", "registry.example.com:443/platform/a", true),
            ("platform", "index.docker.io/team/app", true),
            ("platform", "docker.io/team/app2", false),
            ("platform", "registry.example.com/platform", false),
            ("platform", "registry.example.com/platform2/a", false),
            ("platform", "registry.example.com.evil.example/platform/a", false),
            ("team", "registry.example.com/platform/a", false),
            ("team", "registry.example.com/team/shared", true),
            ("team", "registry.example.com/team/shared/a", false),
        ] {
            assert_eq!(rules.allows(namespace, repository), allowed, "{namespace} {repository}");
        }
        assert!(RepositoryRules::default().allows("team", "registry.example.com/platform/a"));
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        let rules = RepositoryRules::from_yaml(RULES).expect("valid");
        let refusal = |namespace, repository| {
            let problem = rules.refusal(namespace, "base", repository);
            problem.map(|problem| (problem.reason, problem.message))
        };
        assert_eq!(refusal("platform", "registry.example.com/platform/base"), None);
        let (reason, message) = refusal("team", "registry.example.com/platform/base").expect("no");
        assert_eq!(reason, Reason::RepositoryNotAllowed);
        assert!(message.contains("`team` `registry.example.com/*/shared`; change"), "{message}");
        assert!(!message.contains("docker.io"), "what others may is theirs: {message}");
    }

    #[test]
    fn an_invalid_rule_is_named() {
        for (yaml, part) in [
            ("- {repositories: [a.b/*]}", "missing field `namespaces`"),
            ("- {repositories: [], namespaces: [a]}", "repositories[0].repositories is empty"),
            ("- {repositories: [a.b/*], namespaces: []}", "repositories[0].namespaces is empty"),
            (
                "- {repositories: [team/*], namespaces: [a]}",
                "`team/*` does not begin with the host",
            ),
            ("- {repositories: [a.b/*], namespaces: [a], namespace: b}", "unknown field"),
        ] {
            let error = RepositoryRules::from_yaml(yaml).expect_err(yaml).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(RepositoryRules::from_yaml("[]"), Ok(RepositoryRules::default()));
        assert_eq!(RepositoryRules::from_yaml(""), Ok(RepositoryRules::default()));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("*", "a/b", true),
            ("a*", "ab", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**b", "ab", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(glob, text), expected, "{glob} {text}");
        }
    }
}
