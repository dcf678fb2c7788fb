//! The endpoint for hints of registries. Every replica listens, but only the leader polls.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;

use crate::{
    connections::answer_connections,
    controller::context::Context,
    hints::{self, HintSettings, HintedTag},
    server,
};

/// The endpoint. It answers from the start, and makes polls due once this replica leads.
#[derive(Clone, Default)]
pub struct HintEndpoint {
    leader: Arc<OnceLock<Arc<Context>>>,
}

impl HintEndpoint {
    /// Listens on an address. `tokens` is the file with the tokens.
    pub fn listen(&self, address: SocketAddr, tokens: PathBuf) -> anyhow::Result<()> {
        let listener = server::listen(address).with_context(|| format!("listen on {address}"))?;
        let leader = Arc::clone(&self.leader);
        let poll = Arc::new(move |tags: &[HintedTag]| Some(poll_hinted(leader.get()?, tags)));
        let routes = hints::routes(HintSettings { tokens, poll });
        tokio::spawn(answer_connections(listener, routes));
        Ok(())
    }

    /// Makes the polls of this context due from now on.
    pub fn lead(&self, context: &Arc<Context>) {
        _ = self.leader.set(Arc::clone(context));
    }
}

/// Makes the polls of these tags due, and returns how many there are.
fn poll_hinted(context: &Context, tags: &[HintedTag]) -> usize {
    let tags: HashSet<&str> = tags.iter().map(HintedTag::as_str).collect();
    context.tags.hasten(|key| tags.contains(key.canonical()))
}
