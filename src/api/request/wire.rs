//! A request as people write it: flat JSON, of which every field is checked, and refused where the
//! action has no use for it.
//!
//! [`Request`] is what it may say.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{
    condition::shorten,
    request::{
        Act, MAX_BY, MAX_ID, MAX_REASON, MAX_VALUE, Request, RequestAction, RequestError, Scope,
        UNREADABLE,
    },
};

/// The fields as they are written.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    id: String,
    action: RequestAction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    subtree: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl TryFrom<Written> for Request {
    type Error = RequestError;

    fn try_from(written: Written) -> Result<Self, RequestError> {
        written.check_values()?;
        written.check_fields()?;
        let missing = |needed| RequestError::Missing { action: written.action.as_str(), needed };
        let Written { id, action, image, subtree, upstream, digest, until, reason, by } = written;
        let scope = |image: Option<String>| match (image, subtree) {
            (None, false) => Ok(Scope::Family),
            (Some(image), false) => Ok(Scope::Image(image)),
            (Some(image), true) => Ok(Scope::Subtree(image)),
            (None, true) => Err(missing(
                "`image` beside `subtree`; without both it is about the \
                whole family",
            )),
        };
        let act = match action {
            RequestAction::Trigger => Act::Trigger(scope(image)?),
            RequestAction::Retry => Act::Retry(scope(image)?),
            RequestAction::Cancel => Act::Cancel(scope(image)?),
            RequestAction::Force => Act::Force(scope(image)?),
            RequestAction::Hold => match (image, upstream) {
                (Some(image), None) => Act::HoldImage { image, until, reason },
                (None, Some(upstream)) => Act::HoldUpstream { upstream, digest, until, reason },
                _ => return Err(missing("either `image` or `upstream`")),
            },
            RequestAction::Unhold => match (image, upstream) {
                (Some(image), None) => Act::UnholdImage { image },
                (None, Some(upstream)) => Act::UnholdUpstream { upstream },
                _ => return Err(missing("either `image` or `upstream`")),
            },
            RequestAction::Approve => Act::Approve {
                upstream: upstream.ok_or_else(|| missing("`upstream`"))?,
                digest: digest.ok_or_else(|| {
                    missing(
                        "`digest`, that of the candidate in the family's status: only what was \
                             seen is approved",
                    )
                })?,
            },
        };
        Ok(Self { id, by, act })
    }
}

impl Written {
    /// Reads the value of an annotation.
    pub(super) fn read(value: &str) -> Result<Self, RequestError> {
        if value.len() > MAX_VALUE {
            return Err(RequestError::TooLong(value.len()));
        }
        // A list of values in the order of the fields would do for the reader of JSON as well.
        if !value.trim_start().starts_with('{') {
            return Err(RequestError::Unreadable("it is not a JSON object".into()));
        }
        serde_json::from_str(value)
            .map_err(|error| RequestError::Unreadable(shorten(&error.to_string(), 200)))
    }

    /// The same on the `ManagedImage` of this image, which is meant whether it is named or not.
    pub(super) fn on_image(mut self, image: &str) -> Result<Self, RequestError> {
        if let Some(named) = self.image.as_ref().filter(|named| *named != image) {
            return Err(RequestError::OtherImage { named: shorten(named, 64), own: image.into() });
        }
        let action = match self.action {
            RequestAction::Hold if self.upstream.is_some() => Some("Hold on a ManagedImage"),
            RequestAction::Unhold if self.upstream.is_some() => Some("Unhold on a ManagedImage"),
            RequestAction::Approve => Some("Approve on a ManagedImage"),
            _ => None,
        };
        if let Some(action) = action {
            let instead = "upstreams belong to the family; annotate the ImageFamily";
            return Err(RequestError::NotTaken { action, field: "upstream", instead });
        }
        self.image = Some(image.into());
        Ok(self)
    }

    fn check_values(&self) -> Result<(), RequestError> {
        let invalid =
            |field, problem: &str| Err(RequestError::Invalid { field, problem: problem.into() });
        let id_is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if self.id.is_empty() || self.id.len() > MAX_ID || !self.id.chars().all(id_is_good) {
            return invalid(
                "id",
                "has 1 to 64 letters, digits, `.`, `_`, `:` or `-`, and is new \
                                  with every request",
            );
        }
        if self.id.starts_with(UNREADABLE) {
            return invalid("id", "does not begin with `unreadable-`: choose another");
        }
        for (field, name) in [("image", &self.image), ("upstream", &self.upstream)] {
            if name.as_ref().is_some_and(|name| !is_name(name)) {
                return invalid(
                    field,
                    "is a name of the family's spec: 1 to 63 lower case letters, \
                    digits and dashes",
                );
            }
        }
        if self.digest.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return invalid("digest", "is `sha256:` and 64 hexadecimal digits in lower case");
        }
        for (field, text, most) in [("reason", &self.reason, MAX_REASON), ("by", &self.by, MAX_BY)]
        {
            let Some(text) = text else { continue };
            if text.chars().count() > most || text.chars().any(char::is_control) {
                let problem = format!("has at most {most} characters and no line breaks");
                return Err(RequestError::Invalid { field, problem });
            }
        }
        Ok(())
    }

    /// Refuses fields that the action has no use for: what is not looked at must not look as if it
    /// were.
    fn check_fields(&self) -> Result<(), RequestError> {
        use RequestAction::{Approve, Hold, Unhold};
        let of_upstream = self.upstream.is_some();
        let holds = self.action == Hold;
        let rules = [
            (
                "image",
                self.image.is_some()
                    && (self.action == Approve
                        || (matches!(self.action, Hold | Unhold) && of_upstream)),
                "it is about the upstream",
            ),
            (
                "subtree",
                self.subtree && matches!(self.action, Hold | Unhold | Approve),
                "it is about one image or upstream",
            ),
            (
                "upstream",
                of_upstream && !matches!(self.action, Hold | Unhold | Approve),
                "it is \
                about images",
            ),
            (
                "digest",
                self.digest.is_some() && !(self.action == Approve || (holds && of_upstream)),
                "only Approve and a Hold of an upstream do",
            ),
            ("until", self.until.is_some() && !holds, "only Hold does"),
            ("reason", self.reason.is_some() && !holds, "only Hold does"),
        ];
        let wrong = rules.into_iter().find(|(_, given_in_vain, _)| *given_in_vain);
        wrong.map_or(Ok(()), |(field, _, instead)| {
            Err(RequestError::NotTaken { action: self.action.as_str(), field, instead })
        })
    }
}

impl From<Request> for Written {
    fn from(request: Request) -> Self {
        let action = request.action();
        let Request { id, by, act } = request;
        let mut written = Self {
            id,
            action,
            image: None,
            subtree: false,
            upstream: None,
            digest: None,
            until: None,
            reason: None,
            by,
        };
        match act {
            Act::Trigger(scope) | Act::Retry(scope) | Act::Cancel(scope) | Act::Force(scope) => {
                written.subtree = matches!(scope, Scope::Subtree(_));
                written.image = match scope {
                    Scope::Family => None,
                    Scope::Image(image) | Scope::Subtree(image) => Some(image),
                };
            }
            Act::HoldImage { image, until, reason } => {
                (written.image, written.until, written.reason) = (Some(image), until, reason);
            }
            Act::HoldUpstream { upstream, digest, until, reason } => {
                (written.upstream, written.digest) = (Some(upstream), digest);
                (written.until, written.reason) = (until, reason);
            }
            Act::UnholdImage { image } => written.image = Some(image),
            Act::UnholdUpstream { upstream } => written.upstream = Some(upstream),
            Act::Approve { upstream, digest } => {
                (written.upstream, written.digest) = (Some(upstream), Some(digest));
            }
        }
        written
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}
