//! Rights that a user lacks. A command that needs several names all that are missing, so that they
//! are asked for once.

use std::fmt;

/// The calls that the API server has rejected because the user may not make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRights(Vec<String>);

impl MissingRights {
    /// Creates the error of one call from the message of the API server.
    pub fn of(message: String) -> Self {
        Self(vec![message])
    }
}

impl fmt::Display for MissingRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => f.write_str(only),
            several => {
                write!(f, "{} rights are missing:", several.len())?;
                several.iter().try_for_each(|message| write!(f, "\n  {message}"))
            }
        }
    }
}

impl std::error::Error for MissingRights {}

/// Returns an error that names all rights that these calls lack, if any of them lacks one.
pub fn check_rights<'a>(
    errors: impl IntoIterator<Item = Option<&'a anyhow::Error>>,
) -> Result<(), MissingRights> {
    let missing = errors.into_iter().flatten().filter_map(|error| error.downcast_ref());
    let mut messages: Vec<String> = Vec::new();
    for message in missing.flat_map(|MissingRights(of_call)| of_call) {
        if !messages.contains(message) {
            messages.push(message.clone());
        }
    }
    if messages.is_empty() { Ok(()) } else { Err(MissingRights(messages)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_right_is_named_once() {
        let right = |text: &str| anyhow::Error::from(MissingRights::of(text.into()));
        let (a, b, other) = (right("no a"), right("no b"), anyhow::anyhow!("away"));
        assert_eq!(check_rights([None, Some(&other)]), Ok(()));
        let message = |errors: &[&anyhow::Error]| {
            let errors = errors.iter().map(|error| Some(*error));
            check_rights(errors).expect_err("rights are missing").to_string()
        };
        assert_eq!(message(&[&a, &other]), "no a");
        let both = anyhow::Error::from(check_rights([Some(&a), Some(&b)]).expect_err("both"));
        assert_eq!(message(&[&b, &both, &a]), "2 rights are missing:\n  no b\n  no a");
    }
}
