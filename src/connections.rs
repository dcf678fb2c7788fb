//! A bounded HTTP/1.1 server: how many connections it has, how large the head of a request is, and
//! how long it may take.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

/// The most connections at once. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// The most bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Timeout of the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until the future is dropped. A connection that cannot be accepted or answered
/// ends, and the others go on.
pub async fn answer_connections(listener: TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let answered = answer(stream, routes.clone());
        tokio::spawn(async move {
            answered.await;
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    connection.max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(routes);
    _ = connection.serve_connection(TokioIo::new(stream), service).await;
}
