//! Writes the private certificate authorities of the operator's configuration for Git and for the
//! builder.

use std::{collections::BTreeSet, fs};

use crate::{
    builds::{
        pod_paths,
        prepare::{
            PodPaths, disk_error,
            error::{PrepareError, PrepareReason},
            spec::PrepareSpec,
        },
    },
    registry::{CaBundle, Reference},
};

/// Writes the authorities alone, and together with those of the system. Writes nothing if the
/// specification has none.
pub(super) fn write(spec: &PrepareSpec, paths: &PodPaths) -> Result<(), PrepareError> {
    if spec.ca_bundle.is_empty() {
        return Ok(());
    }
    let bundle = CaBundle::parse(&spec.ca_bundle).map_err(|error| {
        let message = format!("the operator's bundle of certificates is invalid: {error}");
        PrepareError::new(PrepareReason::InfrastructureFailed, message)
    })?;
    let under_root = |path: &str| paths.root.join(path.trim_start_matches('/'));
    let own = under_root(pod_paths::CA_FILE);
    fs::write(&own, bundle.pem()).map_err(|error| disk_error(&own, &error))?;
    let all = under_root(pod_paths::TRUST_FILE);
    bundle.write_with_system(&paths.root, &all).map_err(|error| disk_error(&all, &error))
}

/// Returns the registries that the build uses, if private authorities are to be trusted for them.
pub(super) fn hosts(spec: &PrepareSpec) -> BTreeSet<String> {
    let references = spec.parents.iter().map(|parent| &parent.pinned).chain([&spec.image]);
    references
        .filter(|_| !spec.ca_bundle.is_empty())
        .filter_map(|reference| reference.parse::<Reference>().ok())
        .map(|reference| reference.registry().to_owned())
        .collect()
}
