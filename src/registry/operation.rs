//! Requests to registries, independent of the endpoint that receives them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::registry::{
    Manifest, Reference, RegistryError,
    client::{MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, MAX_UPLOAD_RESPONSE_BYTES},
    config::{Endpoint, Purpose},
    error::{ErrorContext, MANIFEST},
    http::{HttpRequest, Receivers},
};

const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// A request to a registry.
pub(super) struct Operation {
    pub method: Method,
    /// The part of the URL after the repository's path, or after `/v2/` if it concerns none; for
    /// [`OperationScope::Host`], all of it after the host.
    path: String,
    headers: HeaderMap,
    body: Bytes,
    what: &'static str,
    limit: usize,
    pub purpose: Purpose,
    scope: OperationScope,
}

/// What the path of an operation follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OperationScope {
    /// The path of the repository.
    Repository,
    /// The root of the API.
    Api,
    /// The host.
    Host,
}

impl Operation {
    /// Reads what a tag or a digest refers to.
    pub(super) fn manifest(method: Method, image: &Reference) -> Self {
        Self::pull(method, format!("manifests/{}", image.identifier()))
    }

    /// Reads what a tag refers to, with the credential that pushes.
    pub(super) fn pushed_manifest(image: &Reference) -> Self {
        Self { purpose: Purpose::Push, ..Self::manifest(Method::GET, image) }
    }

    /// Reads an image's configuration.
    pub(super) fn config(digest: &str) -> Self {
        Self {
            what: "configuration",
            limit: MAX_CONFIG_BYTES,
            ..Self::pull(Method::GET, format!("blobs/{digest}"))
        }
    }

    /// Reads a part of a blob, or all of it if `range` is `None`.
    pub(super) fn blob(digest: &str, range: Option<HeaderValue>, limit: usize) -> Self {
        let mut operation = Self { what: "blob", limit, ..Self::config(digest) };
        if let Some(range) = range {
            operation.headers.insert(header::RANGE, range);
        }
        operation
    }

    /// Reads a page of the registry's repositories.
    pub(super) fn repositories(query: &str) -> Self {
        Self {
            what: "list of repositories",
            scope: OperationScope::Host,
            ..Self::pull(Method::GET, format!("/v2/_catalog?{query}"))
        }
    }

    /// Reads a page of a repository's tags.
    pub(super) fn tags(query: &str) -> Self {
        Self { what: "list of tags", ..Self::pull(Method::GET, format!("tags/list?{query}")) }
    }

    /// Reads the root of the API, which says how to authenticate.
    pub(super) fn root() -> Self {
        Self {
            what: "response",
            limit: MAX_UPLOAD_RESPONSE_BYTES,
            scope: OperationScope::Api,
            ..Self::pull(Method::GET, String::new())
        }
    }

    /// Sets a tag.
    pub(super) fn set_tag(tag: &Reference, manifest: &Manifest, media_type: HeaderValue) -> Self {
        Self {
            method: Method::PUT,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]),
            body: manifest.bytes.clone(),
            what: "push response",
            purpose: Purpose::Push,
            ..Self::manifest(Method::PUT, tag)
        }
    }

    /// Begins or cancels an upload.
    pub(super) fn upload(method: Method, path: String) -> Self {
        Self {
            headers: HeaderMap::new(),
            what: "upload response",
            limit: MAX_UPLOAD_RESPONSE_BYTES,
            purpose: Purpose::Push,
            ..Self::pull(method, path)
        }
    }

    /// Completes an upload at the path on the registry's host where it has begun.
    pub(super) fn complete_upload(path: String, content: Bytes) -> Self {
        let media_type = HeaderValue::from_static("application/octet-stream");
        Self {
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]),
            body: content,
            scope: OperationScope::Host,
            ..Self::upload(Method::PUT, path)
        }
    }

    fn pull(method: Method, path: String) -> Self {
        let headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT)]);
        Self {
            method,
            path,
            headers,
            body: Bytes::new(),
            what: MANIFEST,
            limit: MAX_MANIFEST_BYTES,
            purpose: Purpose::Pull,
            scope: OperationScope::Repository,
        }
    }

    /// Returns the request to an endpoint.
    pub(super) fn to_request(
        &self,
        context: ErrorContext<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        authorization: Option<HeaderValue>,
    ) -> Result<HttpRequest<'static>, RegistryError> {
        let query = endpoint
            .mirrored
            .as_ref()
            .map_or_else(String::new, |registry| format!("?ns={registry}"));
        let url = match self.scope {
            OperationScope::Repository => {
                endpoint.url(&format!("{}/{}{query}", image.path(), self.path))
            }
            OperationScope::Api => endpoint.url(""),
            OperationScope::Host => format!("{}{}", endpoint.base, self.path),
        };
        let url = url.parse().map_err(|_| {
            context.invalid_response("has an image name that is not valid in a URL")
        })?;
        Ok(HttpRequest {
            method: self.method.clone(),
            url,
            headers: self.headers.clone(),
            authorization,
            body: self.body.clone(),
            what: self.what,
            limit: self.limit,
            receivers: Receivers::Origin,
            elsewhere: None,
        })
    }
}
