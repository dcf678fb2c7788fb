//! Waits until the images of a request that starts builds are current, or are not built any more.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use kube::{ResourceExt as _, api::ListParams};
use tokio::time::{Instant, sleep};

use groundswell::{
    api::{FamilyRequestSpec, ImageFamily, ImageState, ManagedImage},
    lineage::ImageIndex,
    terminal::printable,
};

use crate::{
    cluster::ClusterConnection,
    input::{EstateFamily, plural},
    missing_rights::MissingRights,
    output::Outcome,
};

/// Pause before the images are read again.
const INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of images that a line names.
const MAX_NAMED: usize = 8;

/// Shows the progress of the images of a request until none of them is built any more.
///
/// # Errors
///
/// Returns an error if that takes longer than until `deadline`.
pub async fn wait_for_images(
    cluster: &ClusterConnection,
    family: &ImageFamily,
    spec: &FamilyRequestSpec,
    deadline: Instant,
    write: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut shown = String::new();
    loop {
        let selected = ListParams::default().fields(&format!("spec.family={}", spec.family));
        let is_late = Instant::now() + INTERVAL > deadline;
        let images: Vec<ManagedImage> = match cluster.list(cluster.api(), selected).await {
            Ok(images) => images,
            // The builds continue while the API server does not answer.
            Err(error) if !is_late && !error.is::<MissingRights>() => {
                sleep(INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let states = Progress::of(family, spec, images)?;
        let line = states.line();
        if line != shown {
            write(&format!("{line}\n"))?;
            shown = line;
        }
        if states.is_over() {
            let is_built = states.named(&[ImageState::Failed, ImageState::Blocked]).is_empty();
            return Ok(if is_built { Outcome::Fine } else { Outcome::Findings });
        }
        if is_late {
            bail!("the images are not all built in time: {shown}; builds continue");
        }
        sleep(INTERVAL).await;
    }
}

/// The states of the images that a request applies to.
struct Progress(BTreeMap<String, ImageState>);

impl Progress {
    fn of(
        family: &ImageFamily,
        spec: &FamilyRequestSpec,
        images: Vec<ManagedImage>,
    ) -> anyhow::Result<Self> {
        let states = images.iter().map(|image| {
            let state = image.status.as_ref().map(|status| status.state);
            (image.spec.image.clone(), state.unwrap_or_default())
        });
        let mut states: BTreeMap<String, ImageState> = states.collect();
        match &spec.image {
            None => {}
            Some(image) if spec.subtree => {
                let below = with_descendants(family, images, image)?;
                states.retain(|name, _| below.contains(name));
            }
            Some(image) => states.retain(|name, _| name == image),
        }
        if states.is_empty() {
            bail!("the images of the request are not there any more");
        }
        Ok(Self(states))
    }

    fn named(&self, wanted: &[ImageState]) -> Vec<&str> {
        let found = self.0.iter().filter(|(_, state)| wanted.contains(state));
        found.map(|(name, _)| name.as_str()).collect()
    }

    fn is_over(&self) -> bool {
        use ImageState::{Building, Checking, Queued, Waiting};
        self.named(&[Waiting, Queued, Building, Checking]).is_empty()
    }

    fn line(&self) -> String {
        use ImageState::{Blocked, Building, Checking, Current, Failed, Held};
        let (done, total) = (self.named(&[Current, Held]).len(), self.0.len());
        let mut parts = vec![format!("{done} of {total} image{} current", plural(total))];
        for (what, states) in [
            ("building", &[Building, Checking][..]),
            ("failed", &[Failed]),
            ("blocked", &[Blocked]),
        ] {
            let names = self.named(states);
            if names.is_empty() {
                continue;
            }
            let more = names.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let first: Vec<&str> = names.into_iter().take(MAX_NAMED).collect();
            parts.push(format!("{what}: {}{more}", first.join(", ")));
        }
        printable(&parts.join("; ")).replace('\n', " ")
    }
}

/// Returns the names of an image and of all that are built on it.
fn with_descendants(
    family: &ImageFamily,
    images: Vec<ManagedImage>,
    image: &str,
) -> anyhow::Result<Vec<String>> {
    let records = images.into_iter().map(|image| (image.spec.image.clone(), image)).collect();
    let Some(family) = EstateFamily::of_objects(family.clone(), records) else {
        bail!("{} is not valid any more; see its status", family.name_any())
    };
    let all = &family.family.spec.images;
    let mut roots = ImageIndex::enumerate(all).filter(|(_, one)| one.name == image);
    let root = roots.next().map(|(index, _)| index);
    let mask = family.blueprint.lineage.with_descendants(root);
    let below = all.iter().zip(mask).filter(|(_, is_below)| *is_below);
    Ok(below.map(|(image, _)| image.name.clone()).collect())
}
