//! `etc/apt/sources.list` and `etc/apt/sources.list.d`, in one line per repository or in fields.

use std::collections::BTreeMap;

use crate::{
    contents::PackageSettings,
    package_indexes::sources::{
        Architectures, ImageSources, Location, MAX_REPOSITORIES, PackageRepository, SignedBy,
        has_extension,
    },
};

/// Reads the repositories of an image with apt.
pub(super) fn read(
    settings: &PackageSettings,
    architectures: &Architectures,
    sources: &mut ImageSources,
) {
    let list = settings.files.get_key_value("etc/apt/sources.list").into_iter();
    let list = list.map(|(path, text)| (path.as_str(), text));
    for (path, text) in list.chain(settings.folder("etc/apt/sources.list.d/")) {
        let text = String::from_utf8_lossy(text);
        if has_extension(path, "list") {
            for (number, line) in text.lines().enumerate() {
                let place = format!("{path}:{}", number + 1);
                if let Some(entry) = SourceEntry::of_line(&place, line, sources) {
                    entry.add_to(architectures, sources);
                }
            }
        } else if has_extension(path, "sources") {
            for entry in fields(path, &text).filter_map(SourceEntry::of_fields) {
                entry.add_to(architectures, sources);
            }
        }
    }
    let pins = settings.files.keys().filter(|path| path.starts_with("etc/apt/preferences"));
    for path in pins {
        sources.problem(path, "may pin packages, which is not applied");
    }
}

/// An entry that may stand for several repositories.
#[derive(Default)]
struct SourceEntry {
    place: String,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// Empty if it is for those of the image.
    architectures: Vec<String>,
    signed_by: SignedBy,
}

impl SourceEntry {
    /// Reads `deb [arch=amd64 signed-by=/a.gpg] http://deb.example.com/debian bookworm main`.
    fn of_line(place: &str, line: &str, sources: &mut ImageSources) -> Option<Self> {
        let line = line.split('#').next().unwrap_or_default().trim();
        // A repository of sources has nothing that is installed.
        let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '[']))?;
        let mut entry = Self { place: place.to_owned(), ..Self::default() };
        let mut rest = rest.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            let Some((options, after)) = options.split_once(']') else {
                sources.problem(place, "has options without an end");
                return None;
            };
            for (name, value) in options.split_whitespace().filter_map(|one| one.split_once('=')) {
                entry.set_option(name, value.split(','));
            }
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            sources.problem(place, "names no URL or no suite");
            return None;
        };
        (entry.uris, entry.suites, entry.components) = (vec![uri], vec![suite], words.collect());
        Some(entry)
    }

    /// Reads a paragraph of fields; see `sources.list(5)`.
    fn of_fields(fields: SourceFields) -> Option<Self> {
        let words = |name: &str| {
            let value = fields.values.get(name).map_or("", String::as_str);
            value.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let is_disabled = words("enabled").first().is_some_and(|value| value == "no");
        if is_disabled || !words("types").iter().any(|kind| kind == "deb") {
            return None;
        }
        let mut entry = Self {
            uris: words("uris"),
            suites: words("suites"),
            components: words("components"),
            ..Self::default()
        };
        for name in ["architectures", "trusted"] {
            let values = words(name);
            entry.set_option(name, values.iter().map(String::as_str));
        }
        match fields.values.get("signed-by").map(|value| value.trim()) {
            _ if entry.signed_by == SignedBy::Trusted => {}
            Some(key) if key.contains("-----BEGIN PGP") => {
                // A dot stands for an empty line.
                let lines = key.lines().map(str::trim);
                let lines = lines.map(|line| if line == "." { "" } else { line });
                entry.signed_by = SignedBy::Key(lines.collect::<Vec<_>>().join("\n"));
            }
            Some(value) => entry.set_option("signed-by", value.split([' ', ',', '\n', '\t'])),
            None => {}
        }
        entry.place = fields.place;
        Some(entry)
    }

    fn set_option<'v>(&mut self, name: &str, values: impl Iterator<Item = &'v str>) {
        let mut values = values.filter(|value| !value.is_empty()).map(str::to_owned);
        match name {
            "arch" | "architectures" => self.architectures = values.collect(),
            "trusted" if values.any(|value| value == "yes") => self.signed_by = SignedBy::Trusted,
            "signed-by" if self.signed_by != SignedBy::Trusted => {
                let (files, keys): (Vec<_>, Vec<_>) =
                    values.partition(|value| value.starts_with('/'));
                let files: Vec<String> =
                    files.iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
                self.signed_by = match (files.is_empty(), keys.is_empty()) {
                    (false, _) => SignedBy::Files(files),
                    (true, false) => {
                        let keys = keys.iter().map(|key| key.trim_end_matches('!').to_owned());
                        SignedBy::Fingerprints(keys.collect())
                    }
                    (true, true) => return,
                };
            }
            _ => {}
        }
    }

    fn add_to(self, image: &Architectures, sources: &mut ImageSources) {
        let Self { place, uris, suites, components, architectures, signed_by } = self;
        let wanted: Vec<String> = (image.all.iter())
            .filter(|name| architectures.is_empty() || architectures.contains(name))
            .cloned()
            .collect();
        if wanted.is_empty() {
            // It has no package for this image.
            return;
        }
        if uris.is_empty() || suites.is_empty() {
            return sources.problem(&place, "names no URL or no suite");
        }
        if uris.len().saturating_mul(suites.len()) > MAX_REPOSITORIES {
            let problem = format!("lists more than {MAX_REPOSITORIES} repositories");
            return sources.problem(&place, &problem);
        }
        for uri in &uris {
            let Some(uri) = sources.url(&place, uri) else { continue };
            for suite in &suites {
                let is_path = suite.ends_with('/');
                let leads_out = suite.split('/').any(|part| part == "..");
                if leads_out || suite.contains('$') || is_path != components.is_empty() {
                    sources.problem(&place, "has a suite or components that are not read");
                    continue;
                }
                let location = Location::Deb {
                    uri: uri.clone(),
                    suite: suite.clone(),
                    components: components.clone(),
                    architectures: wanted.clone(),
                };
                let signed_by = signed_by.clone();
                sources.add(PackageRepository { location, tag: None, signed_by });
            }
        }
    }
}

/// The fields of a paragraph, by their name in lower case.
struct SourceFields {
    place: String,
    values: BTreeMap<String, String>,
}

fn fields<'t>(path: &'t str, text: &'t str) -> impl Iterator<Item = SourceFields> + 't {
    let mut lines = text.lines().enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, _) = lines.peek()?;
        let place = format!("{path}:{}", first + 1);
        let (mut values, mut last) = (BTreeMap::<String, String>::new(), String::new());
        for (_, line) in lines.by_ref() {
            if line.trim().is_empty() {
                break;
            }
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some(value) = values.get_mut(&last) {
                    value.push('\n');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                last = name.trim().to_ascii_lowercase();
                values.insert(last.clone(), value.trim().to_owned());
            }
        }
        Some(SourceFields { place, values })
    })
}
