//! The wire format of a [`Request`]: flat JSON. Every field is validated, and a field that the
//! action does not use is rejected.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{
    condition::shorten,
    request::{
        ActionName, MAX_BY, MAX_ID, MAX_REASON, MAX_VALUE, Request, RequestError, RequestScope,
        RequestedAction, UNREADABLE,
    },
};

/// Fields of a request as users write them.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RequestFields {
    id: String,
    action: ActionName,
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

impl TryFrom<RequestFields> for Request {
    type Error = RequestError;

    fn try_from(fields: RequestFields) -> Result<Self, RequestError> {
        fields.validate_values()?;
        fields.validate_fields()?;
        let missing = |needed| RequestError::Missing { action: fields.action.as_str(), needed };
        let RequestFields { id, action, image, subtree, upstream, digest, until, reason, by } =
            fields;
        let scope = |image: Option<String>| match (image, subtree) {
            (None, false) => Ok(RequestScope::Family),
            (Some(image), false) => Ok(RequestScope::Image(image)),
            (Some(image), true) => Ok(RequestScope::Subtree(image)),
            (None, true) => Err(missing(
                "`image` with `subtree`: name the image, or remove `subtree` for the whole family",
            )),
        };
        let action = match action {
            ActionName::Trigger => RequestedAction::Trigger(scope(image)?),
            ActionName::Retry => RequestedAction::Retry(scope(image)?),
            ActionName::Cancel => RequestedAction::Cancel(scope(image)?),
            ActionName::Force => RequestedAction::Force(scope(image)?),
            ActionName::Hold => match (image, upstream) {
                (Some(image), None) => RequestedAction::HoldImage { image, until, reason },
                (None, Some(upstream)) => {
                    RequestedAction::HoldUpstream { upstream, digest, until, reason }
                }
                _ => return Err(missing("either `image` or `upstream`")),
            },
            ActionName::Unhold => match (image, upstream) {
                (Some(image), None) => RequestedAction::UnholdImage { image },
                (None, Some(upstream)) => RequestedAction::UnholdUpstream { upstream },
                _ => return Err(missing("either `image` or `upstream`")),
            },
            ActionName::Approve => RequestedAction::Approve {
                upstream: upstream.ok_or_else(|| missing("`upstream`"))?,
                digest: digest.ok_or_else(|| {
                    missing(
                        "`digest`: copy the candidate's digest from the family's status, so that \
                         only a digest that you have checked is approved",
                    )
                })?,
            },
        };
        Ok(Self { id, by, action })
    }
}

impl RequestFields {
    /// Parses the value of an annotation.
    pub(super) fn read(value: &str) -> Result<Self, RequestError> {
        if value.len() > MAX_VALUE {
            return Err(RequestError::TooLong(value.len()));
        }
        // The JSON parser would also accept a list of values in the order of the fields.
        if !value.trim_start().starts_with('{') {
            return Err(RequestError::Unreadable("it is not a JSON object".into()));
        }
        serde_json::from_str(value)
            .map_err(|error| RequestError::Unreadable(shorten(&error.to_string(), 200)))
    }

    /// Applies the fields to the `ManagedImage` of this image, whether they name the image or not.
    pub(super) fn on_image(mut self, image: &str) -> Result<Self, RequestError> {
        if let Some(named) = self.image.as_ref().filter(|named| *named != image) {
            return Err(RequestError::OtherImage { named: shorten(named, 64), own: image.into() });
        }
        let action = match self.action {
            ActionName::Hold if self.upstream.is_some() => Some("Hold on a ManagedImage"),
            ActionName::Unhold if self.upstream.is_some() => Some("Unhold on a ManagedImage"),
            ActionName::Approve => Some("Approve on a ManagedImage"),
            _ => None,
        };
        if let Some(action) = action {
            let instead = "upstreams belong to the family: annotate the ImageFamily";
            return Err(RequestError::NotTaken { action, field: "upstream", instead });
        }
        self.image = Some(image.into());
        Ok(self)
    }

    fn validate_values(&self) -> Result<(), RequestError> {
        let invalid =
            |field, problem: &str| Err(RequestError::Invalid { field, problem: problem.into() });
        let is_id_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if self.id.is_empty() || self.id.len() > MAX_ID || !self.id.chars().all(is_id_char) {
            return invalid(
                "id",
                "must have 1 to 64 letters, digits, `.`, `_`, `:` or `-`, and must be new for \
                 every request",
            );
        }
        if self.id.starts_with(UNREADABLE) {
            return invalid("id", "must not start with `unreadable-`: choose another id");
        }
        for (field, name) in [("image", &self.image), ("upstream", &self.upstream)] {
            if name.as_ref().is_some_and(|name| !is_name(name)) {
                return invalid(
                    field,
                    "must be a name from the family's spec: 1 to 63 lower case letters, digits and \
                     dashes",
                );
            }
        }
        if self.digest.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return invalid("digest", "must be `sha256:` and 64 hexadecimal digits in lower case");
        }
        for (field, text, max_chars) in
            [("reason", &self.reason, MAX_REASON), ("by", &self.by, MAX_BY)]
        {
            let Some(text) = text else { continue };
            if text.chars().count() > max_chars || text.chars().any(char::is_control) {
                let problem = format!(
                    "must have at most {max_chars} characters and no control \
                    characters"
                );
                return Err(RequestError::Invalid { field, problem });
            }
        }
        Ok(())
    }

    /// Rejects fields that the action does not use, so that no field is ignored silently.
    fn validate_fields(&self) -> Result<(), RequestError> {
        use ActionName::{Approve, Hold, Unhold};
        let of_upstream = self.upstream.is_some();
        let holds = self.action == Hold;
        let rules = [
            (
                "image",
                self.image.is_some()
                    && (self.action == Approve
                        || (matches!(self.action, Hold | Unhold) && of_upstream)),
                "it applies to the upstream",
            ),
            (
                "subtree",
                self.subtree && matches!(self.action, Hold | Unhold | Approve),
                "it applies to one image or upstream",
            ),
            (
                "upstream",
                of_upstream && !matches!(self.action, Hold | Unhold | Approve),
                "it applies to images",
            ),
            (
                "digest",
                self.digest.is_some() && !(self.action == Approve || (holds && of_upstream)),
                "only Approve and a Hold of an upstream do",
            ),
            ("until", self.until.is_some() && !holds, "only Hold does"),
            ("reason", self.reason.is_some() && !holds, "only Hold does"),
        ];
        let wrong = rules.into_iter().find(|(_, unused, _)| *unused);
        wrong.map_or(Ok(()), |(field, _, instead)| {
            Err(RequestError::NotTaken { action: self.action.as_str(), field, instead })
        })
    }
}

impl From<Request> for RequestFields {
    fn from(request: Request) -> Self {
        let name = request.action_name();
        let Request { id, by, action } = request;
        let mut fields = Self {
            id,
            action: name,
            image: None,
            subtree: false,
            upstream: None,
            digest: None,
            until: None,
            reason: None,
            by,
        };
        match action {
            RequestedAction::Trigger(scope)
            | RequestedAction::Retry(scope)
            | RequestedAction::Cancel(scope)
            | RequestedAction::Force(scope) => {
                fields.subtree = matches!(scope, RequestScope::Subtree(_));
                fields.image = match scope {
                    RequestScope::Family => None,
                    RequestScope::Image(image) | RequestScope::Subtree(image) => Some(image),
                };
            }
            RequestedAction::HoldImage { image, until, reason } => {
                (fields.image, fields.until, fields.reason) = (Some(image), until, reason);
            }
            RequestedAction::HoldUpstream { upstream, digest, until, reason } => {
                (fields.upstream, fields.digest) = (Some(upstream), digest);
                (fields.until, fields.reason) = (until, reason);
            }
            RequestedAction::UnholdImage { image } => fields.image = Some(image),
            RequestedAction::UnholdUpstream { upstream } => fields.upstream = Some(upstream),
            RequestedAction::Approve { upstream, digest } => {
                (fields.upstream, fields.digest) = (Some(upstream), Some(digest));
            }
        }
        fields
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
