//! The client for OCI registries: endpoints, mirrors, credentials, manifests and tags.
//!
//! A [`Client`] reads manifests and sets tags, given a [`Reference`] and a [`Keychain`]. The
//! operator's [`Config`] lists the registries that have mirrors or use plain HTTP. This module does
//! not decide when a registry is polled (`crate::upstream`) or what a response means for a family
//! (`crate::engine`), and it never copies layers.

mod ca_bundle;
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
mod reference;
mod token;
mod transport;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fault_registry;

pub use crate::registry::{
    ca_bundle::{CaBundle, CaBundleError},
    client::{Client, MAX_MANIFEST_BYTES},
    config::{Config, ConfigError, Mirror},
    content::{ContentIdentity, PlatformImage},
    credentials::{CredentialIdentity, Keychain, SecretError},
    digest::{Digest, ParseDigestError},
    error::RegistryError,
    manifest::{
        DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ImageConfig, ImageManifest, Index, IndexEntry,
        Manifest, ManifestKind, OCI_INDEX, OCI_MANIFEST, PlatformEntry, image_of,
    },
    platform::Platform,
    reference::{ParseReferenceError, Reference},
    transport::{MayWrite, OutgoingRequest, ResponseBody, Transport, full_body, with_causes},
};
