//! Rules about one Dockerfile, in the light of the image's place in its family.

use groundswell::{api::EdgeUse, builds::dockerfile::Instruction, lineage::Parent};

use crate::lint::{
    commands::{PackageManager, install_commands, script},
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
/// The commands that install the dependencies of a program.
const DEPENDENCY_COMMANDS: [&str; 13] = [
    "bun install",
    "bundle install",
    "cargo fetch",
    "composer install",
    "go mod download",
    "mvn dependency",
    "npm ci",
    "npm install",
    "pip install -r",
    "pip3 install -r",
    "pnpm install",
    "poetry install",
    "yarn install",
];
/// Parts of the names of secrets, in capital letters.
const SECRET_NAMES: [&str; 9] = [
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
    "CREDENTIAL",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE_KEY",
    "SECRET",
];
/// Endings of the names of secrets.
const SECRET_ENDINGS: [&str; 2] = ["TOKEN", "_PAT"];
/// How secrets of well-known services begin.
const SECRET_FORMS: [&str; 8] =
    ["AKIA", "ghp_", "github_pat_", "glpat-", "npm_", "xoxb-", "sk_live_", "-----BEGIN"];

/// Reports compilers in final stages.
pub fn build_tools(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate).filter(|(image, _)| !is_build_stage(image)) {
        for package in &stage.packages {
            let name = package.name.as_str();
            if BUILD_TOOLS.contains(&name) && !is_removed(stage, package.line, name) {
                let message =
                    format!("{name} stays in the final stage; build in a stage of its own");
                image.report(reports, Some(package.line), message);
            }
        }
    }
}

/// Whether another image uses this one only to build.
fn is_build_stage(image: &LintedImage<'_>) -> bool {
    let lineage = &image.family.family.blueprint.lineage;
    image.family.images().any(|other| {
        let edges = other.spec.from.iter().zip(lineage.parents(other.index));
        edges.into_iter().any(|(edge, parent)| {
            edge.usage == EdgeUse::BuildStage && *parent == Parent::Image(image.index)
        })
    })
}

/// Whether the `RUN` that installs a package removes it, or a virtual package, too.
fn is_removed(stage: &FinalStage, line: usize, name: &str) -> bool {
    let run = stage.instructions.iter().find(|instruction| instruction.line == line);
    let text = run.map(script).unwrap_or_default();
    let mut removals =
        ["apt-get purge", "apt-get remove", "apt-get autoremove", "apk del", "dnf remove"]
            .into_iter()
            .filter_map(|command| text.split_once(command));
    removals.any(|(before, after)| after.contains(name) || before.contains("--virtual"))
}

/// Reports copies of the whole context before the installation of dependencies.
pub fn cache_order(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        let mut copied = None;
        for instruction in &stage.instructions {
            match instruction.keyword.as_str() {
                "COPY" | "ADD" if copies_context(instruction) => copied = Some(instruction.line),
                "RUN" => {
                    let text = script(instruction);
                    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    let command = DEPENDENCY_COMMANDS.iter().find(|one| text.contains(**one));
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
    let source = copy.rest.split_whitespace().next();
    copy.values("from").next().is_none() && matches!(source, Some("." | "./" | "/" | "*"))
}

/// Reports caches of package managers in layers.
pub fn package_cache(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        let sets_no_cache = stage.instructions.iter().any(|instruction| {
            instruction.keyword == "ENV" && instruction.rest.contains("PIP_NO_CACHE_DIR")
        });
        for run in stage.instructions.iter().filter(|one| one.keyword == "RUN") {
            let text = script(run);
            let mounts: Vec<&str> = run.values("mount").collect();
            let left = install_commands(&text).into_iter().find(|command| {
                let cache = command.manager.cache();
                let mounted = mounts.iter().any(|mount| mount.contains("type=cache"));
                let cleaned = match command.manager {
                    PackageManager::Apt => text.contains("rm") && text.contains(cache),
                    PackageManager::Apk => command.has("--no-cache") || text.contains(cache),
                    PackageManager::Dnf => {
                        text.contains("clean all") || text.contains("rm") && text.contains(cache)
                    }
                    PackageManager::Pip => command.has("--no-cache-dir") || sets_no_cache,
                };
                !mounted && !cleaned
            });
            if let Some(command) = left {
                let (cache, remedy) = (command.manager.cache(), command.manager.remedy());
                let message = format!("{cache} stays in the layer; {remedy}, or use a cache mount");
                image.report(reports, Some(run.line), message);
            }
        }
    }
}

/// Reports what looks like a secret. The value is never part of the message.
pub fn secret_in_args(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for image in estate.images() {
        for (kind, values) in [("args", &image.spec.args), ("labels", &image.spec.labels)] {
            for (name, value) in values.iter().filter(|(name, value)| is_secret(name, value)) {
                let message = format!("`{kind}` has the secret `{name}` (its value is not shown)");
                _ = value;
                image.report(reports, None, message);
            }
        }
        for instruction in image.stage().iter().flat_map(|stage| &stage.instructions) {
            let keyword = instruction.keyword.as_str();
            if !matches!(keyword, "ARG" | "ENV") {
                continue;
            }
            for word in instruction.rest.split_whitespace() {
                let Some((name, value)) = word.split_once('=') else { continue };
                if is_secret(name, value.trim_matches(['"', '\''])) {
                    let message = format!("{keyword} sets the secret `{name}`; use a secret mount");
                    image.report(reports, Some(instruction.line), message);
                }
            }
        }
    }
}

fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_uppercase();
    let named = SECRET_NAMES.iter().any(|part| name.contains(part))
        || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending));
    // A file or another variable is where the secret is, not the secret.
    let is_place = value.starts_with(['/', '$']) || name.ends_with("_FILE");
    let formed =
        SECRET_FORMS.iter().any(|form| value.starts_with(form) && value.len() > form.len());
    formed || named && !is_place && !value.is_empty()
}

/// Returns the images whose final stage is known.
fn with_stages<'a>(
    estate: &'a LintedEstate<'a>,
) -> impl Iterator<Item = (LintedImage<'a>, &'a FinalStage)> {
    estate.images().filter_map(|image| Some((image, image.stage()?)))
}
