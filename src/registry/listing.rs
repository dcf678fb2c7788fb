//! Lists of a registry: its repositories, and the tags of a repository. They come in pages, and
//! both the pages and the names are bounded.

use std::collections::HashSet;

use http::header;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use crate::registry::{
    Client, Keychain, Reference, RegistryError, call::RegistryCall, error::ErrorContext,
    http::HttpResponse, operation::Operation, platform::null_is_absent,
};

/// Number of names that are requested per page. A registry may send fewer.
const PAGE_SIZE: usize = 1000;
/// Maximum number of pages of one list.
const MAX_PAGES: usize = 1000;

/// The names of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameList {
    /// The names, as the registry orders them.
    pub names: Vec<String>,
    /// Whether the registry has more.
    pub is_cut: bool,
}

/// One page. Each kind of list has a key of its own.
#[derive(Deserialize)]
struct NamePage {
    #[serde(default, alias = "repositories", alias = "tags", deserialize_with = "null_is_absent")]
    names: Vec<String>,
}

impl Client {
    /// Returns the repositories of a registry, at most `limit`. Of `registry`, only the registry
    /// counts. Many public registries do not offer this list.
    pub async fn repositories(
        &self,
        registry: &Reference,
        keychain: &Keychain,
        limit: usize,
    ) -> Result<NameList, RegistryError> {
        self.names(registry, keychain, limit, &Operation::repositories).await
    }

    /// Returns the tags of a repository, at most `limit`.
    pub async fn tags(
        &self,
        repository: &Reference,
        keychain: &Keychain,
        limit: usize,
    ) -> Result<NameList, RegistryError> {
        self.names(repository, keychain, limit, &Operation::tags).await
    }

    /// Reads pages until the last one, or until there are enough names. The registry itself is
    /// asked: a mirror knows what was pulled through it, and no more.
    async fn names(
        &self,
        image: &Reference,
        keychain: &Keychain,
        limit: usize,
        operation: &(dyn Fn(&str) -> Operation + Sync),
    ) -> Result<NameList, RegistryError> {
        let call = RegistryCall::new(self, image, keychain);
        let origin = self.0.config.origin(image.registry());
        let mut list = NameList::default();
        let mut query = format!("n={PAGE_SIZE}");
        let mut queries = HashSet::new();
        for _ in 0..MAX_PAGES {
            let (page, next) = call.ask_registry(&origin, &operation(&query), &read_page).await?;
            list.names.extend(page.names);
            if list.names.len() > limit {
                list.names.truncate(limit);
                list.is_cut = true;
            }
            let Some(next) = next.filter(|_| !list.is_cut) else { return Ok(list) };
            queries.insert(std::mem::replace(&mut query, next));
            if queries.contains(&query) {
                let problem = "sent a list whose pages lead back to one of them, so that it never \
                               ends";
                return Err(call.context(&origin).invalid_response(problem));
            }
        }
        list.is_cut = true;
        Ok(list)
    }
}

fn read_page(
    context: ErrorContext<'_>,
    response: HttpResponse,
) -> Result<(NamePage, Option<String>), RegistryError> {
    let page: NamePage = serde_json::from_slice(&response.body)
        .map_err(|_| context.invalid_response("sent a list that cannot be read"))?;
    let next = response.header(header::LINK).and_then(|link| next_query(link, &response.url));
    Ok((page, next))
}

/// Returns the query of the next page. Of the URL that the registry names, nothing else counts:
/// it must not lead to another host or path.
fn next_query(link: &str, page: &Url) -> Option<String> {
    let link =
        link.split(',').find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let (_, target) = link.split_once('<')?;
    let (target, _) = target.split_once('>')?;
    let target = page.join(target).ok()?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut has_last = false;
    for (key, value) in target.query_pairs() {
        if ["n", "last", "next_page"].contains(&&*key) {
            has_last |= key != "n";
            query.append_pair(&key, &value);
        }
    }
    has_last.then(|| query.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::registry::{
        Config,
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, reply},
    };

    async fn list(
        limit: usize,
        respond: impl Fn(&RecordedRequest) -> FaultReply + Send + Sync + 'static,
    ) -> (Result<NameList, RegistryError>, Vec<String>) {
        let registry = FaultRegistry::start(respond).await;
        let config = Config { plain_http: vec![registry.address.to_string()], ..Config::default() };
        let client = Client::new(config).expect("a client");
        let image = format!("{}/team/app", registry.address).parse().expect("a reference");
        let result = client.tags(&image, &Keychain::default(), limit).await;
        (result, registry.request_lines())
    }

    fn page(request: &RecordedRequest, link: &str) -> FaultReply {
        if request.target.contains("last=a") {
            return reply(200, &[], r#"{"name":"team/app","tags":["b"]}"#);
        }
        reply(200, &[("link", link)], r#"{"name":"team/app","tags":["a"]}"#)
    }

    #[tokio::test]
    async fn pages_are_read_to_the_last_one() {
        for link in [
            "</v2/team/app/tags/list?last=a&n=1>; rel=\"next\"",
            "<http://elsewhere.example/v2/other/tags/list?n=1&last=a>; rel=\"next\"",
        ] {
            let (result, requests) = list(10, move |request| page(request, link)).await;
            assert_eq!(result.expect("a list").names, ["a", "b"]);
            assert_eq!(requests.len(), 2);
            assert!(requests[1].starts_with("GET /v2/team/app/tags/list?"), "{requests:?}");
        }
    }

    #[tokio::test]
    async fn a_list_that_never_ends_is_cut() {
        let page = AtomicUsize::new(0);
        let endless = move |_: &RecordedRequest| {
            let page = page.fetch_add(1, Ordering::SeqCst);
            let next = format!("</v2/x?last={page}>; rel=\"next\"");
            reply(200, &[("link", &next)], r#"{"tags":["a"]}"#)
        };
        let (result, requests) = list(3, endless).await;
        let cut = result.expect("a list");
        assert_eq!((cut.names.len(), cut.is_cut), (3, true));
        assert_eq!(requests.len(), 4);
        let many = |_: &RecordedRequest| reply(200, &[], r#"{"tags":["a","b","c","d"]}"#);
        let cut = list(3, many).await.0.expect("a list");
        assert_eq!((cut.names.len(), cut.is_cut), (3, true));
    }

    #[tokio::test]
    async fn pages_that_lead_back_to_one_of_them_are_an_error() {
        let to_itself = |_: &str| "z";
        let in_a_circle = |target: &str| if target.ends_with("last=b") { "c" } else { "b" };
        for (next, pages) in [(to_itself as fn(&str) -> &'static str, 2), (in_a_circle, 3)] {
            let (result, requests) = list(1000, move |request| {
                let link = format!("</v2/x?last={}>; rel=\"next\"", next(&request.target));
                reply(200, &[("link", &link)], r#"{"tags":["a"]}"#)
            })
            .await;
            let error = result.expect_err("an endless list").to_string();
            assert!(error.contains("pages lead back to one of them"), "{error}");
            assert_eq!(requests.len(), pages);
        }
    }

    #[tokio::test]
    async fn what_is_no_list_is_an_error() {
        let (result, _) = list(3, |_| reply(200, &[], "<html>")).await;
        let error = result.expect_err("no list").to_string();
        assert!(error.contains("sent a list that cannot be read"), "{error}");
        let (result, _) = list(3, |_| reply(200, &[], r#"{"tags":null}"#)).await;
        assert_eq!(result.expect("no tags"), NameList::default());
    }
}
