//! The addresses of the page: its files, what it shows as JSON, and a stream of events.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures::{Stream, stream};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use groundswell::contents::ContentsReader;

use crate::{
    cluster::ClusterConnection,
    layers::layers_in_family,
    registry_images::current_reference,
    ui::{
        build_log::BuildLog,
        details::Details,
        page::{self, PageFile},
        snapshot::{PageSnapshot, ShownImage},
    },
};

/// What requests are answered from.
pub struct PageState {
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Arc<PageSnapshot>>,
    /// Reads layers and packages with the user's credentials.
    pub reader: ContentsReader,
    /// The cluster; `None` if the families come from files.
    pub cluster: Option<ClusterConnection>,
}

type SharedState = State<Arc<PageState>>;

/// Returns the routes. The first part of every path is the token, which the server has checked.
pub fn routes(state: Arc<PageState>) -> Router {
    Router::new()
        .route("/{token}/", get(|| async { page::INDEX.into_response() }))
        .route("/{token}/{file}", get(file))
        .route("/{token}/api/state", get(snapshot))
        .route("/{token}/api/events", get(events))
        .route("/{token}/api/details", get(details))
        .route("/{token}/api/layers", get(layers))
        .route("/{token}/api/packages", get(packages))
        .route("/{token}/api/log", get(log))
        .with_state(state)
}

impl IntoResponse for PageFile {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.media_type)], self.content).into_response()
    }
}

/// Why a request has no answer: a sentence.
struct RouteError(StatusCode, String);

impl RouteError {
    fn unknown(node: &str) -> Self {
        Self(StatusCode::NOT_FOUND, format!("there is no image {node} any more"))
    }
}

impl From<anyhow::Error> for RouteError {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::BAD_GATEWAY, format!("{error:#}"))
    }
}

impl IntoResponse for RouteError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

async fn file(Path((_, name)): Path<(String, String)>) -> Result<PageFile, StatusCode> {
    page::file(&name).ok_or(StatusCode::NOT_FOUND)
}

impl PageState {
    fn snapshot(&self) -> Arc<PageSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }
}

/// Returns the node that a query names: `node=NAME`.
fn node_of(query: Option<&str>) -> String {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "node").map(|(_, node)| node.into_owned()).unwrap_or_default()
}

/// Returns the image that a query names.
fn image_of<'s>(
    snapshot: &'s PageSnapshot,
    query: Option<&str>,
) -> Result<ShownImage<'s>, RouteError> {
    let node = node_of(query);
    snapshot.image(&node).ok_or_else(|| RouteError::unknown(&node))
}

async fn snapshot(State(state): SharedState) -> Response {
    let json = state.snapshot().json();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Sends the number of every new snapshot. The page then asks for it.
async fn events(State(state): SharedState) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut snapshots = state.snapshots.clone();
    snapshots.mark_changed();
    let events = stream::unfold(snapshots, |mut snapshots| async {
        snapshots.changed().await.ok()?;
        let version = snapshots.borrow_and_update().version();
        Some((Ok(Event::default().event("snapshot").data(version.to_string())), snapshots))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

async fn details(
    State(state): SharedState,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, RouteError> {
    let node = node_of(query.as_deref());
    let snapshot = state.snapshot();
    let details = Details::of(&snapshot, &node).ok_or_else(|| RouteError::unknown(&node))?;
    json(&details)
}

async fn layers(
    State(state): SharedState,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, RouteError> {
    let snapshot = state.snapshot();
    let ShownImage { family, index } = image_of(&snapshot, query.as_deref())?;
    json(&layers_in_family(&state.reader, snapshot.estate(), family, index).await?)
}

async fn packages(
    State(state): SharedState,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, RouteError> {
    let snapshot = state.snapshot();
    let ShownImage { family, index } = image_of(&snapshot, query.as_deref())?;
    let reference = current_reference(family, index)?;
    let image = state.reader.image(&reference).await.map_err(anyhow::Error::from)?;
    json(&state.reader.packages(&image).await.map_err(anyhow::Error::from)?)
}

async fn log(
    State(state): SharedState,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, RouteError> {
    let snapshot = state.snapshot();
    let image = image_of(&snapshot, query.as_deref())?;
    let Some(cluster) = &state.cluster else {
        let message = "files have no logs; read the families from a cluster";
        return Err(RouteError(StatusCode::NOT_FOUND, message.into()));
    };
    json(&BuildLog::read(cluster, &image).await?)
}

/// Returns a document as JSON.
fn json<T: Serialize>(document: &T) -> Result<Response, RouteError> {
    let text = serde_json::to_string(document).map_err(anyhow::Error::from)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
