//! Lengths of time as users write them in manifests: `30s`, `10m`, `1h30m`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The seconds of the longest duration, whose hours have 5 digits.
const MAX_SECONDS: i64 = 99_999 * 3600 + 59 * 60 + 59;

/// A non-negative length of time with a resolution of one second.
///
/// It is written as one to three numbers with a unit, largest unit first: `h`, `m`, `s`. Each
/// number has at most 5 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(u32);

/// Error of a text that is not a [`Duration`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a duration: write hours, minutes and seconds in this order, as in 1h30m, 10m or \
     45s"
)]
pub struct ParseDurationError(String);

impl Duration {
    /// Returns a duration of this many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds)
    }

    /// Returns a duration of this many seconds, limited to what the format can express.
    #[must_use]
    pub fn from_secs_clamped(seconds: i64) -> Self {
        Self(u32::try_from(seconds.clamp(0, MAX_SECONDS)).unwrap_or_default())
    }

    /// Returns the length in whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// Returns the same length for arithmetic on [`jiff::Timestamp`]s.
    #[must_use]
    pub fn signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_secs(i64::from(self.0))
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_secs(u64::from(duration.0))
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError(text.chars().take(32).collect());
        let mut units = [('h', 3600), ('m', 60), ('s', 1)].into_iter();
        let mut rest = text;
        let mut seconds: u32 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.chars().next().ok_or_else(error)?;
            if number.is_empty() || number.len() > 5 {
                return Err(error());
            }
            let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(error)?;
            let count: u32 = number.parse().map_err(|_| error())?;
            seconds = seconds
                .checked_add(count.checked_mul(factor).ok_or_else(error)?)
                .ok_or_else(error)?;
            rest = tail.get(unit.len_utf8()..).ok_or_else(error)?;
        }
        if text.is_empty() { Err(error()) } else { Ok(Self(seconds)) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || self.0 == 0 {
            write!(f, "{seconds}s")?;
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 18,
            "pattern": "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?$",
            "minLength": 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print() {
        for (text, seconds, shown) in [
            ("30s", 30, "30s"),
            ("10m", 600, "10m"),
            ("1h30m", 5400, "1h30m"),
            ("90s", 90, "1m30s"),
            ("0s", 0, "0s"),
        ] {
            let duration: Duration = text.parse().expect(text);
            assert_eq!(duration.as_secs(), seconds);
            assert_eq!(duration.to_string(), shown);
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in ["", "5", "m", "5d", "1m1h", "1m1m", "123456s", "-1s", "1.5h", "5 m"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_computed_duration_is_one_that_the_format_can_express() {
        assert_eq!(Duration::from_secs_clamped(-1), Duration::from_secs(0));
        assert_eq!(Duration::from_secs_clamped(90), Duration::from_secs(90));
        let longest = Duration::from_secs_clamped(i64::MAX).to_string();
        assert_eq!(longest, "99999h59m59s");
        assert!(longest.parse::<Duration>().is_ok());
    }
}
