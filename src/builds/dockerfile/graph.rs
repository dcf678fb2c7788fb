//! The stages and images of a Dockerfile as `BuildKit`'s `dockerfile2llb` connects them, and which
//! of them a build needs.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::EdgeUse,
    builds::dockerfile::{
        MAX_USES,
        instructions::{self, SyntaxError},
        stages::{self, CommandKind, NamingCommand, Stage},
    },
};

/// Maximum number of times that triggers make more stages and images needed, one after another.
const MAX_TRIGGER_ROUNDS: usize = 32;
/// The base of a stage without files.
const SCRATCH: &str = "scratch";

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedImage {
    /// The reference as written, before build arguments are substituted.
    pub written: String,
    /// The reference after substitution.
    pub name: String,
    /// The build arguments that the reference uses.
    pub args: Vec<String>,
    /// The line number, counted from 1.
    pub line: usize,
    /// The image whose `ONBUILD` trigger names this one, if it is not the Dockerfile itself.
    pub trigger_of: Option<String>,
}

/// An image that a build needs, and what it uses the image for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededImage {
    /// The image, as the Dockerfile names it.
    pub image: NamedImage,
    /// What the build uses it for.
    pub usage: EdgeUse,
}

/// Returns the `ONBUILD` triggers of an image outside of the Dockerfile.
type Triggers<'a> = &'a dyn Fn(&NamedImage) -> &'a [String];

/// What a stage is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Scratch,
    /// The node with this index.
    Node(usize),
    Image(NamedImage),
}

/// A stage, or an image that a stage copies files from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    line: usize,
    /// The stage's name in lower case.
    name: Option<String>,
    base: Origin,
    /// The indices of the nodes that it copies files from or mounts.
    sources: Vec<usize>,
    /// The instructions that run in the stages that are built on this one.
    triggers: Vec<String>,
    kind: NodeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    Stage,
    /// An image of `COPY --from` or `RUN --mount=from`.
    Source,
}

/// The stages of a Dockerfile, and after them the images that they copy files from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    escape: char,
}

/// A named stage, and the line of its `FROM`.
pub(super) struct NamedStage<'a> {
    pub(super) name: &'a str,
    pub(super) line: usize,
}

impl Graph {
    /// Connects the stages of a Dockerfile.
    pub(super) fn new(stages: Vec<Stage>, escape: char) -> Result<Self, SyntaxError> {
        let mut graph = Self { nodes: Vec::with_capacity(stages.len()), escape };
        let mut commands = Vec::with_capacity(stages.len());
        for stage in stages {
            let earlier = graph.named(&stage.base.name);
            let base = match earlier {
                Some(index) => Origin::Node(index),
                None if stage.base.name == SCRATCH => Origin::Scratch,
                None => {
                    stage.base.platform_problem.map_or(Ok(()), Err)?;
                    Origin::Image(NamedImage {
                        written: stage.base.written,
                        name: stage.base.name,
                        args: stage.base.args,
                        line: stage.line,
                        trigger_of: None,
                    })
                }
            };
            graph.nodes.push(Node {
                line: stage.line,
                name: stage.name,
                base,
                sources: Vec::new(),
                triggers: Vec::new(),
                kind: NodeKind::Stage,
            });
            commands.push(stage.commands);
        }
        for (index, commands) in commands.into_iter().enumerate() {
            for command in commands {
                graph.add_command(index, command, None)?;
            }
        }
        Ok(graph)
    }

    /// Returns the index of the stage to build: the one of that name, or the last one if `name` is
    /// `None`.
    pub(super) fn target(&self, name: Option<&str>) -> Option<usize> {
        match name.filter(|name| !name.is_empty()) {
            None => self.nodes.iter().rposition(|node| node.kind == NodeKind::Stage),
            Some(name) => self.named(name),
        }
    }

    /// Returns the `ONBUILD` triggers that a stage declares.
    pub(super) fn triggers(&self, stage: usize) -> &[String] {
        self.nodes.get(stage).map_or(&[], |node| &node.triggers)
    }

    /// Returns the stages that have a name.
    pub(super) fn named_stages(&self) -> impl Iterator<Item = NamedStage<'_>> {
        self.nodes
            .iter()
            .filter_map(|node| Some(NamedStage { name: node.name.as_deref()?, line: node.line }))
    }

    /// Returns all images that the Dockerfile names, whether the build needs them or not.
    pub(super) fn images(&self) -> impl Iterator<Item = &NamedImage> {
        self.nodes.iter().filter_map(|node| match &node.base {
            Origin::Image(image) => Some(image),
            _ => None,
        })
    }

    /// Returns the images that the build of a stage needs, with those that `ONBUILD` triggers need.
    ///
    /// # Errors
    /// Returns an error if a trigger cannot be interpreted, or if it makes a stage needed whose
    /// images `BuildKit` would not pin.
    pub(super) fn needed(
        &self,
        target: usize,
        triggers: Triggers<'_>,
    ) -> Result<Vec<NeededImage>, SyntaxError> {
        let mut graph = self.clone();
        let mut resolution = Resolution::default();
        for _ in 0..MAX_TRIGGER_ROUNDS {
            let reachable = graph.reachable(target);
            resolution.resolve(&graph, &reachable)?;
            if !graph.run_triggers(&reachable, &mut resolution, triggers)? {
                return Ok(graph.images_of(&reachable, target));
            }
        }
        let line = self.nodes.get(target).map_or(1, |node| node.line);
        Err(SyntaxError::new(line, "the ONBUILD triggers of its images name each other"))
    }

    fn named(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.nodes.iter().rposition(|node| node.name.as_deref() == Some(&name))
    }

    /// Connects a node with what one of its commands names.
    fn add_command(
        &mut self,
        node: usize,
        command: NamingCommand,
        trigger_of: Option<&str>,
    ) -> Result<(), SyntaxError> {
        let line = command.line;
        match command.kind {
            CommandKind::Copy(from) => {
                let source = match from.parse::<i64>() {
                    Ok(number) => self.numbered(number, line)?,
                    Err(_) => self.source(&from, line, trigger_of)?,
                };
                self.connect(node, source);
            }
            CommandKind::Run(mounts) => {
                for from in mounts {
                    // Without `from`, BuildKit looks for a stage of this name.
                    let from = if from.is_empty() { SCRATCH } else { &from };
                    let source = self.source(from, line, trigger_of)?;
                    self.connect(node, source);
                }
            }
            CommandKind::Trigger(trigger) => {
                if let Some(node) = self.nodes.get_mut(node) {
                    node.triggers.push(trigger);
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, node: usize, source: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.sources.push(source);
        }
    }

    fn numbered(&self, number: i64, line: usize) -> Result<usize, SyntaxError> {
        let index = usize::try_from(number).ok();
        let is_stage =
            |index: &usize| self.nodes.get(*index).is_some_and(|node| node.kind == NodeKind::Stage);
        index
            .filter(is_stage)
            .ok_or_else(|| SyntaxError::new(line, &format!("there is no stage number {number}")))
    }

    /// Returns the stage of a name, or adds the image of that name.
    fn source(
        &mut self,
        from: &str,
        line: usize,
        trigger_of: Option<&str>,
    ) -> Result<usize, SyntaxError> {
        if let Some(stage) = self.named(from) {
            return Ok(stage);
        }
        if self.nodes.len() >= MAX_USES {
            let problem = format!("the file uses stages and images more than {MAX_USES} times");
            return Err(SyntaxError::new(line, &problem));
        }
        let base = if from == SCRATCH {
            Origin::Scratch
        } else {
            Origin::Image(NamedImage {
                written: from.to_owned(),
                name: from.to_owned(),
                args: Vec::new(),
                line,
                trigger_of: trigger_of.map(str::to_owned),
            })
        };
        self.nodes.push(Node {
            line,
            name: None,
            base,
            sources: Vec::new(),
            triggers: Vec::new(),
            kind: NodeKind::Source,
        });
        Ok(self.nodes.len() - 1)
    }

    /// Returns the nodes that the build of a stage needs.
    fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            let Some(node) = self.nodes.get(index).filter(|_| found.insert(index)) else {
                continue;
            };
            open.extend(&node.sources);
            if let Origin::Node(base) = node.base {
                open.push(base);
            }
        }
        found
    }

    /// Adds the commands of the triggers that run in these nodes. Returns whether they name
    /// anything.
    fn run_triggers(
        &mut self,
        reachable: &BTreeSet<usize>,
        resolution: &mut Resolution,
        triggers_of: Triggers<'_>,
    ) -> Result<bool, SyntaxError> {
        let mut names_anything = false;
        for &index in reachable {
            let Some(node) = self.nodes.get(index) else { continue };
            if !resolution.triggered.insert(index) {
                continue;
            }
            let line = node.line;
            let (triggers, trigger_of) = match &node.base {
                Origin::Scratch => continue,
                Origin::Image(image) => (triggers_of(image).to_vec(), Some(image.name.clone())),
                Origin::Node(base) => {
                    let base = self.nodes.get(*base);
                    (base.map(|base| base.triggers.clone()).unwrap_or_default(), None)
                }
            };
            for trigger in triggers {
                let command = trigger_command(&trigger, line, self.escape)?;
                let Some(command) = command else { continue };
                names_anything |= !matches!(command.kind, CommandKind::Trigger(_));
                self.add_command(index, command, trigger_of.as_deref())?;
            }
        }
        Ok(names_anything)
    }

    /// Returns the images of these nodes. Those below the target are its base.
    fn images_of(&self, reachable: &BTreeSet<usize>, target: usize) -> Vec<NeededImage> {
        let mut bases = BTreeSet::new();
        let mut next = Some(target);
        while let Some(index) = next.filter(|index| bases.insert(*index)) {
            next = match self.nodes.get(index).map(|node| &node.base) {
                Some(Origin::Node(base)) => Some(*base),
                _ => None,
            };
        }
        let mut images: BTreeMap<&NamedImage, EdgeUse> = BTreeMap::new();
        for &index in reachable {
            let Some(Origin::Image(image)) = self.nodes.get(index).map(|node| &node.base) else {
                continue;
            };
            let usage = if bases.contains(&index) { EdgeUse::Base } else { EdgeUse::BuildStage };
            let strongest = images.entry(image).or_insert(usage);
            *strongest = (*strongest).min(usage);
        }
        images
            .into_iter()
            .map(|(image, usage)| NeededImage { image: image.clone(), usage })
            .collect()
    }
}

/// Returns the command of an `ONBUILD` trigger. The line is that of the `FROM` which runs it.
fn trigger_command(
    trigger: &str,
    line: usize,
    escape: char,
) -> Result<Option<NamingCommand>, SyntaxError> {
    let wrong = |problem: &str| {
        SyntaxError::new(line, &format!("the ONBUILD trigger `{trigger}`: {problem}"))
    };
    let (instructions, _) = instructions::parse(trigger).map_err(|error| wrong(error.problem()))?;
    let [instruction] = instructions.as_slice() else {
        return Err(wrong("it is not one instruction"));
    };
    let command = stages::command(instruction, escape).map_err(|error| wrong(error.problem()))?;
    Ok(command.map(|command| NamingCommand { line, ..command }))
}

/// How far `BuildKit` is with the nodes. It resolves images before it runs triggers, which may make
/// more nodes needed.
#[derive(Default)]
struct Resolution {
    /// The images that stages copy from, and that were not needed when `BuildKit` resolved them. It
    /// does not resolve them again.
    skipped: BTreeSet<usize>,
    /// The number of nodes that have been resolved.
    resolved: usize,
    /// The nodes whose triggers have run.
    triggered: BTreeSet<usize>,
}

impl Resolution {
    /// Resolves the images of new nodes. Rejects an image that is needed now and was skipped
    /// before, because `BuildKit` pulls it by its tag, whatever digest it is pinned to.
    fn resolve(&mut self, graph: &Graph, reachable: &BTreeSet<usize>) -> Result<(), SyntaxError> {
        let new = graph.nodes.iter().enumerate().skip(self.resolved);
        self.skipped.extend(new.filter_map(|(index, node)| {
            let is_skipped = node.kind == NodeKind::Source
                && matches!(node.base, Origin::Image(_))
                && !reachable.contains(&index);
            is_skipped.then_some(index)
        }));
        self.resolved = graph.nodes.len();
        let unpinned = self.skipped.intersection(reachable).next();
        let Some(node) = unpinned.and_then(|index| graph.nodes.get(*index)) else { return Ok(()) };
        let Origin::Image(image) = &node.base else { return Ok(()) };
        Err(SyntaxError::new(
            node.line,
            &format!(
                "the stage is needed only by an ONBUILD trigger, and BuildKit would not pin \
                 `{0}`; add the stage `FROM {0} AS name`, and copy from that stage",
                image.name
            ),
        ))
    }
}
