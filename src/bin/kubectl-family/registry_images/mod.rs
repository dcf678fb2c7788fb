//! The images that a user names, how their registries are reached, and how sizes are written.

mod docker_config;
mod names;
mod size;
#[cfg(test)]
pub mod test_registry;

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use groundswell::{
    api::Duration,
    contents::ContentsReader,
    registry::{CaBundle, Client, Config, Keychain, Platform},
};

use crate::registry_images::docker_config::keychain;

pub use crate::registry_images::{
    names::{Ancestor, ImageArgument, base_chain, build_reference, current_reference},
    size::human_size,
};

/// Timeout of one request of a command that reads layers or package indexes. A host that sends
/// nothing is given up earlier; one that is slow is not, since a part of a layer has 16 MiB.
pub const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The addresses of this machine. The user names registries, so that one here is meant.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
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
        let config = Config { timeout: DOWNLOAD_TIMEOUT, ..self.config()? };
        let RegistryAccess { client, keychain, platform } = self.access_with(config)?;
        Ok(ContentsReader::new(client, keychain, platform))
    }

    /// Returns a client with the user's credentials, for manifests and configurations.
    ///
    /// # Errors
    ///
    /// Returns an error if a flag or the Docker configuration cannot be used.
    pub fn access(&self) -> anyhow::Result<RegistryAccess> {
        self.access_with(self.config()?)
    }

    fn access_with(&self, config: Config) -> anyhow::Result<RegistryAccess> {
        let default = format!("linux/{}", std::env::consts::ARCH);
        let platform = self.platform.as_deref().unwrap_or(&default);
        let platform = Platform::from_user(platform)
            .ok_or_else(|| anyhow!("`{platform}` is no platform; write linux/amd64"))?;
        let keychain = keychain(|name| std::env::var(name).ok())?;
        Ok(RegistryAccess { client: Client::new(config)?, keychain, platform })
    }

    /// Returns how hosts are reached.
    ///
    /// # Errors
    ///
    /// Returns an error if a flag cannot be used.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config {
            plain_http: self.plain_http.clone(),
            allowed_addresses: LOOPBACK.map(str::to_owned).into(),
            ..Config::default()
        };
        if let Some(path) = &self.ca_bundle {
            config.ca_bundle = CaBundle::read(path).with_context(|| path.display().to_string())?;
        }
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
