//! Platforms in normalized form.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer};

/// Maximum number of characters of a part of a platform that a user writes.
const MAX_PART: usize = 32;

/// The platform that an image runs on, normalized as containerd does so that equal platforms
/// compare equal: `linux/arm64/v8` is `linux/arm64`, `linux/arm` is `linux/arm/v7`, `x86_64` is
/// `amd64`.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(from = "RawPlatform")]
pub struct Platform {
    /// The operating system: `linux`.
    pub os: String,
    /// The architecture: `amd64`.
    pub architecture: String,
    /// The variant of the architecture, if there is one: `v7`.
    pub variant: Option<String>,
}

/// A platform as a manifest writes it.
#[derive(Deserialize)]
pub(super) struct RawPlatform {
    #[serde(default, deserialize_with = "null_is_absent")]
    os: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    architecture: String,
    pub(super) variant: Option<String>,
}

/// Reads a field that some tools write as `null` in place of leaving it out.
pub(super) fn null_is_absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Default for Platform {
    /// Returns the most common platform, `linux/amd64`.
    fn default() -> Self {
        Self { os: "linux".into(), architecture: "amd64".into(), variant: None }
    }
}

impl Platform {
    /// Returns the platform of this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        RawPlatform { os: "linux".into(), architecture: architecture.into(), variant: None }.into()
    }

    /// Parses `os/architecture` or `os/architecture/variant` as a user writes it. Returns `None`
    /// for any other text.
    #[must_use]
    pub fn from_user(text: &str) -> Option<Self> {
        let is_word = |part: &str| {
            !part.is_empty()
                && part.len() <= MAX_PART
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| is_word(part)) {
            return None;
        }
        let Ok(platform) = text.parse();
        Some(platform)
    }

    /// Returns whether an image for this platform is one for the `wanted` platform. Some builders
    /// do not write the variant of the architecture into the image, so that an image without a
    /// variant is one for any.
    #[must_use]
    pub fn is_for(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (self.variant.is_none() || self.variant == wanted.variant)
    }

    /// Returns whether the image says for which platform it is.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.architecture.is_empty() && self.os != "unknown"
    }
}

impl From<RawPlatform> for Platform {
    fn from(raw: RawPlatform) -> Self {
        let variant = raw.variant.filter(|variant| !variant.is_empty());
        let architecture = raw.architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", other) => ("arm64", other),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("i386", _) => ("386", None),
            (other, variant) => (other, variant),
        };
        Self {
            os: raw.os.to_ascii_lowercase(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }
}

impl FromStr for Platform {
    type Err = Infallible;

    /// Parses `os/architecture` or `os/architecture/variant`. The API's schema has already
    /// validated the form.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let (os, architecture) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Ok(RawPlatform { os, architecture, variant: parts.next() }.into())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_writes_is_validated() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/{{ x }}", "a b/c"] {
            assert_eq!(Platform::from_user(text), None, "{text}");
        }
        let platform = Platform::from_user("linux/aarch64").expect("a platform");
        assert_eq!(platform.to_string(), "linux/arm64");
        assert!(Platform::of_this_machine().is_known());
    }

    #[test]
    fn an_image_without_a_variant_is_for_any() {
        for (image, wanted, expected) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64", false),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm64", "linux/amd64", false),
            ("windows/amd64", "linux/amd64", false),
        ] {
            let (Ok(of), Ok(to)) = (image.parse::<Platform>(), wanted.parse::<Platform>());
            assert_eq!(of.is_for(&to), expected, "{image} {wanted}");
        }
    }

    #[test]
    fn spellings_are_normalized() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            let Ok(platform) = text.parse::<Platform>();
            assert_eq!(platform.to_string(), expected);
        }
    }
}
