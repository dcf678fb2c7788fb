//! What the Dockerfiles of images add to the spec: edges, upstreams, and problems that are found
//! before a pod starts. Needs a client, to read a `ConfigMap` that has changed.

use std::sync::Arc;

use crate::{
    api::{EdgeSource, FoundEdge, Image, ManagedImage, SourceKind, condition::Reason},
    builds::platform::named_platform,
    controller::{
        error::ReconcileError,
        family::observe::{Observer, strategies::strategy_ref},
        object_cache::Key,
        reconcile_cache::{CachedDockerfile, CachedEdgeExpansion},
    },
    engine::{Blueprint, Observed, Problem},
    found_edges::{
        self, EdgeExpansion, KnownParents,
        dockerfile::{self, ReadDockerfile},
    },
    registry::Platform,
};

/// What Dockerfiles say of a spec.
#[derive(Clone, Debug, Default)]
pub struct DockerfileEffects {
    /// The spec with their edges, if they say any.
    expansion: Option<Arc<EdgeExpansion>>,
    /// Why an image cannot be built with its Dockerfile, parallel to the images.
    problems: Arc<[Option<Problem>]>,
}

impl DockerfileEffects {
    /// Whether both say the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let is_same = match (&self.expansion, &other.expansion) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            (None, None) => true,
            _ => false,
        };
        is_same && self.problems == other.problems
    }

    /// Returns a blueprint with the problems. A problem of the spec itself comes first.
    #[must_use]
    pub fn add_problems(&self, mut blueprint: Blueprint) -> Blueprint {
        for (image, problem) in blueprint.images.iter_mut().zip(self.problems.iter()) {
            if image.problem.is_none() {
                image.problem.clone_from(problem);
            }
        }
        blueprint
    }

    /// Returns the edges that the Dockerfile of the image at this index says, if they are known.
    #[must_use]
    pub fn edges(&self, image: usize) -> Option<Vec<FoundEdge>> {
        self.expansion.as_ref()?.images.get(image)?.edges.clone()
    }
}

/// How the Dockerfile of one image is read.
#[derive(Clone, Debug)]
pub(super) struct DockerfileReader {
    platform: Arc<Platform>,
    generation: i64,
}

impl DockerfileReader {
    /// Returns the version of what a text of this version says.
    pub(super) fn version(&self, text: &str) -> String {
        format!("{}/{}/{text}", self.generation, self.platform)
    }
}

impl Observer<'_> {
    /// Reads the sources that have changed, and adds to the spec what Dockerfiles name.
    ///
    /// # Errors
    ///
    /// Returns an error if a call to the API server fails.
    pub async fn read_sources(&mut self) -> Result<(), ReconcileError> {
        let family = Arc::clone(&self.family);
        let records = self.records_by_image();
        let mut known = Vec::with_capacity(family.spec.images.len());
        let mut problems = Vec::with_capacity(family.spec.images.len());
        for image in &family.spec.images {
            let record = records.get(&image.name).map(|record| &**record);
            let reader = self.dockerfile_reader(image, record);
            let source = self.read_source(image, &reader).await?;
            let read = self.cache.dockerfiles.get(&image.name);
            let read = read.filter(|read| is_of_source(read, image, &source.revision, &reader));
            let read = read.map(|read| &*read.dockerfile);
            let (parents, problem) = parents_of(image, &source.revision, read, record);
            known.push(parents);
            problems.push(problem);
            self.sources.push(source);
        }
        if found_edges::needs_expansion(&family.spec) {
            let expansion = self.expand_edges(known);
            for (problem, image) in problems.iter_mut().zip(&expansion.images) {
                *problem = problem.take().or_else(|| image.problem.clone());
            }
            self.family = found_edges::with_spec(&family, expansion.spec.clone());
            self.dockerfiles.expansion = Some(expansion);
        }
        self.dockerfiles.problems = problems.into();
        Ok(())
    }

    /// Returns the expansion of the spec, the cached one if nothing has changed.
    fn expand_edges(&mut self, known: Vec<KnownParents>) -> Arc<EdgeExpansion> {
        let generation = self.family.metadata.generation.unwrap_or_default();
        let cached = self.cache.expansion.take();
        let cached =
            cached.filter(|cached| cached.generation == generation && cached.known == known);
        let cached = cached.unwrap_or_else(|| {
            let expansion = Arc::new(found_edges::expand_edges(&self.family.spec, &known));
            CachedEdgeExpansion { generation, known, expansion }
        });
        let expansion = Arc::clone(&cached.expansion);
        self.cache.expansion = Some(cached);
        expansion
    }

    /// Returns how the Dockerfile of an image is read. The platform may not be determined yet:
    /// `prepare` verifies the edges for the platform of the build.
    fn dockerfile_reader(&self, image: &Image, record: Option<&ManagedImage>) -> DockerfileReader {
        let spec = &self.family.spec;
        let chosen = strategy_ref(spec, image);
        let strategy = self.context.stores.strategies.get(&Key::new("", &chosen.name));
        let named = strategy.and_then(|strategy| named_platform(&strategy, chosen).ok().flatten());
        let built = || record?.status.as_ref()?.platform.as_deref().and_then(Platform::from_user);
        let of_family = || {
            let status = self.family.status.as_ref()?;
            status.platform.as_deref().and_then(Platform::from_user)
        };
        let own = || self.context.environment.platform.clone();
        let platform = named.or_else(built).or_else(of_family).unwrap_or_else(own);
        DockerfileReader {
            platform: Arc::new(platform),
            generation: self.family.metadata.generation.unwrap_or_default(),
        }
    }

    /// Whether the Dockerfile of an image was read in this version.
    pub(super) fn has_read(&self, image: &Image, version: &str) -> bool {
        let cached = self.cache.dockerfiles.get(&image.name);
        cached.is_some_and(|cached| cached.version == version)
    }

    /// Keeps what the Dockerfile of an image says.
    pub(super) fn note_dockerfile(
        &mut self,
        image: &Image,
        version: String,
        text: &str,
        reader: &DockerfileReader,
    ) {
        let dockerfile = dockerfile::read(&self.family.spec, image, text, &reader.platform);
        let cached = CachedDockerfile { version, dockerfile: Arc::new(dockerfile) };
        self.cache.dockerfiles.insert(image.name.clone(), cached);
    }
}

/// Whether what is cached of a Dockerfile belongs to the present source of its image.
fn is_of_source(
    read: &CachedDockerfile,
    image: &Image,
    source: &Observed<String>,
    reader: &DockerfileReader,
) -> bool {
    match (image.source.kind(), source) {
        // It was read in this reconcile, unless it was known before.
        (Some(SourceKind::Inline(_)), _) | (Some(SourceKind::ConfigMap(_)), Observed::Known(_)) => {
            true
        }
        (Some(SourceKind::Git(_)), Observed::Known(revision)) => {
            read.version == reader.version(revision)
        }
        _ => false,
    }
}

/// Returns the parents that a Dockerfile names, and the problem that it has. While the source
/// cannot be read, the recorded parents stay, so that nothing changes.
fn parents_of(
    image: &Image,
    source: &Observed<String>,
    read: Option<&ReadDockerfile>,
    record: Option<&ManagedImage>,
) -> (KnownParents, Option<Problem>) {
    if image.edges == EdgeSource::Declared {
        let problem = read.and_then(|read| read.unused_args.clone());
        return (KnownParents::default(), problem);
    }
    let mut known = KnownParents::recorded(record);
    let problem = match read {
        Some(ReadDockerfile { parents: Ok(parents), unused_args }) => {
            known.read = Some(parents.clone());
            unused_args.clone()
        }
        Some(ReadDockerfile { parents: Err(problem), .. }) => Some(problem.clone()),
        None if known.recorded.is_some() => None,
        None => Some(unread(image, source)),
    };
    (known, problem)
}

/// Returns why the edges of an image are not known.
fn unread(image: &Image, source: &Observed<String>) -> Problem {
    match source {
        Observed::Failed(problem) => problem.clone(),
        Observed::Pending => {
            Problem { reason: Reason::Resolving, message: "the source is being looked up".into() }
        }
        Observed::Known(_) => {
            let message = format!(
                "spec.images[{}]: the Dockerfile is a link, or no text of at most 1 MiB, so that \
                 its edges are not known; make it a file, or declare them in `from`",
                image.name
            );
            Problem { reason: Reason::DockerfileMismatch, message }
        }
    }
}
