//! What looks like a secret in arguments, variables and labels. Its value is in no message.

use std::collections::BTreeSet;

use crate::lint::{
    dockerfile::{FinalStage, assignments},
    rules::RuleReports,
    subject::LintedEstate,
};

/// Parts of the names of secrets, in capital letters.
const SECRET_NAMES: [&str; 9] = [
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
    "CREDENTIAL",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE_KEY",
    "SECRET",
];
/// Endings of the names of secrets.
const SECRET_ENDINGS: [&str; 2] = ["TOKEN", "_PAT"];
/// Last words of names that say something about a secret, and are none.
const HARMLESS_ENDINGS: [&str; 22] = [
    "AGE",
    "ALGORITHM",
    "CLASS",
    "COUNT",
    "DIR",
    "DISABLED",
    "ENABLED",
    "FILE",
    "FORMAT",
    "HEADER",
    "LENGTH",
    "LIMIT",
    "NAME",
    "PATH",
    "POLICY",
    "PROVIDER",
    "SIZE",
    "TIMEOUT",
    "TTL",
    "TYPE",
    "URL",
    "VERSION",
];
/// How secrets of well-known services begin, and how many characters follow at least.
const SECRET_FORMS: [(&str, usize); 8] = [
    ("AKIA", 16),
    ("ghp_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("npm_", 20),
    ("xoxb-", 16),
    ("sk_live_", 16),
    ("-----BEGIN", 1),
];
/// Values that are no secret, in small letters.
const HARMLESS_VALUES: [&str; 9] = ["", "0", "1", "false", "no", "none", "null", "true", "yes"];

/// Reports what looks like a secret.
pub fn secret_in_args(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for image in estate.images() {
        for (kind, values) in [("args", &image.spec.args), ("labels", &image.spec.labels)] {
            for (name, _) in values.iter().filter(|(name, value)| is_secret(name, value)) {
                let message = format!("`{kind}` has the secret `{name}` (its value is not shown)");
                image.report(reports, None, message);
            }
        }
        for (line, message) in image.stage().into_iter().flat_map(of_stage) {
            image.report(reports, Some(line), message);
        }
    }
}

/// Returns what the instructions of a stage set, as line and message.
fn of_stage(stage: &FinalStage) -> Vec<(usize, String)> {
    let (mut found, mut arguments) = (Vec::new(), BTreeSet::new());
    for instruction in &stage.instructions {
        let keyword = instruction.keyword.as_str();
        if keyword == "ARG" {
            let names = instruction.rest.split_whitespace();
            arguments.extend(names.map(|word| word.split('=').next().unwrap_or_default()));
        }
        if !matches!(keyword, "ARG" | "ENV" | "LABEL") {
            continue;
        }
        for (name, value) in assignments(instruction, stage.escape) {
            let is_argument = keyword != "ARG"
                && variable(&value).is_some_and(|variable| arguments.contains(variable))
                && is_secret_name(&name);
            if is_argument || is_secret(&name, &value) {
                let message = format!("{keyword} sets the secret `{name}`; use a secret mount");
                found.push((instruction.line, message));
            }
        }
    }
    found
}

/// Returns the variable that a value is: `$NAME` or `${NAME}`.
fn variable(value: &str) -> Option<&str> {
    let name = value.strip_prefix('$')?;
    Some(name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name))
}

fn is_secret(name: &str, value: &str) -> bool {
    let is_formed = SECRET_FORMS
        .iter()
        .any(|(form, length)| value.strip_prefix(form).is_some_and(|rest| rest.len() >= *length));
    // A file or another variable is where the secret is, not the secret.
    let is_place = value.starts_with(['/', '$']);
    is_formed || is_secret_name(name) && !is_place && !is_harmless(name, value)
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_uppercase().replace(['-', '.'], "_");
    let last = name.rsplit('_').next().unwrap_or_default();
    let is_part = SECRET_NAMES.iter().any(|part| name.contains(part))
        || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending));
    is_part && !HARMLESS_ENDINGS.contains(&last)
}

/// Whether a value is a number or a switch. A number may be a password.
fn is_harmless(name: &str, value: &str) -> bool {
    let value = value.to_lowercase();
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    HARMLESS_VALUES.contains(&value.as_str()) || is_number && !name.to_uppercase().contains("PASS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(dockerfile: &str) -> usize {
        let text = format!("FROM a\n{dockerfile}\n");
        let found = of_stage(&FinalStage::parse(&text, None).expect("a stage"));
        assert!(found.iter().all(|(_, message)| !message.contains("hunter2")), "{found:?}");
        found.len()
    }

    #[test]
    fn secrets_are_found_in_every_form() {
        for dockerfile in [
            "ARG NPM_TOKEN=hunter2",
            "ENV DB_PASSWORD=hunter2",
            "ENV DB_PASSWORD hunter2",
            "ENV DB_PASSWORD \"hunter2 and more\"",
            "ENV POSTGRES_PASSWORD=12345",
            "LABEL com.example.api-key=hunter2",
            "LABEL a=ghp_hunter2hunter2hunter2hunter2",
            "ARG NPM_TOKEN\nENV NPM_TOKEN=$NPM_TOKEN",
            "ARG T\nENV NPM_TOKEN=${T}",
            "ENV KEY=\"-----BEGIN RSA hunter2\"",
        ] {
            assert_eq!(found(dockerfile), 1, "{dockerfile}");
        }
        assert_eq!(found("ENV A_TOKEN=hunter2 B=1 C_SECRET='hunter2'"), 2);
    }

    #[test]
    fn what_is_about_a_secret_is_none() {
        for dockerfile in [
            "ARG NPM_TOKEN",
            "ENV PREFIX_DIR=npm_global",
            "ENV PASSWORD_MIN_LENGTH=8",
            "ENV MAX_TOKEN=4096",
            "ENV SECRETS_MANAGER_VERSION=1.2",
            "ENV SECRETS_MANAGER_ENABLED=yes",
            "ENV SECRET_ROTATION=false",
            "ENV DB_PASSWORD_FILE=/run/secrets/x",
            "ENV DB_PASSWORD=/run/secrets/x",
            "ENV DB_PASSWORD=",
            "ENV TOKEN=$TOKEN",
            "ARG VERSION\nENV VERSION=$VERSION",
            "LABEL note=\"no secret\"",
        ] {
            assert_eq!(found(dockerfile), 0, "{dockerfile}");
        }
    }
}
