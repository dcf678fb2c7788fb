//! The objects of an input become families: expanded, validated, and each with what is recorded of
//! it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use groundswell::{
    api::{Cascade, FamilyRequest, Image, ImageFamily, ManagedImage, ManagedImageStatus},
    engine::{expansion::expand, validate::validate},
    lineage::{ImageIndex, families::FamilyName},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;

use crate::input::{
    Estate, EstateFamily, EstateOrigin, InputProblem,
    config_maps::{ConfigMaps, dockerfile_of},
    dockerfile_edges::add_dockerfile_edges,
    files,
    manifests::{self, ParsedFile},
    recorded_edges,
};

/// The objects of an input, before the families are expanded.
#[derive(Debug, Default)]
pub(super) struct InputObjects {
    pub families: Vec<PlacedFamily>,
    pub images: Vec<ManagedImage>,
    pub cascades: Vec<Cascade>,
    pub requests: Vec<FamilyRequest>,
    pub config_maps: Vec<ConfigMap>,
}

/// A family, and where its problems are.
#[derive(Debug)]
pub(super) struct PlacedFamily {
    pub family: ImageFamily,
    pub place: Place,
}

/// Where an object is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In a document of a file.
    File(manifests::DocumentPlace),
    /// In the cluster, under this name.
    Cluster(String),
}

impl Place {
    /// Returns the place of a field, given by its JSON pointer in the object.
    pub(super) fn field(&self, pointer: &str) -> String {
        match self {
            Self::File(place) => place.field(pointer),
            Self::Cluster(name) => name.clone(),
        }
    }
}

impl InputObjects {
    /// Returns the objects of files, and the problems of the files.
    pub(super) fn of_files(read: &files::FilesRead, namespace: &str) -> (Self, Vec<InputProblem>) {
        let mut objects = Self::default();
        let mut problems = read.problems.clone();
        for file in &read.files {
            let manifest = ParsedFile::parse(file);
            problems.extend(manifest.problems.iter().cloned());
            objects.add(manifest, namespace);
        }
        (objects, problems)
    }

    /// Replaces what files say is recorded by what an estate has recorded.
    pub(super) fn keep_records_of(&mut self, estate: &Estate) {
        let (mut images, mut cascades, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for PlacedFamily { family, .. } in &mut self.families {
            let (namespace, name) = (family.namespace().unwrap_or_default(), family.name_any());
            let known = estate.family(&FamilyName { namespace, name });
            family.status = known.and_then(|known| known.family.status.clone());
            let Some(known) = known else { continue };
            images.extend(known.images.values().cloned());
            cascades.extend_from_slice(&known.cascades);
            requests.extend_from_slice(&known.requests);
        }
        (self.images, self.cascades, self.requests) = (images, cascades, requests);
    }

    /// Adds the objects of a file. `namespace` is that of objects that name none.
    fn add(&mut self, manifest: ParsedFile, namespace: &str) {
        let default = |metadata: &mut kube::api::ObjectMeta| {
            metadata.namespace.get_or_insert_with(|| namespace.to_owned());
        };
        let ParsedFile {
            families, mut images, mut cascades, mut requests, mut config_maps, ..
        } = manifest;
        for (mut family, place) in families {
            default(&mut family.metadata);
            self.families.push(PlacedFamily { family, place: Place::File(place) });
        }
        let images_of = images.iter_mut().map(|image| &mut image.metadata);
        let cascades_of = cascades.iter_mut().map(|cascade| &mut cascade.metadata);
        let requests_of = requests.iter_mut().map(|request| &mut request.metadata);
        let config_maps_of = config_maps.iter_mut().map(|config_map| &mut config_map.metadata);
        for metadata in images_of.chain(cascades_of).chain(requests_of).chain(config_maps_of) {
            default(metadata);
        }
        self.images.append(&mut images);
        self.cascades.append(&mut cascades);
        self.requests.append(&mut requests);
        self.config_maps.append(&mut config_maps);
    }

    /// Expands and validates the families, and gives each what is recorded of it.
    pub(super) fn estate(self, mut problems: Vec<InputProblem>, origin: EstateOrigin) -> Estate {
        let of = |namespace: Option<String>, family: &str| FamilyName {
            namespace: namespace.unwrap_or_default(),
            name: family.to_owned(),
        };
        let mut records: HashMap<FamilyName, HashMap<String, ManagedImage>> = HashMap::new();
        for image in self.images {
            let family = records.entry(of(image.namespace(), &image.spec.family)).or_default();
            family.insert(image.spec.image.clone(), image);
        }
        let mut config_maps: HashMap<String, Arc<ConfigMaps>> = HashMap::new();
        for config_map in self.config_maps {
            let namespace = config_map.namespace().unwrap_or_default();
            let of_namespace = Arc::make_mut(config_maps.entry(namespace).or_default());
            of_namespace.insert(config_map.name_any(), config_map);
        }
        let mut families: BTreeMap<FamilyName, EstateFamily> = BTreeMap::new();
        let mut places: HashMap<FamilyName, Place> = HashMap::new();
        for PlacedFamily { family, place } in self.families {
            let name = FamilyName {
                namespace: family.namespace().unwrap_or_default(),
                name: family.name_any(),
            };
            // Positions are read only for a problem: that takes longer than all the rest.
            if let Some(first) = places.insert(name.clone(), place.clone()) {
                let first = first.field("");
                let message = format!("ImageFamily {name} is in {first}, too; remove one");
                problems.push(InputProblem { place: place.field(""), message });
                continue;
            }
            let images = records.remove(&name).unwrap_or_default();
            let config_maps = config_maps.get(&name.namespace).cloned().unwrap_or_default();
            let objects = FamilyObjects { images, config_maps };
            match valid_family(name.clone(), family, objects, &place) {
                Ok(valid) => _ = families.insert(name, valid),
                Err(found) => problems.extend(found),
            }
        }
        for cascade in self.cascades {
            if let Some(family) = families.get_mut(&of(cascade.namespace(), &cascade.spec.family)) {
                family.cascades.push(cascade);
            }
        }
        for request in self.requests {
            if let Some(family) = families.get_mut(&of(request.namespace(), &request.spec.family)) {
                family.requests.push(request);
            }
        }
        for family in families.values_mut() {
            family
                .cascades
                .sort_by_key(|cascade| (cascade.creation_timestamp(), cascade.name_any()));
            family
                .requests
                .sort_by_key(|request| (request.creation_timestamp(), request.name_any()));
        }
        let families = families.into_values().collect();
        Estate { families, problems, origin, namespace: None }
    }
}

impl EstateFamily {
    /// Returns what is recorded of an image.
    pub fn recorded(&self, image: ImageIndex) -> Option<&ManagedImageStatus> {
        let spec = self.family.spec.images.get(image.position())?;
        self.images.get(&spec.name)?.status.as_ref()
    }

    /// Returns the family of a cluster with the records of its images, by their names; `None` if
    /// it is not valid.
    pub fn of_objects(family: ImageFamily, images: HashMap<String, ManagedImage>) -> Option<Self> {
        let namespace = family.namespace().unwrap_or_default();
        let name = FamilyName { namespace, name: family.name_any() };
        let place = Place::Cluster(name.to_string());
        let objects = FamilyObjects { images, config_maps: Arc::default() };
        valid_family(name, family, objects, &place).ok()
    }
}

/// The objects that belong to a family.
struct FamilyObjects {
    images: HashMap<String, ManagedImage>,
    config_maps: Arc<ConfigMaps>,
}

/// Expands and validates a family.
fn valid_family(
    name: FamilyName,
    mut family: ImageFamily,
    objects: FamilyObjects,
    place: &Place,
) -> Result<EstateFamily, Vec<InputProblem>> {
    let FamilyObjects { images, config_maps } = objects;
    let written: Vec<String> = family.spec.images.iter().map(|image| image.name.clone()).collect();
    let position = |image: &str| {
        let index = written.iter().position(|written| written == image);
        place.field(&index.map_or("/spec/images".into(), |index| format!("/spec/images/{index}")))
    };
    family.spec = expand(std::mem::take(&mut family.spec));
    let left_out = family.spec.left_out.iter().map(|left_out| InputProblem {
        place: position(&left_out.image),
        message: left_out.problem.message.clone(),
    });
    let mut problems: Vec<InputProblem> = left_out.collect();
    let mut unknown_edges = recorded_edges::add_recorded_edges(&mut family, &images);
    let text_of = |image: &Image| dockerfile_of(image, &config_maps);
    add_dockerfile_edges(&mut family, &mut unknown_edges, &text_of);
    match validate(&family.spec) {
        Ok(blueprint) => {
            let of_images = family.spec.images.iter().zip(&blueprint.images);
            problems.extend(of_images.filter_map(|(image, known)| {
                let message = known.problem.as_ref()?.message.clone();
                Some(InputProblem { place: position(&image.name), message })
            }));
            if problems.is_empty() {
                return Ok(EstateFamily {
                    name,
                    family,
                    blueprint,
                    images,
                    cascades: Vec::new(),
                    requests: Vec::new(),
                    config_maps,
                    unknown_edges,
                    place: place.clone(),
                    written,
                });
            }
        }
        Err(problem) => {
            problems.push(InputProblem { place: place.field("/spec"), message: problem.message });
        }
    }
    Err(problems)
}
