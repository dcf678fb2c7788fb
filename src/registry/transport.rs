//! The transport that carries a request to a host and its response back, without interpreting
//! either.
//!
//! It can be replaced: the limits, redirects and tokens of [`http`](crate::registry::http) work the
//! same over any transport.

use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Method, Response};
use reqwest::redirect::Policy;
use url::Url;

use crate::registry::{AddressPolicy, Config, PermittedAddresses, RefusedAddress, RegistryError};

/// A request as it is sent.
#[derive(Clone, Debug)]
pub struct OutgoingRequest {
    /// The HTTP method.
    pub method: Method,
    /// The URL that is requested.
    pub url: Url,
    /// The headers, including the credential.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The body of a response, in chunks as they arrive. An error describes why the body ended early.
pub type ResponseBody = BoxStream<'static, Result<Bytes, String>>;

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The request was not sent, because the address of the host is refused.
    Refused(RefusedAddress),
    /// The connection failed or broke, for this reason.
    Failed(String),
}

impl From<String> for TransportError {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

impl From<RefusedAddress> for TransportError {
    fn from(refused: RefusedAddress) -> Self {
        Self::Refused(refused)
    }
}

/// Carries one request to a host and its response back. It follows no redirects and keeps only
/// connections between two requests.
pub trait Transport: Send + Sync + 'static {
    /// Checks a URL before it is requested, as far as that is possible without resolving its host.
    ///
    /// # Errors
    /// Returns a [`RefusedAddress`] if a request to it would be refused.
    fn check(&self, _url: &Url) -> Result<(), RefusedAddress> {
        Ok(())
    }

    /// Sends one request.
    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>>;
}

/// Words of the TLS library about a server's certificate, and what they mean for whoever runs the
/// registry or this controller.
const CERTIFICATE_PROBLEMS: [(&str, &str); 2] = [
    (
        "CaUsedAsEndEntity",
        "its certificate is that of an authority (CA:TRUE), which must not identify a server; let \
         it serve one that the authority has signed, and list the authority in `caBundle`",
    ),
    (
        "UnknownIssuer",
        "no trusted authority has signed its certificate; list the authority that has in the \
         chart's value `caBundle`",
    ),
];

/// HTTP over TCP, with TLS where the URL says so.
pub(super) struct HttpTransport {
    client: reqwest::Client,
    addresses: Arc<AddressPolicy>,
}

impl HttpTransport {
    pub(super) fn new(config: &Config) -> Result<Self, RegistryError> {
        let authorities = reqwest::Certificate::from_pem_bundle(config.ca_bundle.pem().as_bytes())
            .map_err(|error| RegistryError::Setup(explained(error)))?;
        let addresses = config.addresses(|name| std::env::var(name).ok());
        let addresses = addresses.map_err(|error| RegistryError::Setup(error.to_string()))?;
        let addresses = Arc::new(addresses);
        let client = reqwest::Client::builder()
            .tls_certs_merge(authorities)
            .user_agent(concat!("groundswell/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .dns_resolver(PermittedAddresses(Arc::clone(&addresses)))
            .connect_timeout(config.connect_timeout.into())
            .read_timeout(config.read_timeout.into())
            .build()
            .map_err(|error| RegistryError::Setup(explained(error)))?;
        Ok(Self { client, addresses })
    }
}

/// Returns a transport over HTTP with this configuration of registries: its timeouts, authorities
/// and addresses. Proxies are those of the environment.
///
/// # Errors
/// Returns an error if the configuration cannot be used.
pub fn http_transport(config: &Config) -> Result<Arc<dyn Transport>, RegistryError> {
    Ok(Arc::new(HttpTransport::new(config)?))
}

impl Transport for HttpTransport {
    fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        self.addresses.check_url(url)
    }

    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        let OutgoingRequest { method, url, headers, body } = request;
        if let Err(refused) = self.check(&url) {
            return futures::future::ready(Err(refused.into())).boxed();
        }
        let sent = self.client.request(method, url).headers(headers).body(body).send();
        async move {
            let mut response = sent.map_err(transport_error).await?;
            let mut head = Response::new(());
            *head.status_mut() = response.status();
            *head.headers_mut() = std::mem::take(response.headers_mut());
            Ok(head.map(|()| response.bytes_stream().map_err(explained).boxed()))
        }
        .boxed()
    }
}

/// Says whether requests that change something may be sent now.
pub type MayWrite = Arc<dyn Fn() -> bool + Send + Sync>;

/// A transport that sends requests which change something only while that is allowed.
pub(super) struct GuardedTransport {
    pub(super) inner: Arc<dyn Transport>,
    pub(super) may_write: MayWrite,
}

impl Transport for GuardedTransport {
    fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        self.inner.check(url)
    }

    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        if request.method.is_safe() || (self.may_write)() {
            return self.inner.send(request);
        }
        let refused = "this replica is not the leader any more, so that it must not write";
        futures::future::ready(Err(refused.to_owned().into())).boxed()
    }
}

/// Returns a body that consists of one chunk.
#[must_use]
pub fn full_body(body: Bytes) -> ResponseBody {
    stream::iter([Ok(body)]).boxed()
}

/// Formats an error with its causes and without the URL, which may contain a signature. The HTTP
/// client's own text omits the causes.
#[must_use]
pub fn with_causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn transport_error(error: reqwest::Error) -> TransportError {
    match RefusedAddress::of(&error) {
        Some(refused) => refused.into(),
        None => explained(error).into(),
    }
}

/// Formats an error of a registry with its causes, and says what to do about its certificate.
fn explained(error: reqwest::Error) -> String {
    explain_certificate(with_causes(error))
}

/// Returns what to do if an error is about the certificate of the server, or else the error.
fn explain_certificate(error: String) -> String {
    let mut known = CERTIFICATE_PROBLEMS.iter();
    let explained = known.find(|(word, _)| error.contains("certificate") && error.contains(word));
    explained.map_or(error, |(_, explained)| (*explained).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{CaBundle, error::ErrorContext};

    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBNDCB56ADAgECAhRr/klx7YJIH6ngKCmOp4oRVe0vyTAFBgMrZXAwDzENMAsG\n\
        A1UEAwwEdGVzdDAgFw0yNjExMjkxMDUxNTRaGA8yMTI2MTEwNTEwNTE1NFowDzEN\n\
        MAsGA1UEAwwEdGVzdDAqMAUGAytlcAMhAPkClKqPZ4RQRo1HqlmoM+iH0f2YO9ty\n\
        MOqk+n80Faiqo1MwUTAdBgNVHQ4EFgQUhXR1QSuD7t4ii6KnXtlopjg7FgowHwYD\n\
        VR0jBBgwFoAUhXR1QSuD7t4ii6KnXtlopjg7FgowDwYDVR0TAQH/BAUwAwEB/zAF\n\
        BgMrZXADQQAIkPmx74ALPG1a7jtZ2wStPiEYgNovfYLrVAkBxFcNRoKkuZBiB+4c\n\
        HYML6zXz+MIdYHw5qMAI9QAhZHuqhmwP\n\
        -----END CERTIFICATE-----\n";

    /// The texts of the TLS library, as it was observed to write them.
    #[test]
    fn a_certificate_that_cannot_be_used_is_explained() {
        let error = |word: &str| {
            format!(
                "error sending request: client error (Connect): invalid peer certificate: {word}"
            )
        };
        for (word, said) in [
            ("Other(OtherError(CaUsedAsEndEntity))", "list the authority in `caBundle`"),
            ("UnknownIssuer", "the chart's value `caBundle`"),
            ("certificate expired", "certificate expired"),
        ] {
            let problem = explain_certificate(error(word));
            let context = ErrorContext { image: "r.example/x:1", host: "r.example" };
            let message = context.unreachable(&problem).to_string();
            assert!(message.contains(said), "{message}");
        }
        assert_eq!(explain_certificate("UnknownIssuer".into()), "UnknownIssuer");
    }

    struct Answering;

    impl Transport for Answering {
        fn send(
            &self,
            _: OutgoingRequest,
        ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
            futures::future::ready(Ok(Response::new(full_body(Bytes::new())))).boxed()
        }
    }

    #[tokio::test]
    async fn writes_are_sent_only_while_that_is_allowed() {
        for allowed in [true, false] {
            let may_write: MayWrite = Arc::new(move || allowed);
            let transport = GuardedTransport { inner: Arc::new(Answering), may_write };
            for (method, is_read) in [
                (Method::GET, true),
                (Method::HEAD, true),
                (Method::PUT, false),
                (Method::POST, false),
                (Method::PATCH, false),
                (Method::DELETE, false),
            ] {
                let url = Url::parse("https://r.example/v2/").expect("a URL");
                let (headers, body) = (HeaderMap::new(), Bytes::new());
                let request = OutgoingRequest { method: method.clone(), url, headers, body };
                let sent = transport.send(request).await.is_ok();
                assert_eq!(sent, is_read || allowed, "{method}");
            }
        }
    }

    #[test]
    fn private_authorities_are_added_and_broken_ones_rejected() {
        let with = |text: &str| {
            let ca_bundle = CaBundle::parse(text).expect("a bundle");
            HttpTransport::new(&Config { ca_bundle, ..Config::default() })
        };
        assert!(with(AUTHORITY).is_ok());
        let broken = with("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(matches!(broken, Err(RegistryError::Setup(_))), "a certificate that is none");
    }
}
