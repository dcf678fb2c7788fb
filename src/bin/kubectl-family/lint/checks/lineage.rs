//! Rules about what a Dockerfile says against those of the images below it.

use std::collections::{BTreeMap, BTreeSet};

use crate::lint::{
    dockerfile::FinalStage,
    rules::RuleReports,
    subject::{LintedEstate, LintedImage},
};

/// Labels that describe one image, and are wrong for one that is built on it.
const OWN_LABELS: [&str; 7] = [
    "org.opencontainers.image.description",
    "org.opencontainers.image.documentation",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.source",
    "org.opencontainers.image.title",
    "org.opencontainers.image.url",
    "org.opencontainers.image.version",
];
/// Number of packages in common from which two images are near-duplicates.
const MIN_COMMON_PACKAGES: usize = 3;

/// Reports images that are back at root.
pub fn root_again(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for image in estate.images() {
        let Some((user, line)) = image.stage().and_then(|stage| stage.user.as_ref()) else {
            continue;
        };
        let below = image.bases().find_map(|base| {
            let (user, _) = base.stage()?.user.as_ref()?;
            Some((base.spec.name.as_str(), user.as_str()))
        });
        if let Some((base, dropped)) = below
            && is_root(user)
            && !is_root(dropped)
        {
            let message = format!(
                "the image runs as `{user}` although {base} runs as `{dropped}`; end with \
                 USER {dropped}"
            );
            image.report(reports, Some(*line), message);
        }
    }
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "root" | "") || name.bytes().all(|byte| byte == b'0')
}

/// Reports packages that an image below installs already.
pub fn repeated_package(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        let mut reported = BTreeSet::new();
        for package in &stage.packages {
            let name = package.name.as_str();
            let installs = |base: &LintedImage<'_>| {
                base.stage().is_some_and(|stage| {
                    let mut packages = stage.packages.iter();
                    packages.any(|other| other.manager == package.manager && other.name == name)
                })
            };
            if let Some(base) = image.bases().find(installs)
                && reported.insert(name)
            {
                let message = format!("{} installs {name} already", base.spec.name);
                image.report(reports, Some(package.line), message);
            }
        }
    }
}

/// Reports files that are copied over those of an image below.
pub fn repeated_file(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, stage) in with_stages(estate) {
        for (file, line) in copied_files(stage) {
            let copies = |base: &LintedImage<'_>| {
                base.stage().is_some_and(|stage| copied_files(stage).contains_key(&file))
            };
            if let Some(base) = image.bases().find(copies) {
                let message = format!("{} copies {file} already; both are pulled", base.spec.name);
                image.report(reports, Some(line), message);
            }
        }
    }
}

/// Returns the absolute paths to which single files are copied, with the last line that does.
fn copied_files(stage: &FinalStage) -> BTreeMap<String, usize> {
    let copies =
        stage.instructions.iter().filter(|one| matches!(one.keyword.as_str(), "COPY" | "ADD"));
    copies
        .filter_map(|copy| {
            let words: Vec<&str> = copy.rest.split_whitespace().collect();
            let [source, target] = words.as_slice() else { return None };
            let name =
                source.rsplit('/').next().filter(|name| name.contains('.') && *name != ".")?;
            let plain = !source.contains(['*', '?', '$']) && !target.contains('$');
            let target = match target.strip_suffix('/') {
                Some(folder) => format!("{folder}/{name}"),
                // Without an extension it may be a folder.
                None => (*target).to_owned(),
            };
            let is_file = target.rsplit('/').next().is_some_and(|name| name.contains('.'));
            (plain && is_file && target.starts_with('/')).then_some((target, copy.line))
        })
        .collect()
}

/// Reports labels that describe an image below.
pub fn label_inherited(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for (image, _) in with_stages(estate) {
        for label in OWN_LABELS {
            if sets_label(&image, label).is_some() {
                continue;
            }
            let below = image.bases().find_map(|base| Some((base, sets_label(&base, label)?)));
            if let Some((base, value)) = below.filter(|(_, value)| !value.is_empty()) {
                let message =
                    format!("{label} is `{value}`, which describes {}; set it", base.spec.name);
                image.report(reports, None, message);
            }
        }
    }
}

/// Returns the value of a label that the image itself sets.
pub fn sets_label<'f>(image: &LintedImage<'f>, label: &str) -> Option<&'f str> {
    let of_spec = image.spec.labels.get(label).map(String::as_str);
    of_spec.or_else(|| image.stage()?.labels.get(label).map(|(value, _)| value.as_str()))
}

/// Reports images on the same parent that install nearly the same packages.
pub fn near_duplicate(estate: &LintedEstate<'_>, reports: &mut RuleReports) {
    for family in &estate.families {
        let mut siblings: BTreeMap<String, Vec<(LintedImage<'_>, BTreeSet<&str>)>> =
            BTreeMap::new();
        for image in family.images() {
            let Some(stage) = image.stage() else { continue };
            let packages = stage.package_names();
            if packages.len() >= MIN_COMMON_PACKAGES {
                let parents = family.family.blueprint.lineage.parents(image.index);
                siblings.entry(format!("{parents:?}")).or_default().push((image, packages));
            }
        }
        for group in siblings.values() {
            for (position, (image, packages)) in group.iter().enumerate() {
                let mut before = group.iter().take(position);
                let twin = before.find(|(_, others)| are_near(packages, others));
                if let Some((twin, others)) = twin {
                    let message = format!(
                        "{} packages are those of {}, on the same parent; put them into an image \
                         below both",
                        packages.intersection(others).count(),
                        twin.spec.name
                    );
                    image.report(reports, None, message);
                }
            }
        }
    }
}

/// Whether four of five packages of two images are the same.
fn are_near(a: &BTreeSet<&str>, b: &BTreeSet<&str>) -> bool {
    let common = a.intersection(b).count();
    common >= MIN_COMMON_PACKAGES && common * 5 >= a.union(b).count() * 4
}

/// Returns the images whose final stage is known.
fn with_stages<'a>(
    estate: &'a LintedEstate<'a>,
) -> impl Iterator<Item = (LintedImage<'a>, &'a FinalStage)> {
    estate.images().filter_map(|image| Some((image, image.stage()?)))
}
