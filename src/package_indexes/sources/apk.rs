//! `etc/apk/repositories`, and the packages of `etc/apk/world` that are tagged or pinned.

use crate::{
    contents::PackageSettings,
    package_indexes::sources::{
        Architectures, ImageSources, Location, PackageRepository, SignedBy, has_extension,
    },
};

const REPOSITORIES: &str = "etc/apk/repositories";
const REQUESTED: &str = "etc/apk/world";

/// Reads the repositories of an image with apk.
pub(super) fn read(
    settings: &PackageSettings,
    architectures: &Architectures,
    sources: &mut ImageSources,
) {
    let lists = settings.files.get_key_value(REPOSITORIES).into_iter();
    let lists = lists.map(|(path, text)| (path.as_str(), text));
    let folder = settings.folder("etc/apk/repositories.d/");
    for (path, text) in lists.chain(folder.filter(|(path, _)| has_extension(path, "list"))) {
        for (number, line) in String::from_utf8_lossy(text).lines().enumerate() {
            read_line(&format!("{path}:{}", number + 1), line, architectures, sources);
        }
    }
    let requested = settings.text(REQUESTED).unwrap_or_default();
    for entry in requested.split_whitespace().filter(|entry| !entry.starts_with('!')) {
        let end = entry.find(['@', '<', '>', '=', '~']).unwrap_or(entry.len());
        let (name, rest) = entry.split_at_checked(end).unwrap_or((entry, ""));
        match rest.split_once('@') {
            Some(("", tag)) => _ = sources.tagged.insert(name.to_owned(), tag.to_owned()),
            // `>=1.2` lets a package move.
            _ if rest.starts_with(['=', '~', '<']) => _ = sources.pinned.insert(name.to_owned()),
            _ => {}
        }
    }
}

fn read_line(place: &str, line: &str, architectures: &Architectures, sources: &mut ImageSources) {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    let (tag, url) = match line.strip_prefix('@').and_then(|line| line.split_once([' ', '\t'])) {
        Some((tag, url)) => (Some(tag.to_owned()), url.trim()),
        None => (None, line),
    };
    if url.contains(char::is_whitespace) {
        return sources.problem(place, "is no repository of apk 2, and is not read");
    }
    let Some(uri) = sources.url(place, url) else { return };
    let architecture = architectures.native.clone();
    let location = Location::Apk { uri, architecture };
    sources.add(PackageRepository { location, tag, signed_by: SignedBy::Default });
}
