//! The images of other families that a family stands on: may it use them, what are they, and are
//! they about to change. No client is needed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{ImageFamily, ManagedImage},
    controller::{
        context::{Context, ReconcileCache},
        object_cache::Key,
    },
    engine::{
        Blueprint, ImportState, ObservedImport,
        imports::{ImportStates, Records},
    },
    lineage::families::{
        FamilyLookup, FamilyName, FamilyReader, ImageName, ImportProblem, SpecVersion, Survey,
        check_imports,
    },
};

/// How often a pass looks at families that change while it does.
const MAX_LOOKS: usize = 4;

/// What the caches know of other families.
struct Cached<'a>(&'a Context);

impl FamilyReader for Cached<'_> {
    fn family(&self, name: &FamilyName) -> FamilyLookup {
        if !self.0.scopes.contains(&name.namespace) {
            return FamilyLookup::NotWatched;
        }
        Records::family(self, name).map_or(FamilyLookup::NotFound, FamilyLookup::Found)
    }
}

impl Records for Cached<'_> {
    fn family(&self, name: &FamilyName) -> Option<Arc<ImageFamily>> {
        self.0.stores.families.get(&Key::new(&name.namespace, &name.name))
    }

    fn image(&self, name: &ImageName) -> Option<Arc<ManagedImage>> {
        let record = format!("{}.{}", name.family.name, name.image);
        self.0.stores.images.get(&Key::new(&name.family.namespace, &record))
    }
}

/// What is known of the images of other families that a family names. Looked at anew only if its
/// spec has changed, or that of a family above it; whoever changes those then wakes this one.
pub fn survey(context: &Context, family: &ImageFamily, cache: &mut ReconcileCache) -> Arc<Survey> {
    let version = SpecVersion::of(family);
    let key = Key::of(family);
    let mut known = cache.survey.take().filter(|(of, _)| *of == version).map(|(_, survey)| survey);
    // A change that came while the others were looked at has woken nobody, so that it is looked
    // again; if they never come to rest, the next change wakes.
    for _ in 0..MAX_LOOKS {
        if let Some(survey) = known.take_if(|survey| is_up_to_date(context, survey)) {
            cache.survey = Some((version, Arc::clone(&survey)));
            return survey;
        }
        let survey = check_imports(&name(&key), &family.spec, &Cached(context));
        context.dependents.follow(&key, &survey.consulted);
        known = Some(Arc::new(survey));
    }
    known.unwrap_or_default()
}

fn is_up_to_date(context: &Context, survey: &Survey) -> bool {
    survey.consulted.iter().all(|consulted| {
        let now = Records::family(&Cached(context), &consulted.family);
        now.as_deref().map(SpecVersion::of) == consulted.version
    })
}

/// The images of other families, as the lineage lists them.
pub fn observations(
    context: &Context,
    family: &Key,
    blueprint: &Blueprint,
    survey: &Survey,
) -> Vec<ObservedImport> {
    let problems: HashMap<&ImageName, Option<&ImportProblem>> =
        survey.imports.iter().map(|(import, problem)| (import, problem.as_ref())).collect();
    let records = Cached(context);
    let mut states = ImportStates::new(&records);
    let observed = |import: &crate::lineage::Import| {
        let import = ImageName {
            family: FamilyName {
                namespace: import.namespace.clone().unwrap_or_else(|| family.namespace.clone()),
                name: import.family.clone(),
            },
            image: import.image.clone(),
        };
        match problems.get(&import) {
            Some(None) => ObservedImport {
                problem: None,
                verified: states.verified(&import),
                state: states.state(&import),
            },
            Some(Some(problem)) => ObservedImport {
                problem: Some((*problem).clone().into()),
                verified: None,
                state: ImportState::Settled,
            },
            // The lineage and the survey are of one spec.
            None => ObservedImport { problem: None, verified: None, state: ImportState::Settled },
        }
    };
    blueprint.lineage.imports().iter().map(observed).collect()
}

fn name(key: &Key) -> FamilyName {
    FamilyName { namespace: key.namespace.clone(), name: key.name.clone() }
}
