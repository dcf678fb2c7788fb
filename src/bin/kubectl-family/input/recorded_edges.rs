//! The edges of images with `edges: Dockerfile`, as the controller has recorded them. They are part
//! of no manifest.

use std::collections::{BTreeSet, HashMap};

use groundswell::api::{
    Edge, EdgeSource, FoundEdge, ImageFamily, ImageFamilySpec, ManagedImage, Upstream,
};

/// Adds the recorded edges to a spec, and the upstreams that only Dockerfiles name. Returns the
/// names of the images whose edges nothing records.
pub fn add_recorded_edges(
    family: &mut ImageFamily,
    records: &HashMap<String, ManagedImage>,
) -> BTreeSet<String> {
    let spec = &mut family.spec;
    let (mut unknown, mut found) = (BTreeSet::new(), Vec::new());
    for image in &mut spec.images {
        if image.edges != EdgeSource::Dockerfile {
            continue;
        }
        let status = records.get(&image.name).and_then(|record| record.status.as_ref());
        let Some(edges) = status.and_then(|status| status.edges.as_ref()) else {
            unknown.insert(image.name.clone());
            continue;
        };
        for edge in edges {
            let is_parent = |declared: &Edge| {
                declared.family.is_none()
                    && declared.upstream == edge.upstream
                    && declared.image == edge.image
            };
            if !image.from.iter().any(is_parent) {
                image.from.push(declared(edge));
            }
        }
        found.extend_from_slice(edges);
    }
    for edge in &found {
        add_upstream(spec, edge);
    }
    unknown
}

fn declared(edge: &FoundEdge) -> Edge {
    Edge {
        upstream: edge.upstream.clone(),
        image: edge.image.clone(),
        reference: Some(edge.reference.clone()),
        usage: edge.usage,
        ..Edge::default()
    }
}

/// Adds the upstream of an edge, if the spec does not list it.
fn add_upstream(spec: &mut ImageFamilySpec, edge: &FoundEdge) {
    let Some(name) = &edge.upstream else { return };
    if spec.upstreams.iter().any(|upstream| upstream.name == *name) {
        return;
    }
    let plain = edge.reference.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to the registry's port.
    let tagged = plain.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    let (image, tag) = tagged.unwrap_or((plain, "latest"));
    let defaults = spec.upstream_defaults.clone().unwrap_or_default();
    let upstream: Upstream = defaults.upstream(name.clone(), image.to_owned(), tag.to_owned());
    spec.upstreams.push(upstream);
}
