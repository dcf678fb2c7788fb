//! The images of other families that a family depends on: whether it may use them, what they are,
//! and whether they are about to change. No client is needed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{ImageFamily, ManagedImage},
    controller::{
        context::Context,
        family::observe::{
            Observer,
            ownership::{is_record_of, record_name},
        },
        object_cache::Key,
        reconcile_cache::CachedSurvey,
    },
    engine::{
        Blueprint, ImportState, ObservedImport,
        blueprint::repository,
        imports::{ImportStates, Records},
    },
    found_edges,
    lineage::families::{
        FamilyLookup, FamilyName, FamilyReader, ImageName, ImportProblem, SpecVersion, Survey,
        check_imports,
    },
};

/// How often one reconcile reads families that change while it reads them.
const MAX_SURVEYS: usize = 4;

/// Other families, as the stores know them.
struct StoredFamilies<'a>(&'a Context);

impl StoredFamilies<'_> {
    fn stored(&self, name: &FamilyName) -> Option<Arc<ImageFamily>> {
        self.0.stores.families.get(&Key::new(&name.namespace, &name.name))
    }
}

impl FamilyReader for StoredFamilies<'_> {
    fn family(&self, name: &FamilyName) -> FamilyLookup {
        if !self.0.scopes.contains(&name.namespace) {
            return FamilyLookup::NotWatched;
        }
        Records::family(self, name).map_or(FamilyLookup::NotFound, FamilyLookup::Found)
    }
}

impl Records for StoredFamilies<'_> {
    /// The edges that Dockerfiles say are those that its records say.
    fn family(&self, name: &FamilyName) -> Option<Arc<ImageFamily>> {
        let key = Key::new(&name.namespace, &name.name);
        let family = self.stored(name)?;
        if !found_edges::needs_expansion(&family.spec) {
            return Some(family);
        }
        let mut records = self.0.stores.images.group(&key);
        records.retain(|record| is_record_of(record, &family));
        Some(found_edges::expanded_from_records(&family, &records))
    }

    /// A record that is about another repository than the family's spec is not believed.
    fn image(&self, name: &ImageName) -> Option<Arc<ManagedImage>> {
        let record = record_name(&name.family.name, &name.image);
        let record = self.0.stores.images.get(&Key::new(&name.family.namespace, &record))?;
        let family = self.stored(&name.family)?;
        let image = family.spec.images.iter().find(|image| image.name == name.image)?;
        let is_same = record.spec.repository == repository(&family.spec, image);
        (is_same && is_record_of(&record, &family)).then_some(record)
    }
}

impl Observer<'_> {
    /// Returns what is known of the images of other families that this family names.
    ///
    /// It is worked out again only if the spec of this family, or of a family that it depends on,
    /// has changed. Such a change triggers this family, too.
    pub(super) fn survey_imports(&mut self) -> Arc<Survey> {
        let version = SpecVersion::of(&self.family);
        let cached = self.cache.survey.take().filter(|cached| cached.version == version);
        let mut known = cached.map(|cached| cached.survey);
        // A change that comes while the other families are read does not trigger this family,
        // because the dependents are not registered yet. So the families are read again. If they
        // never come to rest, the next change triggers this family.
        for _ in 0..MAX_SURVEYS {
            if let Some(survey) = known.take_if(|survey| is_up_to_date(self.context, survey)) {
                self.cache.survey = Some(CachedSurvey { version, survey: Arc::clone(&survey) });
                return survey;
            }
            let families = StoredFamilies(self.context);
            let survey = check_imports(&name(&self.key), &self.family.spec, &families);
            self.context.dependents.register(&self.key, &survey.consulted);
            known = Some(Arc::new(survey));
        }
        known.unwrap_or_default()
    }
}

fn is_up_to_date(context: &Context, survey: &Survey) -> bool {
    survey.consulted.iter().all(|consulted| {
        let now = Records::family(&StoredFamilies(context), &consulted.family);
        now.as_deref().map(SpecVersion::of) == consulted.version
    })
}

/// Returns the images of other families, in the order in which the lineage lists them.
pub(super) fn observed_imports(
    context: &Context,
    family: &Key,
    blueprint: &Blueprint,
    survey: &Survey,
) -> Vec<ObservedImport> {
    let problems: HashMap<&ImageName, Option<&ImportProblem>> =
        survey.imports.iter().map(|(import, problem)| (import, problem.as_ref())).collect();
    let records = StoredFamilies(context);
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
            // Not reached: the lineage and the survey are from the same spec.
            None => ObservedImport { problem: None, verified: None, state: ImportState::Settled },
        }
    };
    blueprint.lineage.imports().iter().map(observed).collect()
}

fn name(key: &Key) -> FamilyName {
    FamilyName { namespace: key.namespace.clone(), name: key.name.clone() }
}
