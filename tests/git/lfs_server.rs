//! A Git LFS server that may lie.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode, header, request::Parts},
};
use futures::stream;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a server does wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Lie {
    /// Nothing.
    #[default]
    None,
    /// Another content of the right size.
    OtherBytes,
    /// Fewer bytes than the pointer says.
    Short,
    /// A body without an end.
    Endless,
    /// A size in the batch response that is not that of the pointer.
    OtherSize,
    /// Redirects the download to itself for ever.
    Loop,
    /// Redirects the download once, to this address.
    Redirect(String),
    /// Answers the download with this status.
    Status(u16),
    /// An error for the object.
    ObjectError(u16),
    /// No action for the object.
    NoAction,
    /// Another object than the one that was asked for.
    OtherObject,
    /// Another address of the object.
    Href(String),
    /// A header that would change how the request is read.
    BadHeader,
    /// Answers the batch request with this status.
    BatchStatus(u16),
    /// Answers the batch request with a text.
    NoJson,
    /// Answers the batch request with a text without an end.
    EndlessBatch,
    /// Offers another way to transfer the objects.
    OtherTransfer,
}

/// The objects of a server and what it does wrong with them.
#[derive(Clone, Default)]
pub struct Lfs {
    pub objects: Arc<BTreeMap<String, Vec<u8>>>,
    pub lie: Lie,
}

/// Returns the hash of a content, as in a pointer.
pub fn oid(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

impl Lfs {
    pub fn of(contents: &[&[u8]], lie: Lie) -> Self {
        let objects = contents.iter().map(|content| (oid(content), content.to_vec())).collect();
        Self { objects: Arc::new(objects), lie }
    }

    pub fn serves(path: &str) -> bool {
        path.contains("/info/lfs/") || path.starts_with("/objects/")
    }

    pub fn answer(&self, parts: &Parts, body: &Bytes) -> Response<Body> {
        match parts.uri.path().strip_prefix("/objects/") {
            Some(oid) => self.object(oid, &parts.headers),
            None => self.batch(parts, body),
        }
    }

    fn batch(&self, parts: &Parts, body: &Bytes) -> Response<Body> {
        let media_type = "application/vnd.git-lfs+json";
        assert_eq!(parts.method, "POST");
        assert!(parts.uri.path().ends_with(".git/info/lfs/objects/batch"), "{}", parts.uri);
        assert_eq!(parts.headers[header::ACCEPT], media_type);
        assert_eq!(parts.headers[header::CONTENT_TYPE], media_type);
        let request: Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(request["operation"], "download");
        let requested = request["objects"].as_array().expect("objects");
        assert!(requested.len() <= 100, "the specification asks for small batches");
        let host = parts.headers[header::HOST].to_str().expect("text");
        let objects: Vec<Value> = requested.iter().map(|object| self.offer(object, host)).collect();
        let mut response = json!({"transfer": "basic", "objects": objects, "hash_algo": "sha256"});
        if self.lie == Lie::OtherTransfer {
            response["transfer"] = json!("tus");
        }
        match &self.lie {
            Lie::BatchStatus(status) => status_of(*status, "/elsewhere"),
            Lie::NoJson => Response::new("<html>hunter2</html>".into()),
            Lie::EndlessBatch => endless(),
            _ => Response::new(response.to_string().into()),
        }
    }

    fn offer(&self, requested: &Value, host: &str) -> Value {
        let oid = requested["oid"].as_str().expect("text");
        let Some(content) = self.objects.get(oid) else {
            return json!({"oid": oid, "size": requested["size"],
                "error": {"code": 404, "message": "no such object"}});
        };
        let mut href = format!("http://{host}/objects/{oid}");
        let mut offer = json!({"oid": oid, "size": content.len()});
        let mut headers = json!({"X-Lfs": "asked for"});
        match &self.lie {
            Lie::ObjectError(code) => {
                offer["error"] = json!({"code": code, "message": "no\nbody"});
                return offer;
            }
            Lie::NoAction => return offer,
            Lie::OtherSize => offer["size"] = json!(1),
            Lie::OtherObject => offer["oid"] = json!("0".repeat(64)),
            Lie::Href(other) => other.clone_into(&mut href),
            Lie::BadHeader => headers = json!({"X-A": "b\r\nHost: evil"}),
            _ => {}
        }
        offer["actions"] = json!({"download": {"href": href, "header": headers}});
        offer
    }

    fn object(&self, oid: &str, headers: &HeaderMap) -> Response<Body> {
        let (oid, is_redirected) =
            oid.strip_suffix("/moved").map_or((oid, false), |oid| (oid, true));
        let content = self.objects.get(oid).expect("an object that was offered").clone();
        // What the server asks for is sent to the address that it names, and to no other origin.
        let expected = (!is_redirected).then_some("asked for");
        assert_eq!(headers.get("x-lfs").map(|value| value.to_str().expect("text")), expected);
        match &self.lie {
            Lie::OtherBytes => Response::new(vec![b'x'; content.len()].into()),
            Lie::Short => Response::new(content[1..].to_vec().into()),
            Lie::Endless => endless(),
            Lie::Loop => status_of(302, &format!("/objects/{oid}")),
            Lie::Redirect(to) if !is_redirected => {
                status_of(307, &format!("{to}/objects/{oid}/moved"))
            }
            Lie::Status(status) => status_of(*status, "/elsewhere"),
            _ => Response::new(content.into()),
        }
    }
}

fn status_of(status: u16, location: &str) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(status).expect("a status"))
        .header(header::LOCATION, location)
        .body(Body::empty())
        .expect("response")
}

fn endless() -> Response<Body> {
    let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1 << 13]));
    Response::new(Body::from_stream(stream::repeat_with(chunk)))
}
