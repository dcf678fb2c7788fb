//! The databases of dpkg and apk: lines of text in paragraphs.

use crate::contents::package::{Ecosystem, MAX_PACKAGES, Package};

/// The states of packages of which no program is in the image. In all others, from half-installed
/// to triggers-pending, files of the package are.
const ABSENT_STATES: [&str; 2] = ["config-files", "not-installed"];

/// Reads `var/lib/dpkg/status`, or a file of `var/lib/dpkg/status.d`, whose packages have no state.
pub(super) fn dpkg(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let fields = ["package", "version", "architecture", "status", "source"];
    let mut packages = Vec::new();
    for [name, version, architecture, status, source] in paragraphs(bytes, ": ", fields) {
        let state = status.split_whitespace().next_back().unwrap_or_default();
        // dpkg knows no version of a package that it has only been asked to install.
        if name.is_empty() || ABSENT_STATES.contains(&state) {
            continue;
        }
        // The version of the source follows in parentheses if it is another one.
        let source = source.split_whitespace().next().unwrap_or_default().to_owned();
        let ecosystem = Ecosystem::Deb;
        add(&mut packages, Package { name, architecture, version, ecosystem, source })?;
    }
    Ok(packages)
}

/// Returns the packages of `var/lib/dpkg/status` that a user has set on hold, as
/// `name:architecture`.
pub(super) fn held(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    let found = paragraphs(bytes, ": ", ["package", "architecture", "status"]);
    found
        .filter(|[.., status]| status.split_whitespace().next() == Some("hold"))
        .map(|[name, architecture, _]| format!("{name}:{architecture}"))
}

/// Reads `lib/apk/db/installed`.
pub(super) fn apk(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let mut packages = Vec::new();
    for [name, version, architecture, source] in paragraphs(bytes, ":", ["P", "V", "A", "o"]) {
        if name.is_empty() && version.is_empty() {
            continue;
        }
        let ecosystem = Ecosystem::Apk;
        add(&mut packages, Package { name, architecture, version, ecosystem, source })?;
    }
    Ok(packages)
}

fn add(packages: &mut Vec<Package>, package: Package) -> Result<(), String> {
    if packages.len() >= MAX_PACKAGES {
        return Err(format!("lists more than {MAX_PACKAGES} packages"));
    }
    packages.push(package.checked()?);
    Ok(())
}

/// Returns the values of these fields in each paragraph: the first of each name, or an empty text.
/// apk distinguishes the case of names, and dpkg does not, whose fields have more than one letter.
fn paragraphs<'b, const N: usize>(
    bytes: &'b [u8],
    separator: &'static str,
    fields: [&'static str; N],
) -> impl Iterator<Item = [String; N]> + 'b {
    let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
    std::iter::from_fn(move || {
        lines.peek()?;
        let mut values = [const { String::new() }; N];
        for line in lines.by_ref() {
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(separator.trim_end()) else { continue };
            let matches = |field: &&str| {
                if field.len() == 1 { **field == *name } else { field.eq_ignore_ascii_case(name) }
            };
            let known = fields.iter().position(matches);
            if let Some(known) = known.and_then(|index| values.get_mut(index))
                && known.is_empty()
            {
                value.trim().clone_into(known);
            }
        }
        Some(values)
    })
}
