//! Rules about one Dockerfile, in the light of the image's place in its family.

use std::collections::BTreeSet;

use groundswell::{api::EdgeUse, builds::dockerfile::Instruction};

use crate::lint::{
    commands::{PipCache, dependency_command, left_cache},
    dockerfile::FinalStage,
    rules::RuleReports,
    subject::{LintedEstate, LintedImage},
};

/// Packages that nobody needs who runs an image.
const BUILD_TOOLS: [&str; 17] = [
    "autoconf",
    "automake",
    "build-base",
    "build-essential",
    "cargo",
    "clang",
    "cmake",
    "g++",
    "gcc",
    "gcc-c++",
    "go",
    "golang",
    "gradle",
    "make",
    "maven",
    "ninja-build",
    "rustc",
];
/// Reports compilers in final stages.
pub fn build_tools(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    let build_stages = build_stages(estate);
    for (image, stage) in with_stages(estate) {
        if build_stages.contains(&image.family.subject(&image.spec.name)) {
            continue;
        }
        for package in &stage.packages {
            let name = package.name.as_str();
            if BUILD_TOOLS.contains(&name) {
                let message =
                    format!("{name} stays in the final stage; build in a stage of its own");
                image.report(reports, Some(package.line), message);
            }
        }
    }
}

/// Returns the images that others, also those of other families, use to build.
fn build_stages(estate: &LintedEstate<'_>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for image in estate.images() {
        let own = &image.family.family.name;
        for edge in image.spec.from.iter().filter(|edge| edge.usage == EdgeUse::BuildStage) {
            let (namespace, family) = match &edge.family {
                Some(other) => (other.namespace.as_ref().unwrap_or(&own.namespace), &other.name),
                None => (&own.namespace, &own.name),
            };
            used.extend(edge.image.iter().map(|image| format!("{namespace}/{family}/{image}")));
        }
    }
    used
}

/// Reports copies of the whole context before the installation of dependencies.
pub fn cache_order(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        let mut copied = None;
        for instruction in &stage.instructions {
            match instruction.keyword.as_str() {
                "COPY" | "ADD" if copies_context(instruction) => copied = Some(instruction.line),
                "RUN" => {
                    let command = dependency_command(instruction);
                    if let (Some(line), Some(command)) = (copied, command) {
                        let message = format!(
                            "`{command}` runs after line {line} has copied the whole context; copy \
                             what it reads first"
                        );
                        image.report(reports, Some(instruction.line), message);
                        break;
                    }
                }
                _ => {}
            }
        }
    }
}

fn copies_context(copy: &Instruction) -> bool {
    let words: Vec<String> = serde_json::from_str(&copy.rest)
        .unwrap_or_else(|_| copy.rest.split_whitespace().map(str::to_owned).collect());
    let source = words.first().map(String::as_str);
    copy.values("from").next().is_none() && matches!(source, Some("." | "./" | "/" | "*"))
}

/// Reports caches of package managers in layers.
pub fn package_cache(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        // Variables are inherited.
        let below = image.bases().filter_map(|base| base.stage());
        let is_pip_off = below.chain([stage]).any(|stage| {
            stage.instructions.iter().any(|instruction| {
                matches!(instruction.keyword.as_str(), "ENV" | "ARG")
                    && instruction.rest.contains("PIP_NO_CACHE_DIR")
            })
        });
        let pip = if is_pip_off { PipCache::Off } else { PipCache::Kept };
        for run in stage.instructions.iter().filter(|one| one.keyword == "RUN") {
            if let Some(manager) = left_cache(run, pip) {
                let (cache, remedy) = (manager.cache(), manager.remedy());
                let message = format!("{cache} stays in the layer; {remedy}, or use a cache mount");
                image.report(reports, Some(run.line), message);
            }
        }
    }
}

/// Returns the images whose final stage is known.
fn with_stages<'a>(
    estate: &'a LintedEstate<'a>,
) -> impl Iterator<Item = (LintedImage<'a>, &'a FinalStage)> {
    estate.images().filter_map(|image| Some((image, image.stage()?)))
}
