//! The two dates of an image. They follow from the inputs of the build alone, so that the same
//! inputs give the same image.
//!
//! - The date of the configuration is also the date of each file that the build writes. It is
//!   therefore that of the base, with which the files change anyway. With the date of any other
//!   input, each commit and each move of a parent that is only copied from would change the files
//!   of every image, and no rebuild would ever be unchanged (`policy.cutoff`).
//! - The annotation `org.opencontainers.image.created` changes no file. It is the newest date of
//!   all inputs.

use std::{collections::BTreeMap, fs};

use jiff::Timestamp;

use crate::{
    api::EdgeUse,
    builds::{
        dockerfile::DeclaredEdge,
        pod_paths,
        prepare::{
            PodPaths, disk_error, error::PrepareError, parents::ParentImage, spec::PrepareSpec,
        },
    },
};

/// The build argument with the date of the configuration. A family may set it.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Start of 2013, in seconds since 1970: no container image is older. Builders that date nothing
/// write 1970 or 1980.
const EARLIEST: i64 = 1_356_998_400;

/// The dates of the image that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageDates {
    /// The date of the configuration and of the files.
    config: Timestamp,
    /// The date of the annotation.
    annotation: Timestamp,
}

impl ImageDates {
    /// Returns the dates that follow from the parents, parallel to `spec.parents`, and from the
    /// time of the source's commit.
    ///
    /// A time before 2013 or after `now` says nothing about the input, and is ignored. It is not
    /// replaced by `now`, which differs from build to build.
    pub fn of(
        spec: &PrepareSpec,
        parents: &[ParentImage],
        commit: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let plausible = |time: &Timestamp| time.as_second() >= EARLIEST && *time <= now;
        let base_date = |(edge, parent): (&DeclaredEdge, &ParentImage)| {
            let is_base = edge.usage == EdgeUse::Base;
            // A new date alone changes no layer of the base, and shall change none of the image.
            let dates = [parent.newest_layer, parent.created].into_iter().flatten();
            dates.filter(plausible).find(|_| is_base)
        };
        let config = requested(&spec.args).unwrap_or_else(|| {
            let bases = spec.parents.iter().zip(parents).filter_map(base_date);
            bases.max().unwrap_or(Timestamp::UNIX_EPOCH)
        });
        let inputs = parents.iter().filter_map(|parent| parent.created).chain(commit);
        let annotation = inputs.filter(plausible).chain([config]).max().unwrap_or(config);
        Self { config, annotation }
    }

    /// Returns the dates as variables of a shell. They contain nothing that a shell interprets.
    fn to_shell(self) -> String {
        let Self { config, annotation } = self;
        format!("{SOURCE_DATE_EPOCH}={}\nCREATED={annotation:.0}\n", config.as_second())
    }

    /// Writes the dates for the builder.
    pub fn write(self, paths: &PodPaths) -> Result<(), PrepareError> {
        let path = paths.root.join(pod_paths::DATES.trim_start_matches('/'));
        fs::write(&path, self.to_shell()).map_err(|error| disk_error(&path, &error))
    }
}

/// Returns the date that the family sets with a build argument.
fn requested(args: &BTreeMap<String, String>) -> Option<Timestamp> {
    let seconds = args.get(SOURCE_DATE_EPOCH)?.parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn spec(parents: &[(&str, &str)], args: &Value) -> PrepareSpec {
        let parents: Vec<Value> = parents
            .iter()
            .map(|(pinned, usage)| {
                json!({"name": "p", "pinned": pinned, "reference": "p", "use": usage})
            })
            .collect();
        serde_json::from_value(json!({
            "userNamespace": "Required", "image": "registry.example.com/web:gs-1",
            "source": {"type": "inline", "dockerfile": "FROM p"}, "parents": parents,
            "args": args, "target": null, "platform": "linux/amd64", "credentials": [],
            "registries": {},
        }))
        .expect("a spec")
    }

    fn parent(created: &str, newest_layer: &str) -> ParentImage {
        let time = |text: &str| (!text.is_empty()).then(|| at(text));
        ParentImage {
            created: time(created),
            newest_layer: time(newest_layer),
            ..ParentImage::default()
        }
    }

    #[test]
    fn files_get_the_date_of_the_base_and_the_annotation_the_newest_of_all_inputs() {
        let base_and_copy = [("a", "Base"), ("b", "BuildStage")];
        let now = at("2026-06-01T00:00:00Z");
        let commit = Some(at("2026-05-01T00:00:00Z"));
        for (parents, commit, config, annotation) in [
            (
                [parent("2026-01-02T00:00:00.5Z", ""), parent("2026-02-01T00:00:00Z", "")],
                None,
                "2026-01-02T00:00:00Z",
                "2026-02-01T00:00:00Z",
            ),
            // Only the base has a new date, and no new layer.
            (
                [parent("2026-04-01T00:00:00Z", "2026-01-02T00:00:00Z"), parent("", "")],
                None,
                "2026-01-02T00:00:00Z",
                "2026-04-01T00:00:00Z",
            ),
            (
                [parent("2026-01-02T00:00:00Z", ""), parent("2026-02-01T00:00:00Z", "")],
                commit,
                "2026-01-02T00:00:00Z",
                "2026-05-01T00:00:00Z",
            ),
            // Placeholders, a time in the future, and nothing at all.
            (
                [parent("1970-01-01T00:00:01Z", "1980-01-01T00:00:00Z"), parent("", "")],
                commit,
                "1970-01-01T00:00:00Z",
                "2026-05-01T00:00:00Z",
            ),
            (
                [
                    parent("2026-06-01T00:00:01Z", "2026-01-02T00:00:00Z"),
                    parent("9999-01-01T00:00:00Z", ""),
                ],
                Some(Timestamp::MAX),
                "2026-01-02T00:00:00Z",
                "2026-01-02T00:00:00Z",
            ),
            (
                [parent("", ""), parent("", "")],
                None,
                "1970-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
            ),
        ] {
            let dates = ImageDates::of(&spec(&base_and_copy, &json!({})), &parents, commit, now);
            let shell =
                format!("SOURCE_DATE_EPOCH={}\nCREATED={annotation}\n", at(config).as_second());
            assert_eq!(dates.to_shell(), shell, "{parents:?}");
        }
    }

    #[test]
    fn a_family_may_set_the_date() {
        let parents = [parent("2026-01-02T00:00:00Z", "")];
        for (value, config) in [
            ("1767225600", "2026-01-01T00:00:00Z"),
            ("x", "2026-01-02T00:00:00Z"),
            ("99999999999999999999", "2026-01-02T00:00:00Z"),
            ("9223372036854775807", "2026-01-02T00:00:00Z"),
        ] {
            let spec = spec(&[("a", "Base")], &json!({"SOURCE_DATE_EPOCH": value}));
            let now = at("2026-06-01T00:00:00Z");
            let dates = ImageDates::of(&spec, &parents, None, now);
            assert_eq!(dates.config, at(config), "{value}");
        }
    }
}
