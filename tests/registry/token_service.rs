//! A token service as <https://distribution.github.io/distribution/spec/auth/jwt/> specifies it,
//! over TLS.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{certificate::Certificate, tls::TlsListener};

/// Who signs the tokens.
pub const ISSUER: &str = "tests";
/// Whom the tokens are for.
pub const SERVICE: &str = "registry.example.com";
/// The user that gets tokens, and the password.
pub const ALICE: (&str, &str) = ("alice", "hunter2");
/// How long a token lasts, in seconds.
const LIFETIME: u64 = 300;

/// A running token service: `alice` may pull and push, and anybody may pull from `public/`.
pub struct TokenService {
    pub certificate: Arc<Certificate>,
    address: String,
    issued: AtomicUsize,
}

impl TokenService {
    pub async fn start(certificate: Arc<Certificate>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let issued = AtomicUsize::new(0);
        let service = Arc::new(Self { certificate: Arc::clone(&certificate), address, issued });
        let router = Router::new().route("/token", get(answer)).with_state(Arc::clone(&service));
        let (pem, key) = (certificate.pem.as_bytes(), certificate.key.as_bytes());
        let listener = TlsListener::new(listener, pem, key);
        tokio::spawn(async move { axum::serve(listener, router).await });
        service
    }

    /// The address that challenges name.
    pub fn realm(&self) -> String {
        format!("https://{}/token", self.address)
    }

    /// How many tokens were issued.
    pub fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    /// A token for the repositories of the tests.
    pub fn token_for_all(&self) -> String {
        let names = ["team/app", "team/other", "team/multi", "public/base"];
        self.token(&names.map(|name| access(name, &["pull", "push"])))
    }

    fn token(&self, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({
            "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate.der)],
        });
        let claims = json!({
            "iss": ISSUER, "sub": ALICE.0, "aud": SERVICE, "iat": now, "nbf": now - 5,
            "exp": now + LIFETIME, "jti": self.issued().to_string(), "access": access,
        });
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.certificate.key_der);
        let signature = key.expect("a key").sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.expect("a signature")))
    }
}

fn access(name: &str, actions: &[&str]) -> Value {
    json!({ "type": "repository", "name": name, "actions": actions })
}

async fn answer(
    State(service): State<Arc<TokenService>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let credential = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", ALICE.0, ALICE.1)));
    let is_alice = match credential {
        Some(given) if given == expected.as_bytes() => true,
        Some(_) => return StatusCode::UNAUTHORIZED.into_response(),
        None => false,
    };
    let query = query.unwrap_or_default();
    let parameters = url::form_urlencoded::parse(query.as_bytes());
    let scopes: BTreeMap<String, String> = parameters
        .filter(|(name, _)| name == "scope")
        .filter_map(|(_, scope)| {
            let mut parts = scope.splitn(3, ':').map(str::to_owned);
            (parts.next()? == "repository").then(|| Some((parts.next()?, parts.next()?)))?
        })
        .collect();
    // What is not allowed is left out of the token, as the specification has it.
    let granted: Vec<Value> = scopes
        .iter()
        .map(|(name, actions)| {
            let is_allowed =
                |action: &&str| is_alice || name.starts_with("public/") && *action == "pull";
            access(name, &actions.split(',').filter(is_allowed).collect::<Vec<_>>())
        })
        .collect();
    let token = service.token(&granted);
    service.issued.fetch_add(1, Ordering::Relaxed);
    Json(json!({ "token": token, "expires_in": LIFETIME })).into_response()
}
