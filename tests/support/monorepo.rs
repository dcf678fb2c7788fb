//! Generated source trees of Dockerfiles, with the edges that they say.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The repository prefix of the generated images.
pub const REPOSITORY: &str = "registry.example.com/platform";
/// How many images a team has at most.
const TEAM_SIZE: usize = 40;
/// The versions of a runtime.
const VERSIONS: [&str; 3] = ["3.11", "3.12", "3.13"];

/// An edge from an image to the name of an image or to the reference of an upstream.
pub type ExpectedEdge = (String, String);

/// The files of a tree, and what follows from them.
#[derive(Debug, Default)]
pub struct Monorepo {
    pub files: Vec<(String, String)>,
    pub images: BTreeSet<String>,
    pub edges: BTreeSet<ExpectedEdge>,
}

impl Monorepo {
    /// Generates a tree with this many Dockerfiles, always the same one.
    pub fn generate(dockerfiles: usize) -> Self {
        let mut tree = Self::default();
        let mut draw = Draw(dockerfiles as u64 + 7);
        let bases = (dockerfiles / 100).max(1);
        for base in 0..bases {
            tree.add(
                &format!("platform/base-{base}"),
                &format!("base-{base}"),
                &["FROM debian:trixie-slim"],
            );
            tree.edge(&format!("base-{base}"), "docker.io/library/debian:trixie-slim");
        }
        let mut team = 0;
        while tree.images.len() < dockerfiles {
            let size = TEAM_SIZE.min(dockerfiles - tree.images.len());
            tree.add_team(team, size, draw.below(bases), &mut draw);
            team += 1;
        }
        tree
    }

    /// Writes the files below a folder.
    pub fn write(&self, root: &Path) {
        for (path, text) in &self.files {
            let path: PathBuf = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("written");
        }
    }

    fn add(&mut self, folder: &str, name: &str, lines: &[&str]) {
        self.files.push((format!("{folder}/Dockerfile"), lines.join("\n") + "\n"));
        self.images.insert(name.to_owned());
    }

    fn edge(&mut self, child: &str, parent: &str) {
        self.edges.insert((child.to_owned(), parent.to_owned()));
    }

    /// Adds runtimes in several versions on a base, and applications with stages on the runtimes.
    fn add_team(&mut self, team: usize, size: usize, base: usize, draw: &mut Draw) {
        let versions = size.min(VERSIONS.len());
        let runtime =
            |version: usize| format!("t{team}-runtime-{}", VERSIONS[version].replace('.', "-"));
        for (index, version) in VERSIONS.iter().enumerate().take(versions) {
            let folder = format!("teams/t{team}/t{team}-runtime/{version}");
            let from = format!("FROM {REPOSITORY}/base-{base}:latest");
            self.add(&folder, &runtime(index), &[&from, "ONBUILD USER 1000"]);
            self.edge(&runtime(index), &format!("base-{base}"));
        }
        let mut bake = String::new();
        let mut compose = String::from("services:\n");
        for app in versions..size {
            let name = format!("t{team}-app-{app}");
            let folder = format!("teams/t{team}/{name}");
            let version = draw.below(versions);
            let parent = runtime(version);
            let go = format!("golang:1.{}", 20 + draw.below(3));
            self.edge(&name, &parent);
            match draw.below(5) {
                // A default of an ARG, and a build stage.
                0 => {
                    let arg = format!("ARG RUNTIME={REPOSITORY}/{parent}");
                    let stage = format!("FROM {go} AS build");
                    let copy = "COPY --from=build /out /app";
                    self.add(&folder, &name, &[&arg, &stage, "FROM ${RUNTIME}", copy]);
                    self.edge(&name, &format!("docker.io/library/{go}"));
                }
                // A file of build arguments.
                1 => {
                    self.add(&folder, &name, &["ARG RUNTIME", "FROM ${RUNTIME}"]);
                    let args = format!("RUNTIME={REPOSITORY}/{parent}:latest\n");
                    self.files.push((format!("{folder}/build.args"), args));
                }
                // A stage that is not needed names an image that is no edge.
                2 => {
                    let from = format!("FROM {parent} AS final");
                    let copy = format!("COPY --from={REPOSITORY}/base-{base} /etc /base");
                    let lines = ["FROM busybox:1.37 AS unused", &from, &copy];
                    self.add(&folder, &name, &lines);
                    self.edge(&name, &format!("base-{base}"));
                }
                // A named context of a Bake target.
                3 => {
                    self.add(&folder, &name, &["FROM runtime"]);
                    _ = writeln!(
                        bake,
                        "target \"{name}\" {{\n  context = \"{name}\"\n  contexts = {{ runtime = \
                         \"docker-image://{REPOSITORY}/{parent}\" }}\n}}"
                    );
                }
                // A build argument of a Compose service.
                _ => {
                    self.add(&folder, &name, &["ARG FROM_IMAGE", "FROM $FROM_IMAGE"]);
                    _ = writeln!(
                        compose,
                        "  {name}:\n    image: {REPOSITORY}/{name}:1.0\n    build:\n      context: \
                         {name}\n      args: {{FROM_IMAGE: '{REPOSITORY}/{parent}:latest'}}"
                    );
                }
            }
        }
        self.files.push((format!("teams/t{team}/docker-bake.hcl"), bake));
        self.files.push((format!("teams/t{team}/compose.yaml"), compose));
    }
}

/// Numbers that are the same in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        usize::try_from((self.0 >> 33) % limit as u64).expect("a small number")
    }
}
