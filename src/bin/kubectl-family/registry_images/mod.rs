//! The images that a user names, how their registries are reached, and how sizes are written.

mod names;
mod size;
#[cfg(test)]
pub mod test_registry;

use std::{fs::File, io::Read as _, path::PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use groundswell::{
    contents::ContentsReader,
    registry::{CaBundle, Client, Config, Keychain, Platform},
};

pub use crate::registry_images::{
    names::{ImageArgument, base_chain, build_reference, current_reference},
    size::human_size,
};

/// Maximum size of a Docker configuration in bytes.
const MAX_DOCKER_CONFIG_BYTES: u64 = 1 << 20;
/// Number of images that are read at the same time.
pub const MAX_CONCURRENT_IMAGES: usize = 4;

/// The flags that say how registries are reached.
///
/// Credentials are those of the Docker configuration: the file that `REGISTRY_AUTH_FILE` or
/// `DOCKER_CONFIG` names, or that of the home folder.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArguments {
    /// Registry that is reached over plain HTTP, as host or host:port. May be repeated
    #[arg(long, value_name = "HOST")]
    pub plain_http: Vec<String>,
    /// File with the certificate authorities that are trusted in addition to those of the system
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// Platform of the images that are read, for example linux/arm64. Defaults to Linux on the
    /// architecture of this machine
    #[arg(long)]
    pub platform: Option<String>,
}

/// How registries are reached, and for which platform.
pub struct RegistryAccess {
    pub client: Client,
    pub keychain: Keychain,
    pub platform: Platform,
}

impl RegistryArguments {
    /// Returns a reader of images.
    ///
    /// # Errors
    ///
    /// Returns an error if a flag or the Docker configuration cannot be used.
    pub fn reader(&self) -> anyhow::Result<ContentsReader> {
        let RegistryAccess { client, keychain, platform } = self.access()?;
        Ok(ContentsReader::new(client, keychain, platform))
    }

    /// Returns a client with the user's credentials.
    ///
    /// # Errors
    ///
    /// Returns an error if a flag or the Docker configuration cannot be used.
    pub fn access(&self) -> anyhow::Result<RegistryAccess> {
        let mut config = Config { plain_http: self.plain_http.clone(), ..Config::default() };
        if let Some(path) = &self.ca_bundle {
            config.ca_bundle = CaBundle::read(path).with_context(|| path.display().to_string())?;
        }
        config.validate()?;
        let default = format!("linux/{}", std::env::consts::ARCH);
        let platform = self.platform.as_deref().unwrap_or(&default);
        let platform = Platform::from_user(platform)
            .ok_or_else(|| anyhow!("`{platform}` is no platform; write linux/amd64"))?;
        let keychain = keychain(|name| std::env::var(name).ok())?;
        Ok(RegistryAccess { client: Client::new(config)?, keychain, platform })
    }
}

/// Reads the credentials of the user's Docker configuration. Without one, there are none.
fn keychain(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Keychain> {
    let below = |variable: Option<String>, rest: &str| Some(PathBuf::from(variable?).join(rest));
    let places = [
        variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
        below(variable("DOCKER_CONFIG"), "config.json"),
        below(variable("HOME"), ".docker/config.json"),
        below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"),
    ];
    let Some(path) = places.into_iter().flatten().find(|path| path.is_file()) else {
        return Ok(Keychain::default());
    };
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(&path).with_context(|| format!("read {shown}"))?;
    file.take(MAX_DOCKER_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {shown}"))?;
    Ok(Keychain::from_secrets([(shown.as_str(), bytes.as_slice())])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_that_exists_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("a path").to_owned();
        let of = |name: &str| (name == "HOME").then(|| home.clone());
        assert!(keychain(of).is_ok(), "without a file");
        std::fs::create_dir(folder.path().join(".docker")).expect("a folder");
        let file = folder.path().join(".docker/config.json");
        std::fs::write(&file, r#"{"auths": {"r.example": {"auth": "YTpi"}}}"#).expect("a file");
        assert!(keychain(of).is_ok());
        std::fs::write(&file, "no JSON").expect("a file");
        let error = keychain(of).expect_err("malformed").to_string();
        assert!(error.contains(".docker/config.json"), "{error}");
        std::fs::write(&file, vec![b' '; 2 << 20]).expect("a file");
        assert!(keychain(of).is_err(), "a large file");
    }

    #[test]
    fn flags_that_cannot_be_used_are_named() {
        let error = |arguments: RegistryArguments| {
            arguments.reader().err().map(|error| format!("{error:#}")).unwrap_or_default()
        };
        let platform = RegistryArguments { platform: Some("x".into()), ..Default::default() };
        assert!(error(platform).contains("`x` is no platform"));
        let ca_bundle = RegistryArguments { ca_bundle: Some("/none".into()), ..Default::default() };
        assert!(error(ca_bundle).contains("/none"));
        let plain_http = vec!["http://r.example".into()];
        let plain_http = RegistryArguments { plain_http, ..Default::default() };
        assert!(error(plain_http).contains("not a host"));
    }
}
