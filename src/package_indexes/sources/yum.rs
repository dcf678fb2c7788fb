//! The repositories of RPM: `etc/yum.repos.d` and its kin, with their variables.

use std::collections::BTreeMap;

use crate::{
    contents::PackageSettings,
    package_indexes::sources::{
        Architectures, ImageSources, Location, PackageRepository, SignedBy, has_extension,
    },
};

/// The folders of repositories.
const FOLDERS: [&str; 3] = ["etc/yum.repos.d/", "etc/distro.repos.d/", "etc/zypp/repos.d/"];
/// The folders of variables; the later ones count.
const VARIABLES: [&str; 2] = ["etc/yum/vars/", "etc/dnf/vars/"];
/// Fields with which a repository needs a credential.
const CREDENTIALS: [&str; 4] = ["username", "password", "sslclientcert", "sslclientkey"];
/// Fields that leave out packages.
const EXCLUSIONS: [&str; 3] = ["exclude", "excludepkgs", "includepkgs"];
/// Maximum length of a URL before variables are replaced, and of the value of one, in bytes.
const MAX_URL: usize = 1024;
/// Distributions whose repositories are named by the first number of the version.
const BY_MAJOR: [&str; 6] = ["rhel", "centos", "rocky", "almalinux", "ol", "amzn"];

/// Reads the repositories of an image with RPM.
pub(super) fn read(
    settings: &PackageSettings,
    architectures: &Architectures,
    sources: &mut ImageSources,
) {
    let variables = variables(settings, &architectures.native);
    for (path, text) in FOLDERS.iter().flat_map(|folder| settings.folder(folder)) {
        if !has_extension(path, "repo") {
            continue;
        }
        for section in sections(path, &String::from_utf8_lossy(text)) {
            section.add_to(&variables, sources);
        }
    }
}

/// A section of a file.
#[derive(Default)]
struct Section {
    place: String,
    fields: BTreeMap<String, String>,
}

impl Section {
    fn add_to(&self, variables: &BTreeMap<String, String>, sources: &mut ImageSources) {
        let field = |name: &str| self.fields.get(name).map_or("", |value| value.trim());
        if matches!(field("enabled"), "0" | "no" | "false" | "off") || self.fields.is_empty() {
            return;
        }
        let place = &self.place;
        if CREDENTIALS.iter().any(|name| !field(name).is_empty()) {
            return sources.problem(place, "needs a credential; the repository is not read");
        }
        let Some(base) = field("baseurl").split([' ', ',', '\n']).find(|url| !url.is_empty())
        else {
            let named = ["metalink", "mirrorlist"].into_iter().find(|name| !field(name).is_empty());
            let named = named.unwrap_or("no baseurl");
            let problem = format!("has {named}, which is not followed; declare its `baseurl`");
            return sources.problem(place, &problem);
        };
        if EXCLUSIONS.iter().any(|name| !field(name).is_empty()) {
            sources.problem(place, "excludes packages, which is not applied");
        }
        let base = if base.len() > MAX_URL { "$" } else { &substituted(base, variables) };
        if base.contains('$') {
            return sources.problem(place, "has a variable in its `baseurl` that is not known");
        }
        let Some(uri) = sources.url(place, base) else { return };
        let location = Location::Rpm { uri };
        sources.add(PackageRepository { location, tag: None, signed_by: SignedBy::Default });
    }
}

fn sections(path: &str, text: &str) -> Vec<Section> {
    let (mut sections, mut last) = (Vec::<Section>::new(), String::new());
    for (number, line) in text.lines().enumerate() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if content.starts_with('[') && content.ends_with(']') {
            let place = format!("{path}:{}", number + 1);
            sections.push(Section { place, ..Section::default() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        let is_continued = line.starts_with([' ', '\t']);
        match content.split_once('=').filter(|_| !is_continued) {
            Some((name, value)) => {
                last = name.trim().to_ascii_lowercase();
                section.fields.insert(last.clone(), value.trim().to_owned());
            }
            None => {
                if let Some(value) = section.fields.get_mut(&last) {
                    value.push('\n');
                    value.push_str(content);
                }
            }
        }
    }
    sections
}

/// Returns the variables of URLs.
fn variables(settings: &PackageSettings, architecture: &str) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let release = settings.text("usr/lib/os-release").or_else(|| settings.text("etc/os-release"));
    let release = release.unwrap_or_default();
    let value = |name: &str| {
        let found = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().trim().trim_matches(['"', '\''])
    };
    let version = value("VERSION_ID");
    let major = version.split('.').next().unwrap_or_default();
    let version = if BY_MAJOR.contains(&value("ID")) { major } else { version };
    if !version.is_empty() {
        variables.insert("releasever".into(), version.to_owned());
        variables.insert("releasever_major".into(), major.to_owned());
    }
    if !architecture.is_empty() {
        let base = if architecture.starts_with('i') { "i386" } else { architecture };
        variables.insert("basearch".into(), base.to_owned());
        variables.insert("arch".into(), architecture.to_owned());
    }
    for (path, text) in VARIABLES.iter().flat_map(|folder| settings.folder(folder)) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let value = String::from_utf8_lossy(text);
        let value = value.lines().next().unwrap_or_default().trim();
        if value.len() <= MAX_URL {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    variables
}

/// Replaces `$name` and `${name}`, the longer names first.
fn substituted(url: &str, variables: &BTreeMap<String, String>) -> String {
    let mut names: Vec<&String> = variables.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.iter().fold(url.to_owned(), |url, name| {
        let value = variables.get(*name).map_or("", String::as_str);
        url.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
    })
}
