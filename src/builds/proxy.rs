//! The proxy that the operator's environment names, for the containers of builds.

use std::fmt;

use k8s_openapi::api::core::v1::EnvVar;
use url::Url;

use crate::builds::job::env_var;

/// The variables, in upper case; programs read either case.
const VARIABLES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// The variables that name the proxy. They never contain a credential, because everybody who may
/// read Jobs can read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyVariables(Vec<EnvVar>);

/// The error for a proxy that builds cannot use. It does not repeat the URL, which may contain a
/// password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProxyError {
    /// The value is not the URL of a proxy.
    #[error("{0} is not a URL such as http://proxy.example.com:3128")]
    Url(&'static str),
    /// The URL contains a user or a password.
    #[error(
        "{0} contains a user or a password, but builds would show it to everybody who may read \
         Jobs; use a proxy that needs none"
    )]
    Credential(&'static str),
}

impl ProxyVariables {
    /// Returns the variables of an environment. The lower-case name of a variable is used if the
    /// upper-case one is not set.
    ///
    /// # Errors
    /// Returns a [`ProxyError`] if a proxy is not a URL, or if it contains a credential.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let mut variables = Vec::new();
        for name in VARIABLES {
            let value = get(name).or_else(|| get(&name.to_lowercase()));
            let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
            if name != "NO_PROXY" {
                let url = Url::parse(&value).map_err(|_| ProxyError::Url(name))?;
                if !url.has_host() {
                    return Err(ProxyError::Url(name));
                }
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(ProxyError::Credential(name));
                }
            }
            // The kubelet would expand `$(NAME)`.
            variables.push(env_var(name, &value.replace('$', "$$")));
        }
        Ok(Self(variables))
    }

    /// Adds the variables to an environment, except those that it sets already in either case.
    pub(super) fn add_to(&self, environment: &mut Vec<EnvVar>) {
        for variable in &self.0 {
            if environment.iter().all(|own| !own.name.eq_ignore_ascii_case(&variable.name)) {
                environment.push(variable.clone());
            }
        }
    }
}

impl fmt::Display for ProxyVariables {
    /// Writes each variable as `NAME=value`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, variable) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { " " };
            let value = variable.value.as_deref().unwrap_or_default();
            write!(f, "{separator}{}={value}", variable.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(variables: &[(&str, &str)]) -> Result<ProxyVariables, ProxyError> {
        ProxyVariables::from_environment(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_are_read_in_either_case_and_a_container_keeps_its_own() {
        let proxy = proxy(&[
            ("http_proxy", "http://a:1"),
            ("HTTPS_PROXY", "http://b:2"),
            ("https_proxy", "http://c:3"),
            ("NO_PROXY", ".svc,10.0.0.0/8"),
        ]);
        let proxy = proxy.expect("valid");
        let mut environment = vec![env_var("no_proxy", "own")];
        proxy.add_to(&mut environment);
        assert_eq!(
            environment,
            [
                env_var("no_proxy", "own"),
                env_var("HTTP_PROXY", "http://a:1"),
                env_var("HTTPS_PROXY", "http://b:2")
            ]
        );
    }

    #[test]
    fn a_credential_is_rejected_and_not_repeated() {
        assert_eq!(proxy(&[("HTTP_PROXY", "")]), Ok(ProxyVariables::default()));
        for (url, expected) in [
            ("http://me:hunter2@proxy:1", ProxyError::Credential("HTTPS_PROXY")),
            ("http://hunter2@proxy:1", ProxyError::Credential("HTTPS_PROXY")),
            ("hunter2", ProxyError::Url("HTTPS_PROXY")),
            ("data:hunter2", ProxyError::Url("HTTPS_PROXY")),
        ] {
            let error = proxy(&[("HTTPS_PROXY", url)]).expect_err(url);
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn the_log_shows_each_variable() {
        let proxy = proxy(&[("HTTPS_PROXY", "http://proxy:3128"), ("no_proxy", ".svc")]);
        let shown = proxy.expect("a proxy").to_string();
        assert_eq!(shown, "HTTPS_PROXY=http://proxy:3128 NO_PROXY=.svc");
        assert_eq!(ProxyVariables::default().to_string(), "");
    }
}
