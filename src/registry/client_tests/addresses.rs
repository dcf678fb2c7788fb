//! Addresses that are refused, however a registry or a name leads to them.

use super::*;

const METADATA: &str = "http://169.254.169.254/latest/meta-data/";

/// Returns the message of the refusal with which a lookup ends, and how often the registry was
/// asked.
async fn refusal(client: &Client, image: &Reference) -> String {
    let error = client.manifest(image, &none()).await.expect_err("refused");
    assert_eq!(error.reason(), Reason::AddressNotAllowed, "{error}");
    assert!(!error.is_transient(), "{error}");
    error.to_string()
}

/// A client to which only this registry is allowed, by its address.
fn strict(registry: &FaultRegistry) -> Client {
    Client::new(config(&[registry.address])).expect("client")
}

#[tokio::test]
async fn a_redirect_to_the_metadata_service_is_refused() {
    for target in [METADATA, "http://[::ffff:a9fe:a9fe]/", "http://2852039166/", "http://[::1]:1/"]
    {
        let registry = FaultRegistry::start(move |_| reply(302, &[("location", target)], "")).await;
        let message = refusal(&strict(&registry), &image(registry.address)).await;
        assert!(message.contains("`registries.allowedAddresses`"), "{message}");
        assert_eq!(registry.requests().len(), 1, "it is not asked again");
    }
}

#[tokio::test]
async fn a_token_service_at_the_metadata_service_is_refused() {
    let registry = FaultRegistry::start(|_| {
        let challenge = r#"Bearer realm="https://169.254.169.254/token",service="r""#;
        reply(401, &[("www-authenticate", challenge)], "")
    })
    .await;
    let message = refusal(&strict(&registry), &image(registry.address)).await;
    assert!(message.contains("169.254.169.254 is a link-local address"), "{message}");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_name_is_refused_for_what_it_resolves_to() {
    let registry = FaultRegistry::start(complete_reply).await;
    let port = registry.address.port();
    let default = Client::new(Config::default()).expect("client");
    let message = refusal(&default, &image(format!("localhost:{port}"))).await;
    assert!(message.contains("localhost has the address"), "{message}");
    assert!(message.contains("loopback"), "{message}");
    let literal = refusal(&default, &image("127.0.0.1:1")).await;
    assert!(literal.contains("127.0.0.1 is a loopback address"), "{literal}");
    assert_eq!(registry.requests().len(), 0);

    let by_name = Config { plain_http: vec![format!("localhost:{port}")], ..Config::default() };
    let by_name = Client::new(by_name).expect("client");
    assert!(by_name.manifest(&image(format!("localhost:{port}")), &none()).await.is_ok());
}

#[tokio::test]
async fn a_refused_address_closes_no_circuit() {
    let registry = FaultRegistry::start(|_| reply(302, &[("location", METADATA)], "")).await;
    let client = strict(&registry);
    for _ in 0..10 {
        refusal(&client, &image(registry.address)).await;
    }
    assert_eq!(client.paused_hosts(), []);
}

#[tokio::test]
async fn paused_hosts_are_listed_with_their_cause() {
    let limited = FaultRegistry::start(|_| reply(429, &[("retry-after", "120")], "")).await;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        listener.local_addr().expect("address")
    };
    let client = Client::new(config(&[limited.address, gone])).expect("client");
    for address in [limited.address, gone] {
        assert!(client.manifest(&image(address), &none()).await.is_err());
    }
    let mut paused = client.paused_hosts();
    paused.sort_by_key(|paused| paused.cause == PauseCause::Limited);
    let found: Vec<_> = paused.iter().map(|paused| (paused.host.clone(), paused.cause)).collect();
    let expected = [
        (gone.to_string(), PauseCause::Unresponsive),
        (limited.address.to_string(), PauseCause::Limited),
    ];
    assert_eq!(found, expected);
    assert!((100..=120).contains(&paused[1].pause.as_secs()), "{paused:?}");
}
