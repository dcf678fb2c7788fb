//! Comparison of versions by the rules of each package manager.

use std::cmp::Ordering;

use crate::contents::Ecosystem;

/// Compares two versions of packages by the rules of their package manager. Returns `None` if one
/// of them is not a version there.
#[must_use]
pub fn compare_versions(ecosystem: Ecosystem, a: &str, b: &str) -> Option<Ordering> {
    match ecosystem {
        Ecosystem::Apk => Some(ApkVersion::parse(a)?.cmp(&ApkVersion::parse(b)?)),
        Ecosystem::Deb => {
            let parsed = |text: &str| text.parse::<debversion::Version>().ok();
            Some(parsed(a)?.cmp(&parsed(b)?))
        }
        Ecosystem::Rpm => Some(compare_rpm(a, b)),
    }
}

/// Returns the epoch of a version: 0 if it names none. apk has none.
#[must_use]
pub fn epoch(ecosystem: Ecosystem, version: &str) -> &str {
    let named = version.split_once(':').filter(|_| ecosystem != Ecosystem::Apk);
    let epoch = named.map_or("", |(epoch, _)| epoch.trim_start_matches('0'));
    if epoch.is_empty() { "0" } else { epoch }
}

/// Compares as RPM compares dependencies: the release counts only if both have one.
fn compare_rpm(a: &str, b: &str) -> Ordering {
    match (a.rsplit_once('-'), b.rsplit_once('-')) {
        (Some((a, _)), None) => rpm_version::rpm_evr_compare(a, b),
        (None, Some((b, _))) => rpm_version::rpm_evr_compare(a, b),
        _ => rpm_version::rpm_evr_compare(a, b),
    }
}

/// A version of apk: numbers, a letter, suffixes, a hash that does not count, and a revision.
///
/// `1.2.3b_rc1_p2-r4`. As in apk 3, a number after the first that begins with a zero compares as a
/// text: 1.01 is lower than 1.1.
#[derive(PartialEq, Eq)]
struct ApkVersion<'v> {
    numbers: Vec<&'v str>,
    letter: Option<u8>,
    suffixes: Vec<(ApkSuffix, &'v str)>,
    revision: &'v str,
}

/// What may follow the numbers of a version: before [`ApkSuffix::None`] what precedes a release.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum ApkSuffix {
    Alpha,
    Beta,
    Pre,
    Rc,
    None,
    Cvs,
    Svn,
    Git,
    Hg,
    P,
}

const APK_SUFFIXES: [(&str, ApkSuffix); 9] = [
    ("alpha", ApkSuffix::Alpha),
    ("beta", ApkSuffix::Beta),
    ("pre", ApkSuffix::Pre),
    ("rc", ApkSuffix::Rc),
    ("cvs", ApkSuffix::Cvs),
    ("svn", ApkSuffix::Svn),
    ("git", ApkSuffix::Git),
    ("hg", ApkSuffix::Hg),
    ("p", ApkSuffix::P),
];

impl<'v> ApkVersion<'v> {
    fn parse(text: &'v str) -> Option<Self> {
        let (text, revision) = match text.rsplit_once("-r") {
            Some((text, revision)) if is_number(revision) => (text, revision),
            _ => (text, ""),
        };
        let text = text.split_once('~').map_or(text, |(text, _)| text);
        let mut parts = text.split('_');
        let mut numbers: Vec<&str> = parts.next()?.split('.').collect();
        let last = numbers.last_mut()?;
        let letter = last.bytes().next_back().filter(u8::is_ascii_lowercase);
        if letter.is_some() {
            *last = last.get(..last.len() - 1)?;
        }
        let suffix = |part: &'v str| {
            let digits = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
            let (name, number) = part.split_at_checked(digits)?;
            let (_, suffix) = APK_SUFFIXES.iter().find(|(known, _)| *known == name)?;
            (number.is_empty() || is_number(number)).then_some((*suffix, number))
        };
        let suffixes = parts.map(suffix).collect::<Option<_>>()?;
        numbers.iter().all(|number| is_number(number)).then_some(Self {
            numbers,
            letter,
            suffixes,
            revision,
        })
    }
}

impl Ord for ApkVersion<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_numbers(&self.numbers, &other.numbers)
            .then_with(|| self.letter.cmp(&other.letter))
            .then_with(|| compare_suffixes(&self.suffixes, &other.suffixes))
            .then_with(|| compare_decimal(self.revision, other.revision))
    }
}

impl PartialOrd for ApkVersion<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_numbers(a: &[&str], b: &[&str]) -> Ordering {
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let as_texts = index > 0 && (a.starts_with('0') || b.starts_with('0'));
        let order = if as_texts { a.cmp(b) } else { compare_decimal(a, b) };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn compare_suffixes(a: &[(ApkSuffix, &str)], b: &[(ApkSuffix, &str)]) -> Ordering {
    for index in 0..a.len().max(b.len()) {
        let (suffix, number) = a.get(index).copied().unwrap_or((ApkSuffix::None, ""));
        let (other_suffix, other_number) = b.get(index).copied().unwrap_or((ApkSuffix::None, ""));
        let order = suffix.cmp(&other_suffix).then_with(|| compare_decimal(number, other_number));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Compares decimal numbers of any length. An empty text is 0.
fn compare_decimal(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
