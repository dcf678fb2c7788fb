use std::collections::BTreeSet;

use super::*;
use crate::input::{Estate, InputArguments};

/// The name of an image, its settings, and its Dockerfile.
type ImageText<'t> = [&'t str; 3];

/// A family as YAML. Each image is its name, and the lines that follow `- name`, indented by four.
fn family(name: &str, upstreams: &str, images: &[ImageText<'_>]) -> String {
    let mut text = format!(
        "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata:\n  name: {name}\n\
         spec:\n  repository: registry.example.com/team\n  upstreams:\n{upstreams}  images:\n"
    );
    for [image, settings, dockerfile] in images {
        let indented = |spaces: usize, lines: &str| {
            let lines = lines.lines().map(|line| format!("{:spaces$}{line}\n", ""));
            lines.collect::<String>()
        };
        text += &indented(2, &format!("- name: {image}"));
        text += &indented(4, settings);
        text += "    source:\n      inline: |\n";
        text += &indented(8, dockerfile);
    }
    text
}

const ALPINE: &str =
    "  - {name: alpine, image: docker.io/library/alpine, follow: {tag: \"3.24\"}}\n";
const ON_ALPINE: &str = "from: [{upstream: alpine, as: \"alpine:3.24\"}]\ntags: [latest]";
const ON_BASE: &str = "from: [{image: base, arg: BASE}]\ntags: [latest]";

async fn read(files: &[String]) -> (Estate, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, text) in files.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.yaml")), text).expect("a file");
    }
    let filenames = vec![folder.path().to_owned()];
    let input = InputArguments { filenames, ..InputArguments::default() };
    (Box::pin(Estate::read(&input)).await.expect("an estate"), folder)
}

/// Returns the findings as `rule subject:line`, and all messages.
async fn lint_files(files: &[String], disabled: &[&'static str]) -> (Vec<String>, String) {
    let (estate, _folder) = read(files).await;
    let now = "2026-11-30T00:00:00Z".parse().expect("a time");
    let linted = LintedEstate::read(&estate, None, now);
    let report = LintReport::new(&linted, &disabled.iter().copied().collect::<BTreeSet<_>>());
    let place = |finding: &LintFinding| {
        let name = finding.subject.rsplit('/').next().unwrap_or_default();
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{} {name}{line}", finding.rule)
    };
    let mut places: Vec<String> = report.findings.iter().map(place).collect();
    places.sort();
    let messages = report.findings.iter().map(|finding| finding.message.clone() + "\n").collect();
    (places, messages)
}

async fn lint(images: &[ImageText<'_>]) -> Vec<String> {
    lint_files(&[family("f", ALPINE, images)], &[]).await.0
}

/// A base that does nothing wrong, and an image on it with this Dockerfile after its `FROM`.
async fn lint_child(base: &str, child: &str) -> Vec<String> {
    let base = format!("FROM alpine:3.24\n{base}");
    let child = format!("ARG BASE\nFROM $BASE\n{child}");
    lint(&[["base", ON_ALPINE, &base], ["app", ON_BASE, &child]]).await
}

#[tokio::test]
async fn a_family_without_faults_has_no_findings() {
    let found = lint_child(
        "RUN apk add --no-cache curl\nUSER 1000",
        "USER root\nRUN apk add --no-cache tini\nCOPY package.json .\nRUN npm ci\nCOPY . .\n\
         ARG TOKEN_FILE=/run/secrets/token\nENV DB_PASSWORD_FILE=/x\nUSER 1000",
    )
    .await;
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_is_back_at_root_is_found() {
    assert_eq!(lint_child("USER app", "USER root").await, ["root-again app:3"]);
    assert_eq!(lint_child("USER app:app", "USER 0:0").await, ["root-again app:3"]);
    assert_eq!(lint_child("USER app", "USER 00").await, ["root-again app:3"]);
    for (base, child) in [
        ("", "USER root"),
        ("USER root", "USER root"),
        ("USER app", ""),
        ("USER app", "USER other"),
    ] {
        assert_eq!(lint_child(base, child).await, Vec::<String>::new(), "{base} {child}");
    }
}

#[tokio::test]
async fn what_an_image_below_brings_already_is_found() {
    let found = lint_child(
        "RUN apk add --no-cache curl\nCOPY app.conf /etc/app/",
        "RUN apk add --no-cache curl=8 tini\nCOPY other/app.conf /etc/app/app.conf",
    )
    .await;
    assert_eq!(found, ["repeated-file app:4", "repeated-package app:3"]);
}

#[tokio::test]
async fn build_tools_are_found_in_final_stages_only() {
    let install = "RUN apk add --no-cache gcc";
    assert_eq!(lint_child("", install).await, ["build-tools app:3"]);
    let two_stages = format!(
        "FROM alpine:3.24 AS build\n{install}\nFROM alpine:3.24\nCOPY --from=build /a /a\n"
    );
    assert_eq!(lint(&[["app", ON_ALPINE, &two_stages]]).await, Vec::<String>::new());
    let inherits = format!("FROM alpine:3.24 AS build\n{install}\nFROM build\n");
    assert_eq!(lint(&[["app", ON_ALPINE, &inherits]]).await, ["build-tools app:2"]);
    let removed = "RUN apk add --no-cache --virtual .b gcc && make && apk del .b";
    assert_eq!(lint_child("", removed).await, Vec::<String>::new());
    let tool = format!("FROM alpine:3.24\n{install}\n");
    let user =
        "FROM registry.example.com/team/tool:latest AS b\nFROM alpine:3.24\nCOPY --from=b /a /a";
    let edges = "from: [{image: tool, use: BuildStage}, {upstream: alpine, as: \"alpine:3.24\"}]\n\
                 tags: [latest]";
    let found = lint(&[["tool", ON_ALPINE, &tool], ["app", edges, user]]).await;
    assert_eq!(found, Vec::<String>::new(), "an image that others build with");
}

#[tokio::test]
async fn caches_are_found() {
    for (run, expected) in [
        ("RUN apk add curl", true),
        ("RUN apt-get update && apt-get install -y curl", true),
        ("RUN apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*", false),
        ("RUN --mount=type=cache,target=/var/lib/apt apt-get install -y curl", false),
        ("RUN dnf install -y curl", true),
        ("RUN dnf install -y curl && dnf clean all", false),
        ("RUN pip install flask", true),
        ("RUN pip install --no-cache-dir flask", false),
        ("ENV PIP_NO_CACHE_DIR=1\nRUN pip install flask", false),
    ] {
        let found = lint_child("", run).await;
        assert_eq!(found.iter().any(|one| one.starts_with("package-cache")), expected, "{run}");
    }
}

#[tokio::test]
async fn a_copy_of_everything_before_dependencies_is_found() {
    assert_eq!(lint_child("", "COPY . .\nRUN npm   ci").await, ["cache-order app:4"]);
    assert_eq!(lint_child("", "COPY [\".\", \"/app\"]\nRUN npm ci").await, ["cache-order app:4"]);
    for child in [
        "COPY package.json .\nRUN npm ci\nCOPY . .",
        "COPY --from=x . .\nRUN npm ci",
        "COPY . .\nRUN npm install -g npm@11",
        "COPY . .\nRUN echo \"run npm install\"",
    ] {
        let found = lint_child("", child).await;
        assert!(!found.iter().any(|one| one.starts_with("cache-order")), "{child}: {found:?}");
    }
}

#[tokio::test]
async fn edges_and_dockerfiles_are_compared() {
    let names_other = "FROM alpine:3.24\nCOPY --from=docker.io/library/busybox:1 /a /a\n";
    assert_eq!(lint(&[["app", ON_ALPINE, names_other]]).await, ["outside-reference app:2"]);
    let edges = "from: [{upstream: alpine, as: \"alpine:3.24\"}, {image: base, use: BuildStage}]\n\
                 tags: [latest]";
    let base = ["base", ON_ALPINE, "FROM alpine:3.24"];
    assert_eq!(lint(&[base, ["app", edges, "FROM alpine:3.24"]]).await, ["edges-disagree app"]);
    let shadowed = "from: [{upstream: alpine, as: \"alpine:3.20\"}]\ntags: [latest]";
    let found = lint(&[["app", shadowed, "FROM alpine:3.20"]]).await;
    assert_eq!(found, ["shadowed-reference app"]);
    assert_eq!(lint(&[["app", ON_ALPINE, "FROM"]]).await, ["unreadable-dockerfile app:1"]);
}

#[tokio::test]
async fn labels_are_compared_with_parents_and_siblings() {
    let own = "LABEL org.opencontainers.image.title=\"base\" team=web";
    assert_eq!(lint_child(own, "").await, ["label-inherited app"]);
    let set = "LABEL org.opencontainers.image.title=app";
    assert_eq!(lint_child(own, set).await, Vec::<String>::new());
    let with = "FROM alpine:3.24\nLABEL team=web\n";
    let names = ["a", "b", "c", "d"];
    let mut images: Vec<_> = names.iter().map(|name| [*name, ON_ALPINE, with]).collect();
    images.push(["e", ON_ALPINE, "FROM alpine:3.24"]);
    assert_eq!(lint(&images).await, ["label-lost e"]);
    images.push(["f", ON_ALPINE, "FROM alpine:3.24"]);
    assert_eq!(lint(&images).await, Vec::<String>::new(), "two of six lack it");
}

#[tokio::test]
async fn near_duplicates_are_found() {
    let with = |packages: &str| format!("FROM alpine:3.24\nRUN apk add --no-cache {packages}\n");
    let (a, b, c) = (with("x y z"), with("z y x"), with("x y q r"));
    let found = lint(&[["a", ON_ALPINE, &a], ["b", ON_ALPINE, &b], ["c", ON_ALPINE, &c]]).await;
    assert_eq!(found, ["near-duplicate b"]);
}

#[tokio::test]
async fn secrets_are_found_and_never_shown() {
    let secret = "hunter2-of-the-registry";
    let child = format!(
        "ARG NPM_TOKEN={secret}\nENV DB_PASSWORD='{secret}' A=ghp_{secret}\nARG GITHUB_TOKEN\n"
    );
    let image = format!("{ON_ALPINE}\nargs: {{API_KEY: {secret}, BUILD: \"1\"}}");
    let dockerfile = format!("FROM alpine:3.24\nARG API_KEY\nARG BUILD\n{child}");
    let file = family("f", ALPINE, &[["app", &image, &dockerfile]]);
    let (found, messages) = lint_files(&[file], &[]).await;
    let expected = [
        "secret-in-args app",
        "secret-in-args app:4",
        "secret-in-args app:5",
        "secret-in-args app:5",
    ];
    assert_eq!(found, expected);
    assert!(!messages.contains(secret), "{messages}");
}

#[tokio::test]
async fn upstreams_are_checked() {
    let node = "  - {name: node, image: docker.io/library/node, follow: {tag: latest}}\n";
    let upstreams = ALPINE.replace("3.24", "3.15") + node;
    let edges = "from: [{upstream: alpine, as: \"alpine:3.15\"}]\ntags: [latest]";
    let images = [["app", edges, "FROM alpine:3.15"]];
    let found = lint_files(&[family("f", &upstreams, &images)], &[]).await.0;
    assert_eq!(found, ["end-of-life alpine", "unpinned-reference node"]);
}

#[tokio::test]
async fn collisions_and_unused_images_are_found() {
    let dockerfile = "FROM alpine:3.24\n";
    let unused = "from: [{upstream: alpine, as: \"alpine:3.24\"}]\ntags: [\"r{{ build }}\"]";
    let first = family("f", ALPINE, &[["app", ON_ALPINE, dockerfile], ["old", unused, dockerfile]]);
    let second = family("g", ALPINE, &[["app", ON_ALPINE, dockerfile]]);
    let (found, messages) = lint_files(&[first.clone(), second], &[]).await;
    assert_eq!(found, ["tag-collision app", "unused-image old"]);
    assert!(messages.contains("registry.example.com/team/app:latest"), "{messages}");
    let (found, _) = lint_files(&[first], &["unused-image"]).await;
    assert_eq!(found, Vec::<String>::new(), "a disabled rule");
}

#[tokio::test]
async fn dockerfiles_of_a_checkout_are_read() {
    let settings = format!(
        "{ON_ALPINE}\nsource:\n  git: {{url: \"https://r.example/a\", revision: main, path: PATH}}"
    );
    let file = |path: &str| {
        let text = family("f", ALPINE, &[["app", &settings.replace("PATH", path), ""]]);
        // The image has a source already.
        text.split("    source:\n      inline").next().expect("a family").to_owned()
    };
    let (estate, folder) = read(&[file("images/app")]).await;
    let images = folder.path().join("images/app");
    std::fs::create_dir_all(&images).expect("a folder");
    std::fs::write(images.join("Dockerfile"), "FROM alpine:3.24\nRUN apk add x\n").expect("a file");
    let now = jiff::Timestamp::UNIX_EPOCH;
    let checkout = Checkout::open(folder.path()).expect("a checkout");
    let report = |checkout: Option<&Checkout>| {
        LintReport::new(&LintedEstate::read(&estate, checkout, now), &BTreeSet::new())
    };
    let found = report(Some(&checkout)).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].file.as_deref(), found[0].line), (Some("images/app/Dockerfile"), Some(2)));
    let linted = LintedEstate::read(&estate, Some(&checkout), now);
    let sarif: serde_json::Value =
        serde_json::from_str(&sarif::document(&found, &linted).expect("SARIF")).expect("JSON");
    let location = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "images/app/Dockerfile");
    assert_eq!(location["region"]["startLine"], 2);
    assert_eq!(
        sarif["runs"][0]["tool"]["driver"]["rules"].as_array().map(Vec::len),
        Some(RULES.len())
    );
    let without = report(None);
    assert_eq!((without.findings.len(), without.read, without.unread), (0, 0, 1));

    std::fs::remove_file(images.join("Dockerfile")).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", images.join("Dockerfile")).expect("a link");
    let found = report(Some(&checkout)).findings;
    assert!(found[0].message.contains("leads out of the checkout"), "{found:?}");
    assert_eq!(found[0].file.as_deref(), Some("images/app/Dockerfile"));
    std::fs::remove_file(images.join("Dockerfile")).expect("removed");
    std::os::unix::fs::symlink("Dockerfile", images.join("Dockerfile")).expect("a link");
    assert_eq!(report(Some(&checkout)).findings[0].rule, "unreadable-dockerfile");
}

#[test]
fn rules_are_sorted_and_unique() {
    assert!(RULES.is_sorted_by(|a, b| a.id < b.id));
}

/// The table of rules in the documentation is that of the program. `GENERATE=1` writes it.
#[test]
fn the_documentation_has_every_rule() {
    let mut expected = String::new();
    for rule in &RULES {
        let level = rule.level.as_str();
        let (id, title, why) = (rule.id, wrapped(rule.title, level), fill(rule.why));
        let section = format!("\n### `{id}`\n\n*{level}.* {title}\n\n{why}\n\n");
        expected += &(section + "```\n" + rule.example + "\n```\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lint.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let begin = "<!-- rules -->\n";
    let (head, table) = text.split_once(begin).expect("the mark");
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(path, format!("{head}{begin}{expected}")).expect("written");
        return;
    }
    assert_eq!(table, expected, "run this test with GENERATE=1");
}

/// Wraps a text to 100 columns.
fn fill(text: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > 100 {
            lines.push(std::mem::take(&mut line));
        }
        line = if line.is_empty() { word.to_owned() } else { line + " " + word };
    }
    lines.push(line);
    lines.join("\n")
}

fn wrapped(title: &str, level: &str) -> String {
    let prefix = format!("*{level}.* ");
    fill(&(prefix.clone() + title)).split_off(prefix.len())
}

/// Images of a matrix have the same templates, and other tags.
#[tokio::test]
async fn tags_of_a_matrix_do_not_collide() {
    let settings = "matrix: {v: [a, b]}\nfrom: [{upstream: alpine, as: \"alpine:3.24\"}]\n\
                    path: app\ntags: [\"{{ matrix.v }}\"]";
    assert_eq!(lint(&[["app", settings, "FROM alpine:3.24"]]).await, Vec::<String>::new());
}

/// What `import` writes: the edges follow from the Dockerfiles.
#[tokio::test]
async fn edges_of_dockerfiles_are_resolved() {
    let edges = "edges: Dockerfile\ntags: [latest]";
    let base = "FROM docker.io/library/alpine:3.24\nRUN apk add --no-cache curl\n\
                LABEL org.opencontainers.image.title=base\nUSER 1000\n";
    let child = "FROM registry.example.com/team/base:latest\nUSER root\n\
                 RUN apk add --no-cache curl\n";
    let expected = ["label-inherited app", "repeated-package app:3", "root-again app:2"];
    let images = [["base", edges, base], ["app", edges, child]];
    assert_eq!(lint(&images).await, expected);

    // The same in a checkout.
    let settings = format!(
        "{edges}\nsource:\n  git: {{url: \"https://r.example/a\", revision: main, path: PATH}}"
    );
    let (folder, mut text) = (tempfile::tempdir().expect("a folder"), String::new());
    for [name, _, dockerfile] in images {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("Dockerfile"), dockerfile).expect("a file");
        let image = family("f", ALPINE, &[[name, &settings.replace("PATH", name), ""]]);
        let image = image.split("    source:\n      inline").next().expect("a family").to_owned();
        let own = image.split_once("images:\n").expect("images").1.to_owned();
        text = if text.is_empty() { image } else { text + &own };
    }
    let manifest = tempfile::tempdir().expect("a folder");
    std::fs::write(manifest.path().join("family.yaml"), text).expect("a file");
    let filenames = vec![manifest.path().to_owned()];
    let input = InputArguments { filenames, ..InputArguments::default() };
    let checkout = Checkout::open(folder.path()).expect("a checkout");
    let text_of = |image: &Image| checked_out_text(image, Some(&checkout));
    let estate =
        Box::pin(Estate::read_with_dockerfiles(&input, &text_of)).await.expect("an estate");
    let linted = LintedEstate::read(&estate, Some(&checkout), jiff::Timestamp::UNIX_EPOCH);
    let report = LintReport::new(&linted, &BTreeSet::new());
    let mut rules: Vec<_> = report.findings.iter().map(|finding| finding.rule).collect();
    rules.sort_unstable();
    assert_eq!(rules, ["label-inherited", "repeated-package", "root-again"]);
}

/// A scanner rejects a document in which one finding has no file.
#[tokio::test]
async fn every_finding_has_a_place_in_sarif() {
    let upstreams = ALPINE.replace("3.24", "3.15");
    let edges = "from: [{upstream: alpine, as: \"alpine:3.15\"}]\ntags: [latest]";
    let images = [["app", edges, "FROM alpine:3.15\nRUN apk add x"], ["bad", edges, "FROM"]];
    let text = family("f", &upstreams, &images);
    let line_of = |part: &str| 1 + text.lines().position(|line| line.contains(part)).expect(part);
    let expected = [
        ("end-of-life", line_of("name: alpine")),
        ("package-cache", line_of("name: app")),
        ("unreadable-dockerfile", line_of("name: bad")),
    ];
    let (estate, _folder) = read(std::slice::from_ref(&text)).await;
    let now = "2026-11-30T00:00:00Z".parse().expect("a time");
    let linted = LintedEstate::read(&estate, None, now);
    let report = LintReport::new(&linted, &BTreeSet::new());
    let sarif = report.rendered(LintFormat::Sarif, &linted).expect("SARIF");
    let sarif: serde_json::Value = serde_json::from_str(&sarif).expect("JSON");
    let results = sarif["runs"][0]["results"].as_array().expect("results");
    let mut found: Vec<_> = results
        .iter()
        .map(|result| {
            let place = &result["locations"][0]["physicalLocation"];
            let uri = place["artifactLocation"]["uri"].as_str().expect("a URI");
            assert!(uri.ends_with("0.yaml"), "{uri}");
            let fingerprints = result["partialFingerprints"].as_object().expect("fingerprints");
            assert_eq!(fingerprints.len(), 1);
            let line = place["region"]["startLine"].as_u64().expect("a line");
            (result["ruleId"].as_str().expect("a rule"), usize::try_from(line).expect("a line"))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn build_stages_of_other_families_are_not_reported() {
    let tool = "FROM alpine:3.24\nRUN apk add --no-cache gcc\n";
    let exports = "  exports: [{image: tool}]\n  images:\n";
    let first = family("f", ALPINE, &[["tool", ON_ALPINE, tool]]).replace("  images:\n", exports);
    let user = "FROM registry.example.com/team/tool:latest AS b\nFROM alpine:3.24\n\
                COPY --from=b /a /a";
    let edges = "from: [{family: {name: f}, image: tool, use: BuildStage, \
                 as: \"registry.example.com/team/tool:latest\"}, \
                 {upstream: alpine, as: \"alpine:3.24\"}]\ntags: [latest]";
    let second = family("g", ALPINE, &[["app", edges, user]]);
    assert_eq!(lint_files(std::slice::from_ref(&first), &[]).await.0, ["build-tools tool:2"]);
    assert_eq!(lint_files(&[first, second], &[]).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn packages_that_are_removed_again_do_not_count() {
    let added = "RUN apk add --no-cache -t .b gcc make curl && make && apk del .b";
    assert_eq!(lint_child(added, added).await, Vec::<String>::new(), "for the image below");
    let with = format!("FROM alpine:3.24\n{added}\n");
    let images = [["a", ON_ALPINE, with.as_str()], ["b", ON_ALPINE, with.as_str()]];
    assert_eq!(lint(&images).await, Vec::<String>::new(), "for siblings");
}

#[tokio::test]
async fn settings_of_images_below_are_inherited() {
    assert_eq!(lint_child("ENV PIP_NO_CACHE_DIR=1", "RUN pip install x").await, [""; 0]);
    assert_eq!(lint_child("", "RUN pip install x").await, ["package-cache app:3"]);
}

/// An empty value is how an image does without the label of its parent.
#[tokio::test]
async fn empty_labels_are_no_lost_ones() {
    let with = "FROM alpine:3.24\nLABEL team web\n";
    let mut images: Vec<_> = ["a", "b", "c", "x"].map(|name| [name, ON_ALPINE, with]).into();
    images.push(["d", ON_ALPINE, "FROM alpine:3.24\nLABEL team="]);
    assert_eq!(lint(&images).await, Vec::<String>::new());
    images[4][2] = "FROM alpine:3.24";
    assert_eq!(lint(&images).await, ["label-lost d"], "the old form of LABEL counts");
}

#[tokio::test]
async fn a_digest_next_to_the_tag_is_not_shadowed() {
    let digest = format!("alpine:3.24@sha256:{}", "a".repeat(64));
    let edges = format!("from: [{{upstream: alpine, as: \"{digest}\"}}]\ntags: [latest]");
    let found = lint(&[["app", &edges, &format!("FROM {digest}")]]).await;
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn tags_that_name_no_version_are_found() {
    for (tag, is_found) in [
        ("stable-slim", true),
        ("lts-alpine", true),
        ("alpine", true),
        ("slim", true),
        ("sid", true),
        ("mainline", true),
        ("22-alpine", false),
        ("bookworm-slim", false),
        ("stable-20261101", false),
    ] {
        let upstreams =
            format!("  - {{name: a, image: r.example/a, follow: {{tag: \"{tag}\"}}}}\n");
        let edges = format!("from: [{{upstream: a, as: \"r.example/a:{tag}\"}}]\ntags: [latest]");
        let from = format!("FROM r.example/a:{tag}");
        let found = lint_files(&[family("f", &upstreams, &[["app", &edges, &from]])], &[]).await.0;
        assert_eq!(!found.is_empty(), is_found, "{tag}: {found:?}");
    }
}

#[tokio::test]
async fn dockerfiles_in_config_maps_are_read() {
    let source = "source: {configMap: {name: web, items: [{key: web, path: Dockerfile}]}}";
    let dockerfile = "FROM alpine:3.24\nUSER root\nRUN apt-get update && apt-get install -y curl\n";
    let family = family("shop", ALPINE, &[["web", ON_ALPINE, dockerfile]]);
    let config_map = |key: &str| {
        let text = dockerfile.replace('\n', "\n    ");
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web}}\ndata:\n  {key}: |\n    \
             {text}"
        )
    };
    let (inline, _) = family.split_once("    source:").expect("a source");
    let lint = async |key: &str| {
        let files = [format!("{inline}    {source}\n{}", config_map(key))];
        lint_files(&files, &["unused-image"]).await.0
    };
    assert_eq!(lint("web").await, ["package-cache web:3"]);
    assert_eq!(lint("other").await, Vec::<String>::new());
}
