//! `kubectl family impact`: what would be rebuilt if an upstream or an image moved to a new digest.
//! Images that do not change are found only by building them, so that this is an upper bound.

mod gates;
mod report;
pub mod schedule;

use clap::Args;
use jiff::Timestamp;

use groundswell::api::ManagedImageStatus;

use crate::{
    build_times::{BuildTimes, ExpectedTime},
    estate_graph::{EstateGraph, GraphNodeKind, NodeId},
    impact::{
        gates::MoveGates,
        schedule::{ScheduledBuild, schedule},
    },
    input::{Estate, EstateFamily, InputArguments, target::TargetName},
    output::{self, Document, ListFormat, Outcome, Terminal},
};

pub use report::ImpactDocument;

/// Upper bound on the requests to the registry for each rebuilt image, in addition to one per tag:
/// a lookup before and after the build, the configuration, the record, and a lookup of the tag that
/// names the build. `tests/integration/registry_traffic.rs` counts them.
const REQUESTS_PER_IMAGE: usize = 5;

const EXAMPLES: &str = "Examples:
  # What a new alpine means for all families of the cluster
  kubectl family impact alpine -A
  # What is built on an image, from a file
  kubectl family impact base -f family.yaml
  # The names of the images alone
  kubectl family impact base -f family.yaml -o name";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ImpactArguments {
    /// The upstream or image that moves: NAME, FAMILY/NAME, NAMESPACE/FAMILY/NAME, upstream.NAME,
    /// or a reference such as docker.io/library/alpine:3.24
    target: TargetName,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
    #[command(flatten)]
    input: InputArguments,
}

pub async fn run(arguments: ImpactArguments) -> anyhow::Result<Outcome> {
    let estate = Estate::read(&arguments.input).await?;
    let graph = EstateGraph::of(&estate)?;
    let target = arguments.target.find(&estate)?;
    let node = graph.target(&target);
    let document = impact(&estate, &graph, node, &arguments.target.to_string());
    let width = Terminal::of_stdout().width;
    let text = match arguments.output {
        ListFormat::Table => document.summary(width),
        ListFormat::Wide => document.rows(width),
        ListFormat::Json => Document::new("Impact", &document).json()?,
        ListFormat::Yaml => Document::new("Impact", &document).yaml()?,
        ListFormat::Name => document.names(),
    };
    output::write(&text)?;
    Ok(Outcome::Fine)
}

/// Returns what follows if a node moved. `name` is that of the target if it has no node, because
/// nothing is built on it.
pub fn impact(
    estate: &Estate,
    graph: &EstateGraph,
    node: Option<NodeId>,
    name: &str,
) -> ImpactDocument {
    let reached = node.map(|node| Impact::of(estate, graph, node, Timestamp::now()));
    reached.unwrap_or_default().document(estate, graph, name)
}

/// What a move reaches.
#[derive(Clone, Debug, Default)]
struct Impact {
    /// What moves.
    target: Option<NodeId>,
    /// The images that are rebuilt, parents first.
    rebuilt: Vec<NodeId>,
    /// The images that a hold keeps at their digest, so that the move does not pass them.
    held: Vec<NodeId>,
    /// The workloads that are updated.
    workloads: Vec<NodeId>,
    /// What keeps families from following the move at once, or at all.
    gates: Vec<String>,
}

impl Impact {
    /// Follows the graph down from a node, up to images that are held.
    fn of(estate: &Estate, graph: &EstateGraph, target: NodeId, now: Timestamp) -> Self {
        let mut impact = Self { target: Some(target), ..Self::default() };
        let mut known = vec![false; graph.nodes().count()];
        let gates = MoveGates { estate, graph, now };
        // Families that hold the upstream do not follow it.
        let first = graph.children(target).iter().map(|edge| edge.node);
        let mut stack: Vec<NodeId> = first.filter(|node| gates.follows(*node, target)).collect();
        while let Some(node) = stack.pop() {
            let Some(is_known) = known.get_mut(node.0) else { continue };
            if std::mem::replace(is_known, true) {
                continue;
            }
            match graph.node(node).map(|content| content.kind) {
                Some(GraphNodeKind::Workload) => impact.workloads.push(node),
                Some(GraphNodeKind::Image) if is_held(estate, graph, node, now) => {
                    impact.held.push(node);
                }
                Some(GraphNodeKind::Image) => {
                    impact.rebuilt.push(node);
                    stack.extend(graph.children(node).iter().map(|edge| edge.node));
                }
                Some(GraphNodeKind::Upstream | GraphNodeKind::External) | None => {}
            }
        }
        let key = |node: &NodeId| graph.node(*node).map(|one| (one.level, one.name.clone()));
        for list in [&mut impact.rebuilt, &mut impact.held, &mut impact.workloads] {
            list.sort_by_key(key);
        }
        impact.gates = gates.sentences(target, &impact.rebuilt);
        impact
    }

    fn document(&self, estate: &Estate, graph: &EstateGraph, name: &str) -> ImpactDocument {
        let times: Vec<BuildTimes> = estate.families.iter().map(BuildTimes::of).collect();
        let expected = |node: NodeId| {
            let content = graph.node(node)?;
            Some(times.get(content.family?)?.expected(content.image?))
        };
        let builds = self.rebuilt.iter().filter_map(|node| {
            let family = graph.node(*node)?.family?;
            let time = expected(*node).unwrap_or(ExpectedTime::Unknown).duration();
            Some(ScheduledBuild { node: *node, family, time })
        });
        let builds: Vec<ScheduledBuild> = builds.collect();
        let places = |family: usize| {
            let family = estate.families.get(family);
            let places = family.map_or(1, |family| family.family.spec.policy.parallelism);
            usize::try_from(places).unwrap_or(1)
        };
        let schedule = schedule(graph, &builds, places);
        let mut document = ImpactDocument::new(graph, self, name);
        for (image, node) in document.images.iter_mut().zip(&self.rebuilt) {
            let tags = image_of(estate, graph, *node).map_or(0, |(_, image)| image.tags.len());
            image.registry_requests = REQUESTS_PER_IMAGE + tags;
            image.set_expected(expected(*node).unwrap_or(ExpectedTime::Unknown));
            image.size = status_of(estate, graph, *node).and_then(|status| status.size);
        }
        document.set_schedule(graph, &schedule);
        document
    }
}

/// Returns the family and the name of an image.
fn image_of<'a>(
    estate: &'a Estate,
    graph: &EstateGraph,
    node: NodeId,
) -> Option<(&'a EstateFamily, &'a groundswell::api::Image)> {
    let content = graph.node(node)?;
    let family = estate.families.get(content.family?)?;
    Some((family, family.family.spec.images.get(content.image?.position())?))
}

fn status_of<'a>(
    estate: &'a Estate,
    graph: &EstateGraph,
    node: NodeId,
) -> Option<&'a ManagedImageStatus> {
    let (family, image) = image_of(estate, graph, node)?;
    family.images.get(&image.name)?.status.as_ref()
}

/// Whether a hold keeps an image at its digest.
fn is_held(estate: &Estate, graph: &EstateGraph, node: NodeId, now: Timestamp) -> bool {
    let manifest = image_of(estate, graph, node).and_then(|(_, image)| image.hold.as_ref());
    let is_active = |until: Option<Timestamp>| until.is_none_or(|until| now < until);
    let recorded = status_of(estate, graph, node).and_then(|status| status.hold.as_ref());
    manifest.is_some_and(|hold| is_active(hold.until))
        || recorded.is_some_and(|hold| is_active(hold.until))
}
