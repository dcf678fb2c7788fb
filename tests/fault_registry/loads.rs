//! Scenarios that are loads: many calls at the same time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use groundswell::{
    clock::Clock,
    controller::family::registry::pushed_image::{BaseComparison, Repository},
    registry::{
        Client, Config, Digest, Keychain, OutgoingRequest, Platform, Reference, ResponseBody,
        Transport, TransportError, full_body,
    },
    upstream::{
        ImageKey, Interest, PollLimits, PollPurpose, PollSettings, Poller, TagNeeds,
        UpstreamDigest, poll_tag,
    },
};
use http::{Method, Response};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

/// The time that a poll may take, as the operator limits it.
const POLL_TIMEOUT: Duration = Duration::from_mins(2);

/// What a server answers: the status, the headers and the body.
struct ServedAnswer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// Returns the answer to a request, or `None` if there is none.
type AnswerRequest = dyn Fn(&OutgoingRequest) -> Option<ServedAnswer> + Send + Sync;

/// Answers requests, or never responds, and notes the requests.
#[derive(Clone)]
struct LoadedServers {
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<AnswerRequest>,
}

impl LoadedServers {
    fn new(
        answer: impl Fn(&OutgoingRequest) -> Option<ServedAnswer> + Send + Sync + 'static,
    ) -> Self {
        Self { requests: Arc::default(), answer: Arc::new(answer) }
    }

    fn client(&self, config: Config) -> Client {
        Client::with_transport(config, Arc::new(self.clone()), Clock::new(|| Timestamp::UNIX_EPOCH))
    }

    /// Returns how many requests contain these texts.
    fn count(&self, texts: &[&str]) -> usize {
        let requests = self.requests.lock().expect("requests");
        requests.iter().filter(|request| texts.iter().all(|text| request.contains(text))).count()
    }
}

impl Transport for LoadedServers {
    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        self.requests.lock().expect("requests").push(format!("{} {}", request.method, request.url));
        let answer = (self.answer)(&request);
        async move {
            // Every request takes a moment, so that others start meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let Some(ServedAnswer { status, headers, body }) = answer else {
                tokio::time::sleep(Duration::from_secs(15)).await;
                return Err("operation timed out".to_owned().into());
            };
            let body = if request.method == Method::HEAD { String::new() } else { body };
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(full_body(Bytes::from(body))).expect("a response"))
        }
        .boxed()
    }
}

fn served(content: &str) -> ServedAnswer {
    let parsed: serde_json::Value = serde_json::from_str(content).unwrap_or_default();
    let media_type = parsed["mediaType"].as_str().unwrap_or("application/octet-stream");
    let headers = vec![
        ("content-type", media_type.to_owned()),
        ("docker-content-digest", Digest::of(content.as_bytes()).to_string()),
    ];
    ServedAnswer { status: 200, headers, body: content.to_owned() }
}

/// The contents of an image with these layers: its manifest and its configuration.
fn image(layers: &[&str]) -> [String; 2] {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": diff_ids}})
        .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config.as_bytes()), "size": config.len()},
        "layers": [],
    });
    [manifest.to_string(), config]
}

/// Starts a poller with the limits of the operator. Owners are named by their namespaces.
fn tag_poller(client: Client, config: &Config) -> Poller<ImageKey, UpstreamDigest, &'static str> {
    let config = config.clone();
    let limits = PollLimits {
        total: 256,
        per_host: 4,
        free_parts: 4,
        per_minute: Arc::new(move |registry| config.polls_per_minute(registry)),
    };
    let settings = PollSettings {
        timeout: POLL_TIMEOUT,
        limits,
        host_of: ImageKey::host,
        namespace_of: |owner: &&str| (*owner).to_owned(),
    };
    Poller::start(settings, Clock::new(|| Timestamp::UNIX_EPOCH), move |key: ImageKey, _| {
        let client = client.clone();
        async move { poll_tag(&client, &key, None).await }
    })
}

fn reference(text: &str) -> Reference {
    text.parse().expect(text)
}

#[tokio::test(start_paused = true)]
async fn a_base_is_read_once_for_all_builds() {
    let [base, base_config] = image(&["os"]);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(base.as_bytes()), "size": 1,
            "platform": {"os": "linux", "architecture": "amd64"}}],
    })
    .to_string();
    let [own, own_config] = image(&["os", "app"]);
    let contents = [base, base_config, index.clone(), own.clone(), own_config];
    let servers = LoadedServers::new(move |request| {
        let path = request.url.path();
        let by_digest =
            contents.iter().find(|content| path.ends_with(Digest::of(content.as_bytes()).as_str()));
        Some(served(by_digest.unwrap_or(&own)))
    });
    let client = servers.client(Config::default());
    let keychain = Keychain::default();
    let platform = Platform::from_user("linux/amd64").expect("a platform");
    for number in 0..10 {
        let own = Repository::new(&client, &keychain, &format!("r.test/team/app{number}"))
            .expect("a repository");
        let manifest = own.tagged("1").await.expect("an answer").expect("a build");
        let images = own.images(&manifest).await.expect("images");
        let base =
            Repository::new(&client, &keychain, "hub.test/library/os").expect("a repository");
        let compared = base.compare_base(&Digest::of(index.as_bytes()), &images, &platform).await;
        assert_eq!(compared.expect("an answer"), BaseComparison::IsBase);
    }
    assert_eq!(servers.count(&["GET", "hub.test", "/manifests/"]), 2, "the index and its image");
    assert_eq!(servers.count(&["GET", "hub.test", "/blobs/"]), 1);
}

#[tokio::test(start_paused = true)]
async fn sixteen_tags_of_a_repository_request_one_token() {
    let [manifest, _] = image(&["os"]);
    let servers = LoadedServers::new(move |request| {
        if request.url.path() == "/token" {
            let body = r#"{"token":"t","expires_in":300}"#.to_owned();
            return Some(ServedAnswer { status: 200, headers: Vec::new(), body });
        }
        if request.headers.contains_key("authorization") {
            return Some(served(&manifest));
        }
        let challenge = r#"Bearer realm="https://r.test/token",service="r""#.to_owned();
        let headers = vec![("www-authenticate", challenge)];
        Some(ServedAnswer { status: 401, headers, body: String::new() })
    });
    let client = servers.client(Config::default());
    let keychain = Keychain::default();
    let images: Vec<Reference> =
        (0..16).map(|tag| reference(&format!("r.test/team/app:{tag}"))).collect();
    let heads = images.iter().map(|image| client.head(image, &keychain));
    let found = futures::future::join_all(heads).await;
    assert!(found.iter().all(|head| matches!(head, Ok(Some(_)))), "{found:?}");
    assert_eq!(servers.count(&["/token"]), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_polls_after_a_start_are_spread() {
    const TAGS: usize = 500;
    let [manifest, _] = image(&["os"]);
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let sent = Arc::clone(&times);
    let servers = LoadedServers::new(move |_| {
        sent.lock().expect("lock").push(Instant::now());
        Some(served(&manifest))
    });
    let config = Config::default();
    let poller = tag_poller(servers.client(config.clone()), &config);
    let keychain = Arc::new(Keychain::default());
    let client = servers.client(config);
    let interests = (0..TAGS).map(|number| Interest {
        key: ImageKey::new(
            &client,
            &format!("docker.io/a/b{number}:1"),
            &TagNeeds::Digest,
            &keychain,
        ),
        interval: Duration::from_hours(1),
        purpose: PollPurpose::Follow,
    });
    poller.set_interests(&"team", interests.collect());
    let began = Instant::now();
    tokio::time::sleep(Duration::from_mins(3)).await;
    let times = times.lock().expect("lock").clone();
    assert_eq!(times.len(), TAGS, "each is polled once");
    let within = |second: u64| {
        let range = Duration::from_secs(second)..Duration::from_secs(second + 1);
        times.iter().filter(|time| range.contains(&time.duration_since(began))).count()
    };
    let peak = (0..180).map(within).max().unwrap_or_default();
    assert!(peak <= 11, "{peak} requests in a second");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_never_responds_delays_no_poll_for_long() {
    let [manifest, _] = image(&["os"]);
    let servers = LoadedServers::new(move |request| {
        (request.url.host_str() == Some("r.test")).then(|| served(&manifest))
    });
    let mirrors = [("r.test".to_owned(), vec!["https://mirror.test".parse().expect("a mirror")])];
    let client = servers.client(Config { mirrors: mirrors.into(), ..Config::default() });
    let keychain = Keychain::default();
    let images: Vec<Reference> =
        (0..64).map(|number| reference(&format!("r.test/team/app{number}:1"))).collect();
    let began = Instant::now();
    for round in 0..2 {
        let polls = images.iter().map(|image| client.poll(image, &keychain, None));
        let found = futures::future::join_all(polls).await;
        assert!(found.iter().all(|head| matches!(head, Ok(Some(_)))), "{round}: {found:?}");
    }
    let elapsed = began.elapsed();
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    assert!(servers.count(&["mirror.test"]) < 20, "{}", servers.count(&["mirror.test"]));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_responds_delays_no_other_registry() {
    let [manifest, _] = image(&["os"]);
    let servers = LoadedServers::new(move |request| {
        (request.url.host_str() == Some("well.test")).then(|| served(&manifest))
    });
    let client = servers.client(Config::default());
    let poller = tag_poller(client.clone(), &Config::default());
    let keychain = Arc::new(Keychain::default());
    let interest = |image: &str| Interest {
        key: ImageKey::new(&client, image, &TagNeeds::Digest, &keychain),
        interval: Duration::from_mins(10),
        purpose: PollPurpose::Follow,
    };
    let hung = (0..200).map(|number| interest(&format!("hung.test/team/app{number}:1"))).collect();
    poller.set_interests(&"hung", hung);
    // The silent host holds every place before the other one is polled.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let well = interest("well.test/team/app:1");
    poller.set_interests(&"well", vec![well.clone()]);
    let began = Instant::now();
    let found = async {
        while poller.latest(&well.key).is_none_or(|polled| polled.value.is_none()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_mins(10), found).await;
    assert!(found.is_ok(), "the healthy registry is not polled");
    let elapsed = began.elapsed();
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    assert!(servers.count(&["hung.test"]) < 40, "{}", servers.count(&["hung.test"]));
}
