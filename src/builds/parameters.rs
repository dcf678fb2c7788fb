//! The parameters of a `BuildStrategy`: the values that a family sets, checked against what the
//! strategy allows, and the namespaces that may use the strategy.

use std::{cmp::Ordering, collections::BTreeMap};

use regex::bytes::RegexBuilder;

use crate::{
    api::{BuildStrategy, Parameter, StrategyRef},
    builds::pod_settings::amount,
};

/// Maximum size in bytes of a compiled pattern, so that no pattern takes the controller's memory.
const MAX_PATTERN_SIZE: usize = 64 * 1024;
/// Maximum number of characters of a value that an error repeats.
const MAX_SHOWN_VALUE: usize = 64;

/// The error for a parameter that a family sets, or that its strategy declares.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("BuildStrategy `{strategy}` {problem}")]
pub struct ParameterError {
    /// The strategy.
    strategy: String,
    /// What is wrong with which parameter.
    problem: String,
}

/// Returns whether families of a namespace may use a strategy.
#[must_use]
pub fn serves_namespace(strategy: &BuildStrategy, namespace: &str) -> bool {
    let Some(namespaces) = &strategy.spec.namespaces else { return true };
    namespaces.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => namespace.starts_with(prefix),
        None => namespace == entry,
    })
}

/// Returns the values of all parameters that a strategy declares: the values that the family sets,
/// or else the defaults.
///
/// # Errors
/// Returns an error if the family sets a parameter that the strategy does not declare, or a value
/// that it does not allow, or if a default is not allowed itself.
pub fn parameters(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
) -> Result<BTreeMap<String, String>, ParameterError> {
    let error = |problem| ParameterError {
        strategy: strategy.metadata.name.clone().unwrap_or_default(),
        problem,
    };
    let declared = &strategy.spec.parameters;
    let is_declared = |name: &String| declared.iter().any(|parameter| parameter.name == *name);
    if let Some(unknown) = chosen.parameters.keys().find(|name| !is_declared(name)) {
        let names = list(declared.iter().map(|parameter| &parameter.name));
        return Err(error(format!("has no parameter `{unknown}`; it declares {names}")));
    }
    declared
        .iter()
        .map(|parameter| {
            let value = chosen.parameters.get(&parameter.name).unwrap_or(&parameter.default);
            match refusal(parameter, value) {
                None => Ok((parameter.name.clone(), value.clone())),
                Some(problem) => Err(error(problem)),
            }
        })
        .collect()
}

/// Checks that a parameter may have a value which neither the family nor its default names: the
/// platform that is recorded for the family.
///
/// # Errors
/// Returns an error if the strategy declares the parameter and does not allow the value.
pub fn check_value(
    strategy: &BuildStrategy,
    name: &str,
    value: &str,
) -> Result<(), ParameterError> {
    let mut declared = strategy.spec.parameters.iter();
    let refused = declared.find(|parameter| parameter.name == name);
    refused.and_then(|parameter| refusal(parameter, value)).map_or(Ok(()), |problem| {
        let strategy = strategy.metadata.name.clone().unwrap_or_default();
        Err(ParameterError { strategy, problem })
    })
}

/// Returns why a parameter cannot have a value.
fn refusal(parameter: &Parameter, value: &str) -> Option<String> {
    let refused = |allowed: &str| {
        let shown: String = value.chars().take(MAX_SHOWN_VALUE).collect();
        let name = &parameter.name;
        Some(format!(
            "does not allow the value `{shown}` for the parameter `{name}`; it allows {allowed}"
        ))
    };
    if !parameter.allowed.is_empty() && !parameter.allowed.iter().any(|allowed| allowed == value) {
        return refused(&list(&parameter.allowed));
    }
    if let Some(pattern) = &parameter.pattern {
        match matches(pattern, value) {
            Ok(true) => {}
            Ok(false) => return refused(&format!("what matches `{pattern}`")),
            Err(problem) => {
                return Some(format!(
                    "has an invalid `pattern` for the parameter `{}`: {problem}",
                    parameter.name
                ));
            }
        }
    }
    // What is left out by default is no quantity.
    if value.is_empty() && parameter.default.is_empty() {
        return None;
    }
    out_of_range(parameter, value).and_then(|allowed| refused(&allowed))
}

/// Returns whether a pattern matches a whole value. Its classes are those of ASCII: with all
/// letters of Unicode, `\w{1,63}` alone would take megabytes.
fn matches(pattern: &str, value: &str) -> Result<bool, String> {
    let whole = format!(r"\A(?:{pattern})\z");
    let compiled = RegexBuilder::new(&whole).unicode(false).size_limit(MAX_PATTERN_SIZE).build();
    compiled.map(|pattern| pattern.is_match(value.as_bytes())).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        _ => format!("`{pattern}` is not a regular expression"),
    })
}

/// Returns the range of a parameter if a value is outside of it.
fn out_of_range(parameter: &Parameter, value: &str) -> Option<String> {
    let range = match (&parameter.minimum, &parameter.maximum) {
        (None, None) => return None,
        (Some(minimum), None) => format!("quantities of at least {minimum}"),
        (None, Some(maximum)) => format!("quantities up to {maximum}"),
        (Some(minimum), Some(maximum)) => format!("quantities from {minimum} to {maximum}"),
    };
    let is = |limit: &Option<String>, wrong: Ordering| {
        let Some(limit) = limit else { return Some(false) };
        Some(amount(value)?.partial_cmp(&amount(limit)?)? == wrong)
    };
    let is_below = is(&parameter.minimum, Ordering::Less);
    let is_above = is(&parameter.maximum, Ordering::Greater);
    (is_below != Some(false) || is_above != Some(false)).then_some(range)
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BuildStrategySpec;

    fn strategy(parameters: Vec<Parameter>) -> BuildStrategy {
        BuildStrategy::new("custom", BuildStrategySpec { parameters, ..Default::default() })
    }

    fn parameter(name: &str, default: &str) -> Parameter {
        Parameter { name: name.into(), default: default.into(), ..Parameter::default() }
    }

    fn chosen(name: &str, value: &str) -> StrategyRef {
        StrategyRef { name: "custom".into(), parameters: [(name.into(), value.into())].into() }
    }

    /// The message for a family that sets the one parameter of a strategy to a value.
    fn message(parameter: &Parameter, value: &str) -> String {
        let chosen = chosen(&parameter.name, value);
        match parameters(&strategy(vec![parameter.clone()]), &chosen) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn parameters_have_defaults_and_allowed_values() {
        let mut mode = parameter("mode", "a");
        mode.allowed = vec!["a".into(), "b".into()];
        let strategy = strategy(vec![parameter("memory", "1Gi"), mode]);
        let values = parameters(&strategy, &chosen("mode", "b")).expect("valid");
        assert_eq!(
            values,
            BTreeMap::from([("memory".into(), "1Gi".into()), ("mode".into(), "b".into())])
        );
        let unknown = parameters(&strategy, &chosen("cpu", "1")).expect_err("unknown").to_string();
        assert_eq!(
            unknown,
            "BuildStrategy `custom` has no parameter `cpu`; it declares `memory`, `mode`"
        );
        let rejected = parameters(&strategy, &chosen("mode", "c")).expect_err("rejected");
        assert_eq!(
            rejected.to_string(),
            "BuildStrategy `custom` does not allow the value `c` for the parameter `mode`; it \
             allows `a`, `b`"
        );
    }

    #[test]
    fn quantities_stay_in_their_range() {
        let mut memory = parameter("memoryLimit", "4Gi");
        memory.maximum = Some("64Gi".into());
        assert_eq!(
            message(&memory, "900Gi"),
            "BuildStrategy `custom` does not allow the value `900Gi` for the parameter \
             `memoryLimit`; it allows quantities up to 64Gi"
        );
        for (value, is_allowed) in [
            ("64Gi", true),
            ("65536Mi", true),
            ("68719476737", false),
            ("1Pi", false),
            ("1E", false),
            ("much", false),
            ("-1Gi", false),
            ("", false),
        ] {
            assert_eq!(message(&memory, value).is_empty(), is_allowed, "{value}");
        }
        memory.minimum = Some("512Mi".into());
        assert!(message(&memory, "1Mi").ends_with("allows quantities from 512Mi to 64Gi"));
        memory.maximum = None;
        assert!(message(&memory, "1Mi").ends_with("allows quantities of at least 512Mi"));
        memory.default = String::new();
        assert_eq!(message(&memory, ""), "", "it may be left out by default");
        memory.default = "1Mi".into();
        assert_ne!(message(&memory, "1Mi"), "", "the default is checked as well");
        memory.minimum = Some("some".into());
        assert_ne!(message(&memory, "1Gi"), "", "a range that cannot be read allows nothing");
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        let mut pool = parameter("pool", "small-1");
        pool.pattern = Some("small-[0-9]+|large".into());
        assert_eq!(message(&pool, "small-12"), "");
        for value in ["small-1,privileged", "xlarge", "large\n", ""] {
            assert!(message(&pool, value).ends_with("allows what matches `small-[0-9]+|large`"));
        }
        pool.pattern = Some(r"\w{1,63}-\w+".into());
        assert_eq!(message(&pool, "medium-1"), "", "an ordinary pattern is not too large");
        for (pattern, said) in [("(", "is not a regular"), ("(\\w{1,99}){1,999}", "too large")] {
            pool.pattern = Some(pattern.into());
            assert!(message(&pool, "large").contains(said), "{}", message(&pool, "large"));
        }
    }

    #[test]
    fn a_strategy_serves_the_namespaces_that_it_lists() {
        let mut strategy = strategy(Vec::new());
        assert!(serves_namespace(&strategy, "team"), "every namespace, if it lists none");
        for (entries, namespace, serves) in [
            (&[][..], "team", false),
            (&["team"], "team", true),
            (&["team"], "team-a", false),
            (&["other", "team-*"], "team-a", true),
            (&["team-*"], "team", false),
            (&["*"], "team", true),
        ] {
            let entries = entries.iter().map(ToString::to_string).collect();
            strategy.spec.namespaces = Some(entries);
            assert_eq!(serves_namespace(&strategy, namespace), serves, "{namespace}");
        }
    }
}
