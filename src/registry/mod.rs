//! Everything that is said to an OCI registry, and how the one is found and convinced.
//!
//! A [`Client`] asks for manifests and moves tags, for a [`Reference`] and with a [`Keychain`]; the
//! operator's [`Config`] says which registries have mirrors or speak plain HTTP. It does not decide
//! when to ask (`crate::upstream`) or what an answer means for a family (`crate::engine`), and it
//! never moves layers.

mod client;
mod config;
mod content;
mod cooldown;
mod credentials;
mod digest;
mod error;
mod http;
mod manifest;
mod platform;
mod problem;
mod reference;
mod token;
mod transport;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fault_registry;

pub use crate::registry::{
    client::{Client, MAX_MANIFEST_BYTES},
    config::{Config, ConfigError, Mirror},
    content::{ContentIdentity, PlatformImage},
    credentials::{CredentialIdentity, Keychain, SecretError},
    digest::{Digest, ParseDigestError},
    error::RegistryError,
    manifest::{
        DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ImageConfig, ImageManifest, Index, IndexEntry,
        Manifest, ManifestKind, OCI_INDEX, OCI_MANIFEST,
    },
    platform::Platform,
    reference::{ParseReferenceError, Reference},
    transport::{Body, OutgoingRequest, Transport, whole},
};
