//! The edges of images with `edges: Dockerfile` that no cluster has recorded, from the Dockerfiles
//! that are here. They are found with the code of the controller.

use std::collections::BTreeSet;

use groundswell::{
    api::{Image, ImageFamily},
    found_edges::{KnownParents, dockerfile, expand_edges},
    registry::Platform,
};

use crate::{
    input::{Estate, EstateFamily},
    output::note,
};

impl Estate {
    /// Names the images whose edges are not known, a sentence for each family.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.families.iter().filter_map(|family| {
            let EstateFamily { name, unknown_edges, .. } = family;
            let first = unknown_edges.first()?;
            let others = match unknown_edges.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            Some(format!(
                "{name}: what {first}{others} is built on follows from Dockerfiles that are not \
                 here, and no cluster has recorded it; only edges of the manifest are shown"
            ))
        });
        notes.collect()
    }

    /// Shows the notes.
    pub(super) fn note_unknown_edges(&self) {
        self.notes().iter().for_each(|text| note(text));
    }
}

/// Adds the edges that Dockerfiles name to a spec, and the upstreams that only they name. `unknown`
/// has the names of the images whose edges are not known, and keeps those whose Dockerfile is not
/// here or cannot be used. `text_of` returns the Dockerfile of an image.
pub fn add_dockerfile_edges(
    family: &mut ImageFamily,
    unknown: &mut BTreeSet<String>,
    text_of: &dyn Fn(&Image) -> Option<String>,
) {
    if unknown.is_empty() {
        return;
    }
    let platform = Platform::default();
    let spec = &family.spec;
    let known: Vec<KnownParents> = spec
        .images
        .iter()
        .map(|image| {
            let text = Some(image).filter(|image| unknown.contains(&image.name)).and_then(text_of);
            let read = text.map(|text| dockerfile::read(spec, image, &text, &platform));
            KnownParents { read: read.and_then(|read| read.parents.ok()), recorded: None }
        })
        .collect();
    let expansion = expand_edges(spec, &known);
    for (image, found) in spec.images.iter().zip(&expansion.images) {
        if found.edges.is_some() && found.problem.is_none() {
            unknown.remove(&image.name);
        }
    }
    family.spec = expansion.spec;
}
