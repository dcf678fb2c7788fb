//! Where a command gets its families from: files, or the cluster. Either way it gets an [`Estate`],
//! so that every command works offline and online with the same code.
//!
//! - `files`: which files are read, and how much of them
//! - `manifests`: the objects in a text, with a place for every problem
//! - `objects`: the families of these objects
//! - `family_lines`: the line that declares an image or an upstream
//! - `positions`: line and column of a field
//! - `recorded_edges`: edges that only the cluster knows
//! - `config_maps`: the `ConfigMap`s with Dockerfiles
//! - `dockerfile_edges`: edges that Dockerfiles name
//! - `schema`: what the API server would reject
//! - `cluster_objects`: the objects of a cluster
//! - [`live`]: the objects of a cluster as they change
//! - [`live_states`]: states that only the record of a cascade has yet
//! - [`target`]: the image or upstream that a user names

mod cluster_objects;
mod config_maps;
mod dockerfile_edges;
mod family_lines;
mod files;
#[cfg(test)]
pub mod fixtures;
pub mod live;
pub mod live_states;
mod manifests;
mod objects;
mod positions;
mod recorded_edges;
mod schema;
pub mod target;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use anyhow::bail;
use clap::Args;

use groundswell::{
    api::{AdoptedDigest, Cascade, FamilyRequest, Image, ImageFamily, ManagedImage},
    engine::{Blueprint, validate::validate},
    lineage::families::FamilyName,
};

use crate::{
    command_line::KubectlFlags,
    input::{
        config_maps::ConfigMaps,
        dockerfile_edges::add_dockerfile_edges,
        objects::{InputObjects, Place},
    },
    output::note,
};

/// Maximum number of problems that are listed. The rest is counted.
const MAX_LISTED: usize = 50;
/// Namespace of an object in a file that names none, unless `--namespace` does.
const DEFAULT_NAMESPACE: &str = "default";

/// The flags that say where the families are.
#[derive(Args, Clone, Debug, Default)]
pub struct InputArguments {
    /// Read the families from a file, from the YAML files of a folder, or from the standard input
    /// (-), and not from the cluster. May be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub filenames: Vec<PathBuf>,
    /// Read the folders below the folders of --filename, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// If present, read the families of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Read only the families whose labels match, for example team=web,tier!=test
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "filenames")]
    pub selector: Option<String>,
    #[command(flatten)]
    pub kubectl_flags: KubectlFlags,
}

/// The families that a command works on, with what the cluster has recorded about them.
#[derive(Debug, Default)]
pub struct Estate {
    /// The families, by namespace and name.
    pub families: Vec<EstateFamily>,
    /// What could not be used, and why. In a file it is an error; in a cluster, a family may be
    /// invalid while the others are not.
    pub problems: Vec<InputProblem>,
    /// Where the families come from.
    pub origin: EstateOrigin,
    /// The only namespace of a cluster that was read; `None` if all were, and for files.
    pub namespace: Option<String>,
}

/// Where an estate comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EstateOrigin {
    /// Files. They may contain what a cluster has recorded, for example if `kubectl get -o yaml`
    /// has written them.
    #[default]
    Files,
    /// A cluster.
    Cluster,
}

/// A valid family.
#[derive(Debug)]
pub struct EstateFamily {
    /// Its namespace and name.
    pub name: FamilyName,
    /// The family, with its spec expanded: every image is plain.
    pub family: ImageFamily,
    /// What follows from the spec: the lineage and more.
    pub blueprint: Blueprint,
    /// What is recorded of each image, by the image's name.
    pub images: HashMap<String, ManagedImage>,
    /// The recorded cascades, the oldest first.
    pub cascades: Vec<Cascade>,
    /// The requests, the oldest first.
    pub requests: Vec<FamilyRequest>,
    /// The `ConfigMap`s of its namespace that are here.
    config_maps: Arc<ConfigMaps>,
    /// The names of the images whose edges follow from Dockerfiles that are not here.
    pub unknown_edges: BTreeSet<String>,
    place: Place,
    /// The names of the images as the manifest has them, before a matrix multiplies them.
    written: Vec<String>,
}

/// Something that a user has to correct before the input can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputProblem {
    /// Where it is: a file with line and column, or the name of an object.
    pub place: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for InputProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Estate {
    /// Reads the families that the flags select.
    ///
    /// Problems of files are listed on the standard error, and are an error. Problems of families
    /// in a cluster are listed, and the other families are returned.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is invalid, if the cluster does not answer, or if there is no
    /// family.
    pub async fn read(arguments: &InputArguments) -> anyhow::Result<Self> {
        let estate = Box::pin(Self::read_if_any(arguments)).await?.with_families(arguments)?;
        estate.note_unknown_edges();
        Ok(estate)
    }

    /// Reads the families that the flags select as [`read`](Self::read) does, with the `ConfigMap`s
    /// that they are built from, and the edges that Dockerfiles name of which `text_of` returns the
    /// text.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`read`](Self::read).
    pub async fn read_with_dockerfiles(
        arguments: &InputArguments,
        text_of: &dyn Fn(&Image) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut estate = Box::pin(Self::read_if_any(arguments)).await?.with_families(arguments)?;
        Box::pin(estate.read_config_maps(arguments)).await?;
        for family in &mut estate.families {
            family.add_dockerfile_edges(text_of);
        }
        estate.note_unknown_edges();
        Ok(estate)
    }

    /// Reads the families that the flags select as [`read`](Self::read) does. There may be none.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is invalid, or if the cluster does not answer.
    pub async fn read_if_any(arguments: &InputArguments) -> anyhow::Result<Self> {
        let estate = if arguments.filenames.is_empty() {
            if arguments.recursive {
                bail!("--recursive reads folders; name one with --filename");
            }
            Box::pin(cluster_objects::read(arguments)).await?
        } else {
            Self::read_files(arguments)?
        };
        estate.without_problems()
    }

    /// Reads the families that the flags select, for their names: without what the cluster has
    /// recorded, and without a word on problems.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or if the cluster does not answer.
    pub async fn read_names(arguments: &InputArguments) -> anyhow::Result<Self> {
        if arguments.filenames.is_empty() {
            Box::pin(cluster_objects::read_families(arguments)).await
        } else {
            Self::read_files(arguments)
        }
    }

    fn read_files(arguments: &InputArguments) -> anyhow::Result<Self> {
        let namespace = arguments.kubectl_flags.namespace.as_deref();
        let read = files::read_all(&arguments.filenames, arguments.depth())?;
        let mut estate = Self::of_files(&read, namespace.unwrap_or(DEFAULT_NAMESPACE));
        if let Some(namespace) = namespace {
            estate.families.retain(|family| family.name.namespace == namespace);
        }
        Ok(estate)
    }

    /// Reads the families of files that are to be applied to an estate, with what that has recorded
    /// of them: no manifest has it.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is invalid, or if there is no family.
    pub fn read_edit(arguments: &InputArguments, estate: &Self) -> anyhow::Result<Self> {
        let read = files::read_all(&arguments.filenames, arguments.depth())?;
        let namespace = arguments.kubectl_flags.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let mut edited = estate.with_edit(&read, namespace);
        if let Some(namespace) = &arguments.kubectl_flags.namespace {
            edited.families.retain(|family| family.name.namespace == *namespace);
        }
        let edited = edited.without_problems()?.with_families(arguments)?;
        edited.note_unknown_edges();
        Ok(edited)
    }

    /// Returns the families of files, with what this estate has recorded of them. `namespace` is
    /// that of objects that name none.
    fn with_edit(&self, read: &files::FilesRead, namespace: &str) -> Self {
        let (mut objects, problems) = InputObjects::of_files(read, namespace);
        objects.keep_records_of(self);
        objects.estate(problems, EstateOrigin::Files)
    }

    /// Returns the estate of files. `namespace` is that of objects that name none.
    fn of_files(read: &files::FilesRead, namespace: &str) -> Self {
        let (objects, problems) = InputObjects::of_files(read, namespace);
        objects.estate(problems, EstateOrigin::Files)
    }

    fn with_families(self, arguments: &InputArguments) -> anyhow::Result<Self> {
        if self.families.is_empty() {
            bail!("{}", arguments.no_family(self.namespace.as_deref()));
        }
        Ok(self)
    }

    /// Lists the problems. Those of files are an error.
    fn without_problems(self) -> anyhow::Result<Self> {
        for problem in self.problems.iter().take(MAX_LISTED) {
            note(&problem.to_string());
        }
        if let Some(more) = self.problems.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
            note(&format!("{more} more problems are not listed"));
        }
        if self.origin == EstateOrigin::Files && !self.problems.is_empty() {
            let count = self.problems.len();
            bail!("{count} problem{} in the files; correct them first", plural(count));
        }
        Ok(self)
    }

    /// Returns the family of this name.
    pub fn family(&self, name: &FamilyName) -> Option<&EstateFamily> {
        self.families.iter().find(|family| family.name == *name)
    }
}

impl EstateFamily {
    /// Adds the edges that Dockerfiles name, if the family is valid with them.
    fn add_dockerfile_edges(&mut self, text_of: &dyn Fn(&Image) -> Option<String>) {
        let (mut family, mut unknown) = (self.family.clone(), self.unknown_edges.clone());
        let text = |image: &Image| self.dockerfile(image).or_else(|| text_of(image));
        add_dockerfile_edges(&mut family, &mut unknown, &text);
        if let Ok(blueprint) = validate(&family.spec) {
            (self.family, self.blueprint, self.unknown_edges) = (family, blueprint, unknown);
        }
    }
}

/// Returns the digest that builds use now of an upstream. `pinned` is that of an earlier build: it
/// is the digest of a platform if the tag points to an index.
pub fn digest_in_use(adopted: &AdoptedDigest, pinned: &str) -> String {
    let content = adopted.content();
    let mut built = content.built();
    let digest = match (built.next(), built.next()) {
        _ if content.names(pinned) => pinned,
        (Some(only), None) => only,
        _ => content.digest,
    };
    digest.to_owned()
}

/// Returns the ending of a plural.
pub const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl InputArguments {
    /// Returns how many folders deep the folders of the command line are read.
    const fn depth(&self) -> files::Depth {
        if self.recursive { files::Depth::Recursive } else { files::Depth::Single }
    }

    /// Says that no family was found. `namespace` is the only namespace of a cluster that was read.
    fn no_family(&self, namespace: Option<&str>) -> String {
        if self.filenames.is_empty() {
            let scope = namespace.map_or("the cluster".into(), |name| format!("namespace {name}"));
            let all = namespace.map_or("", |_| "read all namespaces with -A, or ");
            let matching = if self.selector.is_some() { " that matches" } else { "" };
            format!("{scope} has no ImageFamily{matching}; {all}name a file with -f")
        } else if let Some(namespace) = &self.kubectl_flags.namespace {
            format!("the files have no ImageFamily in namespace {namespace}; name another one")
        } else {
            "the files have no object of the kind ImageFamily; name other files, or read the \
             folders below with -R"
                .into()
        }
    }
}
