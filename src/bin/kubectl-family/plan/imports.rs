//! Images of other families that a family is built on: whether it may use them, what they are, and
//! when the plans of their families rebuild them.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use groundswell::{
    api::ImageState,
    engine::{
        ImportState, ImportedBuild, ObservedImport, Problem, blueprint::repository,
        cascade::windows::WindowState,
    },
    lineage::{
        ImageIndex, Import, Parent,
        families::{
            FamilyLookup, FamilyName, FamilyReader, ImageName, ImportProblem, check_imports,
        },
    },
};

use crate::{
    input::EstateFamily,
    plan::dry_run::{DryRunEnd, digest_of},
};

/// What a plan assumes of an image of another family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AssumedImport {
    /// Why it may not be used.
    problem: Option<Problem>,
    /// The repository that holds it.
    repository: String,
    /// Its digest before the plan; `None` if it has no build yet.
    before: Option<String>,
    /// What the plan of its family makes of it.
    planned: PlannedImport,
    /// Until when its family starts no builds, because no window is open.
    paused_until: Option<Timestamp>,
}

/// What the plan of a family makes of an image that others are built on.
#[derive(Clone, Debug, Default, PartialEq)]
enum PlannedImport {
    /// It keeps its digest.
    #[default]
    Kept,
    /// It is rebuilt.
    Rebuilt { at: Timestamp, digest: String },
    /// It, or an image that it is built on, has failed.
    Failed { by: String },
}

impl AssumedImport {
    /// Returns what is assumed of an image whose family is not part of the input: it stays at the
    /// digest that the builds of the family record.
    pub fn unknown(family: &EstateFamily, import: &Import) -> Self {
        let name = image_of(&family.name, import);
        let before = recorded_digest(family, import).unwrap_or_else(|| assumed_digest(&name));
        let repository = format!("{}/{}", import.family, import.image);
        Self { repository, before: Some(before), ..Self::default() }
    }

    /// Returns when the image is rebuilt, if it is and may be used.
    pub fn rebuilt_at(&self) -> Option<Timestamp> {
        match &self.planned {
            PlannedImport::Rebuilt { at, .. } if self.problem.is_none() => Some(*at),
            _ => None,
        }
    }

    /// Returns what a family sees of the image at a time.
    pub fn at(&self, now: Timestamp) -> ObservedImport {
        let build = |digest: &String| ImportedBuild {
            digest: digest.as_str().into(),
            repository: self.repository.clone(),
            base_observed: None,
            causes: Vec::new(),
            rolled_back_to: None,
        };
        let before = self.before.as_ref();
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        let (digest, state) = match &self.planned {
            _ if self.problem.is_some() => (None, ImportState::Settled),
            PlannedImport::Kept => (before, ImportState::Settled),
            PlannedImport::Failed { by } => (before, ImportState::Failed { by: by.clone() }),
            PlannedImport::Rebuilt { at, digest } if now >= *at => {
                (Some(digest), ImportState::Settled)
            }
            PlannedImport::Rebuilt { .. } if is_paused => (before, ImportState::Settled),
            PlannedImport::Rebuilt { .. } => (before, ImportState::InProgress),
        };
        ObservedImport { problem: self.problem.clone(), verified: digest.map(build), state }
    }
}

/// Of which namespaces a plan knows all families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EstateScope {
    /// Of none: files may be a part of what a cluster has.
    #[default]
    Part,
    /// Of one.
    Namespace(String),
    /// Of all.
    Cluster,
}

impl EstateScope {
    fn has_all(&self, namespace: &str) -> bool {
        match self {
            Self::Part => false,
            Self::Namespace(known) => known == namespace,
            Self::Cluster => true,
        }
    }
}

/// What is known of the images that families are built on before any of them is planned.
pub struct EstateImports<'a> {
    /// The families as they are planned.
    pub families: Vec<&'a EstateFamily>,
    /// The families that are assumed to be current although nothing is recorded of them.
    pub current: Vec<FamilyName>,
    /// Where another family does not exist.
    pub scope: &'a EstateScope,
    /// When the plan begins.
    pub now: Timestamp,
}

impl FamilyReader for EstateImports<'_> {
    fn family(&self, name: &FamilyName) -> FamilyLookup {
        self.find(name).map_or(FamilyLookup::NotFound, |family| {
            FamilyLookup::Found(Arc::new(family.family.clone()))
        })
    }
}

impl EstateImports<'_> {
    fn find(&self, name: &FamilyName) -> Option<&EstateFamily> {
        self.families.iter().copied().find(|family| family.name == *name)
    }

    /// Returns what is assumed of the images that a family is built on while their families are
    /// not planned yet.
    pub fn of(&self, family: &EstateFamily) -> HashMap<ImageName, AssumedImport> {
        let imports = family.blueprint.lineage.imports();
        if imports.is_empty() {
            return HashMap::new();
        }
        let survey = check_imports(&family.name, &family.family.spec, self);
        let problems: HashMap<ImageName, ImportProblem> = survey
            .imports
            .into_iter()
            .filter_map(|(name, problem)| Some((name, problem?)))
            // A family that is not part of the input may exist.
            .filter(|(name, problem)| {
                self.scope.has_all(&name.family.namespace)
                    || !matches!(problem, ImportProblem::FamilyNotFound { .. })
            })
            .collect();
        let assumed = imports.iter().map(|import| {
            let name = image_of(&family.name, import);
            let problem = problems.get(&name).cloned().map(Problem::from);
            let known = self.find(&name.family).and_then(|family| self.exported(family, &name));
            let known = known.unwrap_or_else(|| AssumedImport::unknown(family, import));
            (name, AssumedImport { problem, ..known })
        });
        assumed.collect()
    }

    /// Returns the images that a family is built on and that are assumed to exist, because their
    /// families are not part of the input.
    pub fn unchecked(&self, family: &EstateFamily) -> Vec<String> {
        let names = family.blueprint.lineage.imports().iter();
        let names = names.map(|import| image_of(&family.name, import));
        let unchecked = names.filter(|name| {
            self.find(&name.family).is_none() && !self.scope.has_all(&name.family.namespace)
        });
        unchecked.map(|name| name.to_string()).collect()
    }

    /// Returns what is known of an image of a family of the input.
    fn exported(&self, family: &EstateFamily, name: &ImageName) -> Option<AssumedImport> {
        let spec = &family.family.spec;
        let image = spec.images.iter().find(|image| image.name == name.image)?;
        let record = family.images.get(&name.image).and_then(|record| record.status.as_ref());
        let recorded = record.and_then(|status| status.digest.clone());
        let is_current = self.current.contains(&family.name);
        let before = recorded.or_else(|| is_current.then(|| assumed_digest(name)));
        let paused_until = match family.blueprint.windows.state(self.now) {
            WindowState::Closed { opens } => opens,
            WindowState::Open { .. } | WindowState::Unrestricted => None,
        };
        let repository = repository(spec, image);
        Some(AssumedImport { repository, before, paused_until, ..AssumedImport::default() })
    }
}

/// Sets what the plans of the families make of the images that a family is built on.
pub fn set_planned(
    imports: &mut HashMap<ImageName, AssumedImport>,
    planned: &HashMap<FamilyName, (&EstateFamily, &DryRunEnd)>,
) {
    for (name, import) in imports {
        let Some((family, end)) = planned.get(&name.family) else { continue };
        import.planned = planned_import(family, end, name).unwrap_or_default();
    }
}

fn planned_import(
    family: &EstateFamily,
    end: &DryRunEnd,
    name: &ImageName,
) -> Option<PlannedImport> {
    let position = family.family.spec.images.iter().position(|image| image.name == name.image)?;
    if let Some(Some((at, digest))) = end.new_digests.get(position) {
        return Some(PlannedImport::Rebuilt { at: *at, digest: digest.clone() });
    }
    let decided = end.last.images.get(ImageIndex::new(position).position())?;
    let own = |image: &str| format!("{}.{image}", name.family);
    match decided.state {
        ImageState::Failed => Some(PlannedImport::Failed { by: own(&name.image) }),
        ImageState::Blocked => {
            let by = decided.blocked_by.as_deref().unwrap_or(&name.image);
            Some(PlannedImport::Failed { by: if by.contains('/') { by.into() } else { own(by) } })
        }
        _ => None,
    }
}

/// Returns the name of an imported image in the cluster.
pub fn image_of(family: &FamilyName, import: &Import) -> ImageName {
    let namespace = import.namespace.clone().unwrap_or_else(|| family.namespace.clone());
    let family = FamilyName { namespace, name: import.family.clone() };
    ImageName { family, image: import.image.clone() }
}

/// Returns a digest that stands for the build of an image that nothing records.
fn assumed_digest(name: &ImageName) -> String {
    digest_of(&name.to_string())
}

/// Returns the digest of an imported image that the builds of a family record, that of a current
/// image if they record several.
fn recorded_digest(family: &EstateFamily, import: &Import) -> Option<String> {
    let lineage = &family.blueprint.lineage;
    let position = lineage.imports().iter().position(|known| known == import)?;
    let name = import.to_string();
    let images = ImageIndex::enumerate(&family.family.spec.images);
    let recorded = images.filter_map(|(index, image)| {
        let status = family.images.get(&image.name)?.status.as_ref()?;
        let parents = &status.inputs.as_ref()?.parents;
        let edges = lineage.parents(index).iter().zip(parents);
        let mut of_import = edges.filter(|(parent, recorded)| {
            matches!(parent, Parent::Import(import) if import.position() == position)
                && recorded.name == name
        });
        let digest = &of_import.next()?.1.digest;
        Some((status.state == ImageState::Current, digest))
    });
    recorded.max_by_key(|(is_current, _)| *is_current).map(|(_, digest)| digest.clone())
}
