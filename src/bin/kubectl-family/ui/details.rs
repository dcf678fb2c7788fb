//! What is known of one node: the documents of `why` and `impact`, and what the cluster has
//! recorded.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use groundswell::api::{ManagedImageStatus, UpstreamStatus};

use crate::{
    estate_graph::{EstateGraph, GraphNodeKind, NodeId},
    impact::impact,
    input::Estate,
    output::Document,
    ui::snapshot::{PageSnapshot, ShownImage},
    why::explain,
};

/// What the panel of the page shows.
#[derive(Serialize)]
pub struct Details<'a> {
    /// Why an image was built or is not built, as `why -o json` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Value>,
    /// Why there is no `why`: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    unexplained: Option<String>,
    /// What would be rebuilt if the node moved, as `impact -o json` says it. Not set for workloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<Value>,
    /// The tags of an image, as the manifest has them.
    tags: &'a [String],
    /// The recorded status of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a ManagedImageStatus>,
    /// The recorded status of an upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a UpstreamStatus>,
}

impl<'a> Details<'a> {
    /// Returns the details of the node of this name, if there is one.
    pub fn of(snapshot: &'a PageSnapshot, name: &str) -> Option<Self> {
        let (estate, graph) = (snapshot.estate(), snapshot.graph());
        let id = snapshot.node(name)?;
        let node = graph.node(id)?;
        let mut details = Self {
            why: None,
            unexplained: None,
            impact: moved(estate, graph, id),
            tags: &[],
            status: None,
            upstream: None,
        };
        match node.kind {
            GraphNodeKind::Image => details.add_image(estate, snapshot.image(name)?),
            GraphNodeKind::Upstream => details.upstream = upstream(estate, name),
            GraphNodeKind::External | GraphNodeKind::Workload => {}
        }
        Some(details)
    }

    fn add_image(&mut self, estate: &Estate, image: ShownImage<'a>) {
        let ShownImage { family, index } = image;
        let Some(spec) = family.family.spec.images.get(index.position()) else { return };
        self.tags = &spec.tags;
        self.status = family.images.get(&spec.name).and_then(|image| image.status.as_ref());
        match explain(estate, family, index, Timestamp::now()) {
            // It never fails for this type: its keys are texts.
            Ok(why) => self.why = serde_json::to_value(Document::new("Why", &why)).ok(),
            Err(error) => self.unexplained = Some(format!("{error:#}")),
        }
    }
}

fn moved(estate: &Estate, graph: &EstateGraph, node: NodeId) -> Option<Value> {
    if graph.node(node)?.kind == GraphNodeKind::Workload {
        return None;
    }
    let document = impact(estate, graph, Some(node), "");
    serde_json::to_value(Document::new("Impact", &document)).ok()
}

/// Returns what the first family that follows a reference has recorded of it.
fn upstream<'a>(estate: &'a Estate, reference: &str) -> Option<&'a UpstreamStatus> {
    let families = estate.families.iter();
    let mut known = families.filter_map(|family| {
        let mut upstreams = family.family.spec.upstreams.iter();
        let spec = upstreams.find(|upstream| upstream.reference() == reference)?;
        let status = family.family.status.as_ref()?;
        status.upstreams.iter().find(|upstream| upstream.name == spec.name)
    });
    known.next()
}
