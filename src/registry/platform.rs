//! Platforms in normalized form.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::Deserialize;

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
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
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
