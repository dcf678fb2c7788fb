//! The client for OCI registries: endpoints, mirrors, credentials, manifests and tags.
//!
//! A [`Client`] reads manifests and sets tags, given a [`Reference`] and a [`Keychain`]. The
//! operator's [`Config`] lists the registries that have mirrors or use plain HTTP. This module does
//! not decide when a registry is polled (`crate::upstream`) or what a response means for a family
//! (`crate::engine`), and it never copies layers.

mod addresses;
mod artifacts;
mod authentication;
mod authorizations;
mod blobs;
mod ca_bundle;
mod call;
mod challenge;
mod circuits;
mod client;
mod config;
mod content;
mod content_cache;
mod credentials;
mod deadline;
mod digest;
mod error;
mod error_body;
mod heads;
mod http;
mod image_config;
mod json_values;
mod listing;
mod manifest;
mod operation;
mod own_tags;
mod pauses;
mod platform;
mod rate_limits;
mod reference;
mod tag_memory;
mod token;
mod transport;
pub mod turns;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fault_registry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub(crate) use crate::registry::error_body::names_policy;
pub use crate::registry::{
    addresses::{AddressPolicy, PermittedAddresses, RefusedAddress},
    blobs::MAX_BLOB_PART_BYTES,
    ca_bundle::{CaBundle, CaBundleError},
    client::{Client, MAX_MANIFEST_BYTES, ManifestHead},
    config::{Config, ConfigError, Mirror},
    content::{ContentIdentity, PlatformImage},
    credentials::{CredentialIdentity, Keychain, SecretError, SecretForm, SecretPayload},
    digest::{Digest, ParseDigestError},
    error::{AccessDenial, RegistryError, RegistryOutage},
    image_config::{HistoryStep, ImageConfig},
    listing::NameList,
    manifest::{
        DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ImageManifest, Index, IndexEntry, Manifest,
        ManifestKind, OCI_INDEX, OCI_MANIFEST, PlatformEntry, image_of,
    },
    pauses::{PauseCause, PausedHost},
    platform::Platform,
    reference::{ParseReferenceError, Reference},
    transport::{
        MayWrite, OutgoingRequest, ResponseBody, Transport, TransportError, full_body,
        http_transport, with_causes,
    },
};
