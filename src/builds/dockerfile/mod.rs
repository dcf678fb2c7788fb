//! Finds the images that a Dockerfile names, and compares them with the edges that an image
//! declares. Pure.
//!
//! This is not a full parser for Dockerfiles. It interprets `FROM`, `ARG` before the first `FROM`,
//! `COPY --from`, `RUN --mount=from` and these in `ONBUILD`, by the rules of `BuildKit`'s own
//! frontend. It rejects what it cannot interpret: an image that is built from an undeclared image
//! would not be rebuilt when that one changes. It accepts some files that `BuildKit` rejects, with
//! an error in the build's log.
//!
//! `tests/dockerfile` compares it with `BuildKit`'s own frontend.

mod args;
mod edges;
mod fields;
mod graph;
mod heredoc;
mod instructions;
mod lexer;
mod matching;
mod pattern;
mod stages;

use std::collections::{BTreeMap, BTreeSet};

pub use args::undeclared_args;
pub use edges::{
    DeclaredEdge, DockerfileMismatch, EdgeError, ReplacedDigest, undeclared_images, verify_edges,
};
pub use fields::quoted_words;
pub use graph::{NamedImage, NeededImage};
pub use instructions::{Instruction, SyntaxError, parse as parse_instructions};

use crate::registry::Platform;

/// Maximum number of stages of a Dockerfile.
const MAX_STAGES: usize = 256;
/// Maximum number of `COPY --from` and `RUN --mount=from` in a Dockerfile, with those of triggers.
const MAX_USES: usize = 2048;

/// What determines the images that a build needs, in addition to the text of the Dockerfile.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions<'a> {
    /// The build arguments that the build passes.
    pub args: &'a BTreeMap<String, String>,
    /// The platform of the image.
    pub platform: &'a Platform,
    /// The stage to build, or `None` for the last one.
    pub target: Option<&'a str>,
}

/// The stages of a Dockerfile, and the images that each uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    graph: graph::Graph,
    /// The stage to build, or `None` for the last one.
    target: Option<String>,
    /// The names of all `ARG` of the file.
    args: BTreeSet<String>,
}

impl Dockerfile {
    /// Parses a Dockerfile for one build.
    ///
    /// # Errors
    /// Returns an error if the file is larger than 1 MiB, or if a line cannot be interpreted. The
    /// message names the line.
    pub fn parse(text: &str, options: &BuildOptions<'_>) -> Result<Self, SyntaxError> {
        let (instructions, escape) = instructions::parse(text)?;
        let parsed = stages::parse(&instructions, escape, options)?;
        let graph = graph::Graph::new(parsed.stages, escape)?;
        Ok(Self { graph, target: options.target.map(str::to_owned), args: parsed.args })
    }

    /// Returns the images that the build needs, or `None` if there is no such target. `triggers`
    /// returns the `ONBUILD` triggers of an image.
    ///
    /// # Errors
    /// Returns an error if a trigger cannot be interpreted.
    pub fn needed_images<'a>(
        &self,
        triggers: &'a dyn Fn(&NamedImage) -> &'a [String],
    ) -> Result<Option<Vec<NeededImage>>, SyntaxError> {
        let target = self.graph.target(self.target.as_deref());
        target.map(|target| self.graph.needed(target, triggers)).transpose()
    }

    /// Returns the `ONBUILD` triggers that the stage to build adds to the image. Those of its base
    /// are not known here.
    #[must_use]
    pub fn triggers(&self) -> &[String] {
        let target = self.graph.target(self.target.as_deref());
        target.map_or(&[], |target| self.graph.triggers(target))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;
