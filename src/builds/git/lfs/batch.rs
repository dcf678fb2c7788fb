//! The wire format of the batch API of Git LFS. The response is untrusted: fields that are not
//! listed are ignored, and every value is verified where it is used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::builds::git::lfs::pointer::Pointer;

/// The media type of requests and responses.
pub(super) const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
/// The only hash of pointers.
const HASH: &str = "sha256";

#[derive(Serialize)]
pub(super) struct BatchRequest<'a> {
    operation: &'static str,
    transfers: [&'static str; 1],
    objects: Vec<RequestedObject<'a>>,
    hash_algo: &'static str,
}

#[derive(Serialize)]
struct RequestedObject<'a> {
    oid: &'a str,
    size: u64,
}

impl<'a> BatchRequest<'a> {
    /// Returns the request to download these objects.
    pub fn download(pointers: impl Iterator<Item = &'a Pointer>) -> Self {
        let objects =
            pointers.map(|Pointer { oid, size }| RequestedObject { oid, size: *size }).collect();
        Self { operation: "download", transfers: ["basic"], objects, hash_algo: HASH }
    }
}

#[derive(Deserialize)]
pub(super) struct BatchResponse {
    /// The way to transfer the objects; `basic` if it is missing.
    #[serde(default)]
    pub transfer: Option<String>,
    pub objects: Vec<OfferedObject>,
}

#[derive(Deserialize)]
pub(super) struct OfferedObject {
    pub oid: String,
    #[serde(default)]
    pub size: Option<u64>,
    /// Whether the requests in `actions` need no credential of ours.
    #[serde(default)]
    pub authenticated: bool,
    #[serde(default)]
    pub actions: Option<OfferedActions>,
    #[serde(default)]
    pub error: Option<ObjectError>,
}

#[derive(Deserialize)]
pub(super) struct OfferedActions {
    #[serde(default)]
    pub download: Option<DownloadAction>,
}

/// Where an object is, and with which headers it is requested there.
#[derive(Deserialize)]
pub(super) struct DownloadAction {
    pub href: String,
    #[serde(default)]
    pub header: BTreeMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct ObjectError {
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub message: String,
}
