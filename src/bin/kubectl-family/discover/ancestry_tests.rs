//! Tests of which image is built on which.

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// An image of these layers, each of which one command has made. A command that begins with `!` has
/// made none.
fn image(name: &str, layers: &[&str]) -> DiscoveredImage {
    let made = |command: &&&str| !command.starts_with('!');
    let diff_ids: Vec<Digest> = layers.iter().filter(made).map(|layer| digest(layer)).collect();
    let history = layers.iter().map(|command| HistoryStep {
        command: digest(command.split('#').next().unwrap_or_default()),
        is_empty_layer: command.starts_with('!'),
    });
    DiscoveredImage {
        names: vec![format!("r.example/{name}").parse().expect("a reference")],
        digest: digest(name),
        image_digest: digest(name),
        platform_digests: Vec::new(),
        created: None,
        base: AnnotatedBase::default(),
        layers: Vec::new(),
        diff_ids,
        history: history.collect(),
        labels: BTreeMap::new(),
    }
}

fn annotated(image: DiscoveredImage, name: &str, digest: Option<Digest>) -> DiscoveredImage {
    let name = Some(name.parse().expect("a reference"));
    DiscoveredImage { base: AnnotatedBase { name, digest }, ..image }
}

fn on(index: usize) -> FoundBase {
    FoundBase::Image { index, evidence: BaseEvidence::Layers, is_outdated: false }
}

const NO_SUCH_LAYERS: FoundBase = FoundBase::Unknown(UnknownBase::NoSuchLayers);
const SINGLE_LAYER: FoundBase = FoundBase::Unknown(UnknownBase::SingleLayer);

#[test]
fn the_longest_chain_of_layers_is_the_base() {
    let images = [
        image("debian:1", &["os"]),
        image("base:1", &["os", "ca"]),
        image("app:1", &["os", "ca", "app"]),
        image("short-cut:1", &["os", "tool"]),
        image("other:1", &["alpine", "x"]),
    ];
    assert_eq!(bases(&images), [SINGLE_LAYER, on(0), on(1), on(0), NO_SUCH_LAYERS]);
}

#[test]
fn steps_without_a_layer_show_which_image_is_the_base() {
    let images = [
        image("base:1", &["os", "ca"]),
        image("configured:1", &["os", "ca", "!ENV A"]),
        image("app:1", &["os", "ca", "!ENV A", "app"]),
        image("plain:1", &["os", "ca", "app2"]),
    ];
    assert_eq!(bases(&images), [NO_SUCH_LAYERS, on(0), on(1), on(0)]);
}

#[test]
fn a_sibling_on_a_base_that_was_not_read_is_no_base() {
    let images = [
        image("a:1", &["os", "!ENV X", "!CMD a"]),
        image("b:1", &["os", "b"]),
        image("c:1", &["os", "!ENV X", "!CMD a", "c"]),
    ];
    assert_eq!(bases(&images), [SINGLE_LAYER, NO_SUCH_LAYERS, on(0)]);
}

#[test]
fn a_digest_in_the_name_of_an_annotation_is_no_tag() {
    let images = [
        image("base:latest", &["os", "ca"]),
        annotated(image("app:1", &["x", "y"]), "r.example/base", None),
    ];
    let earlier: Reference =
        format!("r.example/base@{}", digest("earlier")).parse().expect("a reference");
    let mut app = images[1].clone();
    app.base = AnnotatedBase { digest: earlier.digest(), name: Some(earlier.clone()) };
    assert_eq!(bases(&[images[0].clone(), app])[1], FoundBase::Elsewhere(earlier));
    let evidence = BaseEvidence::Annotation;
    assert_eq!(bases(&images)[1], FoundBase::Image { index: 0, evidence, is_outdated: false });
}

#[test]
fn the_digest_of_another_platform_belongs_to_the_same_build() {
    let mut base = image("base:1", &["os", "ca"]);
    base.platform_digests = vec![digest("amd64"), digest("arm64")];
    let app = annotated(image("app:1", &["x"]), "r.example/base:1", Some(digest("arm64")));
    let evidence = BaseEvidence::Annotation;
    assert_eq!(bases(&[base, app])[1], FoundBase::Image { index: 0, evidence, is_outdated: false });
}

#[test]
fn equal_images_are_ambiguous() {
    let images = [
        image("a:1", &["os", "ca"]),
        image("b:1", &["os", "ca"]),
        image("app:1", &["os", "ca", "app"]),
    ];
    assert_eq!(bases(&images)[2], FoundBase::Ambiguous(vec![0, 1]));
}

#[test]
fn an_earlier_build_of_a_base_is_never_taken_for_the_image_below_it() {
    // `app` was built before `base` was rebuilt: the same commands have made another layer.
    let images = [
        image("debian:1", &["os"]),
        image("base:1", &["os", "ca#2"]),
        image("app:1", &["os", "ca#1", "app"]),
    ];
    assert_eq!(bases(&images)[2], FoundBase::Ambiguous(vec![0, 1]));
    let known = annotated(images[2].clone(), "r.example/base:1", Some(digest("earlier")));
    let [debian, base, _] = images;
    assert_eq!(
        bases(&[debian, base, known])[2],
        FoundBase::Image { index: 1, evidence: BaseEvidence::Annotation, is_outdated: true }
    );
}

#[test]
fn an_image_is_behind_although_a_tag_of_the_earlier_build_exists() {
    let images = [
        image("base:1", &["os", "ca#2"]),
        image("base:1-r1", &["os", "ca#1"]),
        annotated(
            image("app:1", &["os", "ca#1", "app"]),
            "r.example/base:1",
            Some(digest("base:1-r1")),
        ),
        annotated(
            image("pinned:1", &["os", "ca#1", "b"]),
            "r.example/base:1-r1",
            Some(digest("base:1-r1")),
        ),
    ];
    let evidence = BaseEvidence::Annotation;
    let found = bases(&images);
    assert_eq!(found[2], FoundBase::Image { index: 0, evidence, is_outdated: true });
    assert_eq!(found[3], FoundBase::Image { index: 1, evidence, is_outdated: false });
}

#[test]
fn an_annotation_decides() {
    let squashed = image("squashed:1", &["all"]);
    let images = [
        image("base:1", &["os", "ca"]),
        annotated(squashed.clone(), "r.example/base:1", Some(digest("base:1"))),
        annotated(squashed.clone(), "docker.io/library/alpine:3.20", None),
        squashed,
    ];
    let found = bases(&images);
    let evidence = BaseEvidence::Annotation;
    assert_eq!(found[1], FoundBase::Image { index: 0, evidence, is_outdated: false });
    let alpine = "docker.io/library/alpine:3.20".parse().expect("a reference");
    assert_eq!(found[2], FoundBase::Elsewhere(alpine));
    assert_eq!(found[3], SINGLE_LAYER);
}

#[test]
fn annotations_that_name_each_other_are_not_believed() {
    let images = [
        annotated(image("a:1", &["x", "y"]), "r.example/b:1", None),
        annotated(image("b:1", &["z", "y"]), "r.example/a:1", None),
        annotated(image("c:1", &["z", "q"]), "r.example/a:1", None),
    ];
    let found = bases(&images);
    assert_eq!(found[..2], vec![FoundBase::Unknown(UnknownBase::Cycle); 2]);
    assert!(matches!(found[2], FoundBase::Image { index: 0, .. }));
}

#[test]
fn a_history_that_does_not_fit_the_layers_is_not_used() {
    let mut base = image("base:1", &["os", "ca"]);
    base.history.clear();
    let mut app = image("app:1", &["os", "ca", "app"]);
    app.history.truncate(1);
    assert_eq!(bases(&[base, app])[1], on(0));
}
