//! The rules: what each looks for, why, and an example.

use crate::lint::{
    checks::{dockerfile, edges, estate, lineage, secrets},
    finding::Level,
    subject::LintedEstate,
};

/// A rule.
pub struct Rule {
    /// The id, as `--disable` takes it.
    pub id: &'static str,
    pub level: Level,
    /// What it looks for: a sentence.
    pub title: &'static str,
    /// Why that matters: sentences.
    pub why: &'static str,
    /// What it reports: lines of Dockerfiles or of a family.
    pub example: &'static str,
    /// Looks for it.
    pub check: fn(&LintedEstate<'_>, &mut RuleReports),
}

/// What one rule has found: the subject, the place in its Dockerfile, and the message.
#[derive(Default)]
pub struct RuleReports(pub Vec<RuleReport>);

pub struct RuleReport {
    pub subject: String,
    pub file: Option<String>,
    pub line: Option<usize>,
    pub message: String,
}

/// All rules, by id.
pub const RULES: [Rule; 18] = [
    Rule {
        id: "build-tools",
        level: Level::Warning,
        title: "A final stage installs compilers and keeps them.",
        why: "They make the image larger and help an attacker. Build in a stage of its own, and \
              copy the result. An image that others use as a build stage is not reported.",
        example: "RUN apt-get update && apt-get install -y build-essential",
        check: dockerfile::build_tools,
    },
    Rule {
        id: "cache-order",
        level: Level::Warning,
        title: "The whole context is copied before the dependencies are installed.",
        why: "Every change of the code then installs all dependencies again. Copy the lock file \
              first, install, and copy the rest after it.",
        example: "COPY . .\nRUN npm ci",
        check: dockerfile::cache_order,
    },
    Rule {
        id: "edges-disagree",
        level: Level::Error,
        title: "The edges of an image and its Dockerfile disagree.",
        why: "The build fails: a parent that is not declared would not cause a rebuild.",
        example: "from: [{upstream: alpine}]   # and the Dockerfile has FROM debian:12",
        check: edges::edges_disagree,
    },
    Rule {
        id: "end-of-life",
        level: Level::Error,
        title: "An upstream is a release of a distribution without support.",
        why: "Nobody publishes fixes for it, so that the images on it look current for ever.",
        example: "upstreams: [{name: debian, image: debian, follow: {tag: \"10\"}}]",
        check: estate::end_of_life,
    },
    Rule {
        id: "label-inherited",
        level: Level::Warning,
        title: "An image inherits a label that describes its parent.",
        why: "Labels such as the title, the version and the source of the parent stay in the \
              result, and scanners and catalogues take them for those of the image.",
        example: "LABEL org.opencontainers.image.title=base   # in the parent only",
        check: lineage::label_inherited,
    },
    Rule {
        id: "label-lost",
        level: Level::Note,
        title: "An image lacks a label that the other images of its family have.",
        why: "What finds owners or costs by the label misses the image. It is reported if at \
              least three images, and four of five, have the label.",
        example: "labels: {team: web}   # in all images but one",
        check: estate::label_lost,
    },
    Rule {
        id: "near-duplicate",
        level: Level::Note,
        title: "Two images on the same parent install nearly the same packages.",
        why: "Each stores and pulls the packages again. An image of their own below both stores \
              them once. It is reported from three packages in common, and four of five.",
        example: "RUN apk add python3 py3-pip tini   # in two images with the same parent",
        check: lineage::near_duplicate,
    },
    Rule {
        id: "outside-reference",
        level: Level::Error,
        title: "A Dockerfile names an image that is no parent of its image.",
        why: "The build fails: changes of that image would cause no rebuild. Declare it in \
              `from`, or set `edges: Dockerfile`.",
        example: "COPY --from=docker.io/library/busybox:1 /bin/busybox /bin/",
        check: edges::outside_reference,
    },
    Rule {
        id: "package-cache",
        level: Level::Warning,
        title: "A RUN leaves the cache of a package manager in its layer.",
        why: "It is in the image and in every image on it, and no later layer removes it from \
              there.",
        example: "RUN apt-get update && apt-get install -y curl",
        check: dockerfile::package_cache,
    },
    Rule {
        id: "repeated-file",
        level: Level::Warning,
        title: "An image copies a file over one that an image below it has copied.",
        why: "Both are pulled, and only one is visible.",
        example: "COPY settings.conf /etc/app/settings.conf   # in the parent, too",
        check: lineage::repeated_file,
    },
    Rule {
        id: "repeated-package",
        level: Level::Warning,
        title: "An image installs a package that an image below it installs already.",
        why: "The RUN costs time and an index of packages, and changes nothing or, worse, an \
              update that the other images on the parent do not get.",
        example: "RUN apt-get install -y curl   # in the parent, too",
        check: lineage::repeated_package,
    },
    Rule {
        id: "root-again",
        level: Level::Error,
        title: "An image runs as root although its parent does not.",
        why: "Who chose the parent relies on its user. Go back to it at the end of the \
              Dockerfile.",
        example: "USER root\nRUN apk add curl   # and no USER after it",
        check: lineage::root_again,
    },
    Rule {
        id: "secret-in-args",
        level: Level::Error,
        title: "A build argument, a variable or a label has the name or the form of a secret.",
        why: "Arguments are in the history of the image, and variables in its configuration: \
              whoever can pull it can read them. Use a secret mount.",
        example: "ARG NPM_TOKEN=npm_...",
        check: secrets::secret_in_args,
    },
    Rule {
        id: "shadowed-reference",
        level: Level::Warning,
        title: "A Dockerfile names a tag, and the build uses another one.",
        why: "The edge replaces what the Dockerfile says, so that whoever reads or builds it \
              manually gets another image.",
        example: "from: [{upstream: alpine, as: \"alpine:3.20\"}]   # and alpine follows 3.24",
        check: edges::shadowed_reference,
    },
    Rule {
        id: "tag-collision",
        level: Level::Error,
        title: "Two images of different families set the same tag of the same repository.",
        why: "The later push wins, in turns.",
        example: "repository: registry.example.com/shop   # in two families with web:latest",
        check: estate::tag_collision,
    },
    Rule {
        id: "unpinned-reference",
        level: Level::Warning,
        title: "An upstream follows a tag that names no version.",
        why: "It moves to the next major version without notice, and all images are rebuilt on \
              it.",
        example: "upstreams: [{name: node, image: node, follow: {tag: latest}}]",
        check: estate::unpinned_reference,
    },
    Rule {
        id: "unreadable-dockerfile",
        level: Level::Error,
        title: "A Dockerfile cannot be read.",
        why: "Its build fails, and no other rule sees it.",
        example: "FROM",
        check: edges::unreadable,
    },
    Rule {
        id: "unused-image",
        level: Level::Note,
        title: "Nothing in the families uses an image.",
        why: "It is rebuilt with each cascade. It has no child, no rollout, no export and no tag \
              that floats; in a cluster, a workload may still run it by digest.",
        example: "images: [{name: old, tags: [\"r{{ build }}\"]}]",
        check: estate::unused_image,
    },
];
