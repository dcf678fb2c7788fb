//! Families that import from one another, against a naive check.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use proptest::prelude::*;

use crate::{
    api::{
        Edge, Export, FamilyRef, Image, ImageFamily, ImageFamilySpec,
        condition::{Problem, Reason},
    },
    lineage::families::*,
};

/// Families by `namespace/name`.
#[derive(Clone, Debug, Default)]
struct FamilyMap(BTreeMap<String, ImageFamily>);

impl FamilyReader for FamilyMap {
    fn family(&self, name: &FamilyName) -> FamilyLookup {
        if name.namespace == "hidden" {
            return FamilyLookup::NotWatched;
        }
        self.0
            .get(&name.to_string())
            .map_or(FamilyLookup::NotFound, |family| FamilyLookup::Found(Arc::new(family.clone())))
    }
}

impl FamilyMap {
    /// Creates families, named `namespace/name`.
    fn new(families: &[(&str, ImageFamily)]) -> Self {
        let families = families.iter().cloned();
        Self(families.map(|(name, family)| (name.to_owned(), family)).collect())
    }

    fn check(&self, name: &str) -> Survey {
        check_imports(&family_name(name), &self.0[name].spec, self)
    }

    /// Returns the message of each import's problem; empty if there is none.
    fn problems(&self, name: &str) -> Vec<String> {
        let imports = self.check(name).imports.into_iter();
        imports
            .map(|(_, problem)| problem.map_or_else(String::new, |problem| problem.to_string()))
            .collect()
    }
}

/// Creates a family from images, `("image", "parent namespace/family.parent")`, and exports,
/// `"image"` or `"image:namespace,*"`.
fn family(images: &[(&str, &str)], exports: &[&str]) -> ImageFamily {
    let images = images.iter().map(|(name, parents)| Image {
        name: (*name).into(),
        from: parents.split_whitespace().map(edge).collect(),
        ..Image::default()
    });
    let exports = exports.iter().map(|export| {
        let (image, namespaces) = export.split_once(':').unwrap_or((export, ""));
        let namespaces = namespaces.split(',').filter(|namespace| !namespace.is_empty());
        Export { image: image.into(), namespaces: namespaces.map(str::to_owned).collect() }
    });
    let spec = ImageFamilySpec {
        images: images.collect(),
        exports: exports.collect(),
        ..ImageFamilySpec::default()
    };
    ImageFamily { spec, ..ImageFamily::default() }
}

fn edge(parent: &str) -> Edge {
    let Some((family, image)) = parent.split_once('.') else {
        return Edge { image: Some(parent.into()), ..Edge::default() };
    };
    let family = match family.split_once('/') {
        Some((namespace, name)) => {
            FamilyRef { namespace: Some(namespace.into()), name: name.into() }
        }
        None => FamilyRef { namespace: None, name: family.into() },
    };
    Edge { family: Some(family), image: Some(image.into()), ..Edge::default() }
}

fn family_name(text: &str) -> FamilyName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    FamilyName { namespace: namespace.into(), name: name.into() }
}

#[test]
fn an_export_applies_to_an_image_and_a_namespace() {
    let base: &[(&str, &str)] = &[("base", ""), ("tools", ""), ("secret", "")];
    let exports: &[&str] = &["base", "tools:team-b,team-c"];
    let app = |parents| family(&[("app", parents)], &[]);
    let map = FamilyMap::new(&[
        ("team-a/python", family(base, exports)),
        ("team-a/own", app("python.base python.tools python.secret")),
        ("team-b/web", app("team-a/python.tools team-a/python.base team-a/python.tools")),
        ("team-d/all", family(base, &["base:*"])),
        ("team-b/star", app("team-d/all.base")),
    ]);
    let python = "of team-a/python, which does not export it";
    let own = map.problems("team-a/own");
    assert_eq!(
        (own[0].as_str(), own[1].as_str()),
        ("", ""),
        "its own namespace needs no entry in `namespaces`"
    );
    assert!(own[2].contains(&format!(
        "spec.images[app].from names the image `secret` {python}: ask its owner"
    )));
    let web = map.problems("team-b/web");
    assert_eq!((web.len(), web[0].as_str()), (2, ""), "each import is listed once");
    assert!(web[1].contains(&format!("`base` {python} to the namespace team-b")), "{web:?}");
    assert!(web[1].contains("spec.exports[base].namespaces"), "{web:?}");
    assert_eq!(map.problems("team-b/star"), [""]);
}

#[test]
fn missing_families_and_images_are_reported() {
    let map = FamilyMap::new(&[
        ("team-a/python", family(&[("base", "")], &["base:*", "gone:*"])),
        (
            "team-b/web",
            family(
                &[
                    (
                        "app",
                        "team-a/pyhton.base team-a/python.gone hidden/x.y team-b/web.tool web.tool",
                    ),
                    ("tool", ""),
                ],
                &["tool"],
            ),
        ),
    ]);
    let survey = map.check("team-b/web");
    let problems: Vec<Problem> = survey
        .imports
        .iter()
        .filter_map(|(_, problem)| problem.clone())
        .map(Problem::from)
        .collect();
    let expected = [
        (Reason::ImportRefused, "the ImageFamily team-a/pyhton, which does not exist"),
        (Reason::ImportRefused, "the image `gone`, which team-a/python does not have"),
        (
            Reason::ImportRefused,
            "the ImageFamily hidden/x, whose namespace this operator does not watch",
        ),
        (Reason::InvalidSpec, "the image `tool` of its own family: remove `family`"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, (reason, part)) in problems.iter().zip(expected) {
        assert_eq!(problem.reason, reason);
        assert!(problem.message.contains(part), "{}", problem.message);
    }
    let consulted: Vec<String> =
        survey.consulted.iter().map(|consulted| consulted.family.to_string()).collect();
    assert_eq!(
        consulted,
        ["team-a/pyhton", "team-a/python"],
        "including the family that may be created later"
    );
}

#[test]
fn a_cycle_is_detected_between_images_not_families() {
    let map = |z: &str| {
        FamilyMap::new(&[
            ("ns/a", family(&[("x", "b.y"), ("z", z), ("free", "")], &["z", "free"])),
            ("ns/b", family(&[("y", "mid"), ("mid", "a.z")], &["y"])),
        ])
    };
    assert_eq!(map("free").problems("ns/a"), [""], "two families may depend on each other");
    assert_eq!(map("free").problems("ns/b"), [""]);

    let cycle = map("x");
    let path = "ns/a.x -> ns/b.y -> ns/b.mid -> ns/a.z -> ns/a.x";
    assert!(cycle.problems("ns/a")[0].contains(path), "{:?}", cycle.problems("ns/a"));
    assert!(
        cycle.problems("ns/b")[0].contains("ns/b.mid -> ns/a.z -> ns/a.x -> ns/b.y -> ns/b.mid")
    );
    let problem = cycle.check("ns/a").imports.remove(0).1.map(Problem::from).expect("a problem");
    assert_eq!(problem.reason, Reason::ImportRefused);
    let above = cycle.check("ns/a").consulted.remove(0);
    assert_eq!(
        (above.family.to_string().as_str(), above.images.len()),
        ("ns/b", 2),
        "the images that it depends on"
    );
}

#[test]
fn a_cycle_among_ancestors_is_reported_only_for_its_members() {
    let families = |c_exports: &[&str]| {
        FamilyMap::new(&[
            ("ns/leaf", family(&[("app", "b.y c.free")], &[])),
            ("ns/b", family(&[("y", "c.w")], &["y"])),
            ("ns/c", family(&[("w", "b.y"), ("free", "")], c_exports)),
        ])
    };
    let map = families(&["w", "free"]);
    assert_eq!(map.problems("ns/leaf"), ["", ""]);
    assert!(map.problems("ns/b")[0].contains("ns/b.y -> ns/c.w -> ns/b.y"));
    // An image that is not exported is never built from, so that no family can create a cycle
    // through a family that does not export to it.
    let withdrawn = families(&["free"]);
    assert!(withdrawn.problems("ns/b")[0].contains("does not export it"));
    assert_eq!(withdrawn.problems("ns/c"), [""]);
}

#[test]
fn the_number_of_visited_images_is_bounded() {
    let chain: Vec<(String, String)> = (0..MAX_IMAGES)
        .map(|place| {
            (
                format!("i{place}"),
                if place == 0 { String::new() } else { format!("i{}", place - 1) },
            )
        })
        .collect();
    let chain: Vec<(&str, &str)> =
        chain.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let top = chain.last().expect("images").0;
    let map = FamilyMap::new(&[
        ("ns/tall", family(&chain, &[top, "i0"])),
        ("ns/app", family(&[("app", &format!("tall.{top}"))], &[])),
        ("ns/low", family(&[("app", "tall.i0")], &[])),
    ]);
    assert_eq!(map.check("ns/app").imports[0].1, Some(ImportProblem::TooManyAncestors));
    assert_eq!(map.problems("ns/low"), [""], "only ancestors are visited");
}

/// Families `n0/f0` to `n1/f3` of four images each. Within a family edges point to earlier images;
/// between families to any image.
fn family_maps() -> impl Strategy<Value = FamilyMap> {
    let edge = (0..4_usize, 0..4_usize);
    let image = prop::collection::vec(edge, 0..3);
    let export = prop::option::of(0..3_usize);
    let drawn = (prop::collection::vec(image, 4), prop::collection::vec(export, 4));
    prop::collection::vec(drawn, 4).prop_map(|families| {
        let name = |family: usize| format!("n{}/f{family}", family % 2);
        let families = families.into_iter().enumerate().map(|(index, (images, exports))| {
            let images: Vec<(String, String)> = images
                .into_iter()
                .enumerate()
                .map(|(place, edges)| {
                    let parents = edges.into_iter().filter_map(|(family, image)| {
                        if family == index {
                            (image < place).then(|| format!("i{image}"))
                        } else {
                            Some(format!("{}.i{image}", name(family)))
                        }
                    });
                    (format!("i{place}"), parents.collect::<Vec<_>>().join(" "))
                })
                .collect();
            let exports: Vec<String> = exports
                .into_iter()
                .enumerate()
                .filter_map(|(place, to)| Some(format!("i{place}:{}", ["n0", "n1", "*"][to?])))
                .collect();
            let images: Vec<(&str, &str)> =
                images.iter().map(|(name, from)| (name.as_str(), from.as_str())).collect();
            (name(index), family(&images, &exports.iter().map(String::as_str).collect::<Vec<_>>()))
        });
        FamilyMap(families.collect())
    })
}

/// Returns whether a family may use an image, according to the definition of exports.
fn consents(map: &FamilyMap, user: &FamilyName, import: &ImageName) -> bool {
    let exporter = &map.0[&import.family.to_string()].spec;
    exporter.exports.iter().any(|export| {
        let all = export
            .namespaces
            .iter()
            .any(|namespace| namespace == "*" || *namespace == user.namespace);
        export.image == import.image && (all || user.namespace == import.family.namespace)
    })
}

/// Returns whether `to` is an ancestor of `from`, or `from` itself, along edges that may be used.
fn reaches(map: &FamilyMap, from: &ImageName, to: &ImageName) -> bool {
    let (mut stack, mut visited) = (vec![from.clone()], HashSet::new());
    while let Some(name) = stack.pop() {
        if name == *to {
            return true;
        }
        if !visited.insert(name.clone()) {
            continue;
        }
        let spec = &map.0[&name.family.to_string()].spec;
        for edge in spec
            .images
            .iter()
            .filter(|image| image.name == name.image)
            .flat_map(|image| &image.from)
        {
            match import(&name.family, edge) {
                Some(import) if consents(map, &name.family, &import) => stack.push(import),
                Some(_) => {}
                None => stack.extend(
                    edge.image
                        .clone()
                        .map(|image| ImageName { family: name.family.clone(), image }),
                ),
            }
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_naive_check(map in family_maps()) {
        for (name, family) in &map.0 {
            let of = family_name(name);
            for (wanted, problem) in map.check(name).imports {
                let consent = consents(&map, &of, &wanted);
                let users = family.spec.images.iter().filter(|image| {
                    image.from.iter().any(|edge| import(&of, edge).as_ref() == Some(&wanted))
                });
                let is_cyclic = consent
                    && users.into_iter().any(|user| {
                        reaches(
                            &map,
                            &wanted,
                            &ImageName { family: of.clone(), image: user.name.clone() },
                        )
                    });
                match &problem {
                    None => prop_assert!(consent && !is_cyclic, "{name}: {wanted} has no problem"),
                    Some(ImportProblem::Cycle { path }) => {
                        prop_assert!(is_cyclic, "{name}: {path:?} is no cycle");
                        prop_assert_eq!(path.first(), path.last());
                        prop_assert_eq!(&path[1], &wanted.to_string());
                    }
                    Some(
                        ImportProblem::NotExported { .. }
                        | ImportProblem::NotExportedToNamespace { .. },
                    ) => prop_assert!(!consent),
                    Some(other) => prop_assert!(false, "{other}"),
                }
            }
        }
    }
}
