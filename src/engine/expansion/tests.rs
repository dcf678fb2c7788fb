//! Rules of the expansion, one test each.

use serde_json::{Value, json};

use super::*;
use crate::{engine::validate::validate, lineage::ImageIndex};

/// Expands a spec with two upstreams and these fields.
fn expanded(fields: Value) -> ImageFamilySpec {
    let upstream = |name: &str| {
        json!({"name": name, "image": "docker.io/library/x",
        "follow": {"tag": name}})
    };
    let mut spec = json!({"repository": "registry.example.com/platform",
        "upstreams": [upstream("trixie"), upstream("bookworm")]});
    let spec_fields = spec.as_object_mut().expect("an object");
    let Value::Object(fields) = fields else { panic!("fields") };
    spec_fields.extend(fields);
    expand(serde_json::from_value(spec).expect("a spec"))
}

/// An image on the upstream `trixie`, with these fields in addition or instead.
fn image(fields: Value) -> Value {
    let mut image = json!({"name": "python", "from": [{"upstream": "trixie"}],
        "source": {"inline": "FROM trixie"}});
    let Value::Object(fields) = fields else { panic!("fields") };
    image.as_object_mut().expect("an object").extend(fields);
    image
}

fn names(spec: &ImageFamilySpec) -> Vec<&str> {
    spec.images.iter().map(|image| image.name.as_str()).collect()
}

/// The only problem of a spec that leaves out one image.
fn problem(spec: &ImageFamilySpec) -> &Problem {
    let [left_out] = spec.left_out.as_slice() else { panic!("{:?}", spec.left_out) };
    &left_out.problem
}

/// The message of an image that is the only one that is left out. A plain sibling goes on.
fn message(fields: Value) -> String {
    let sibling = image(json!({"name": "sibling"}));
    let spec = expanded(json!({"images": [image(fields), sibling]}));
    assert!(names(&spec).contains(&"sibling"), "{:?}", spec.left_out);
    let messages = spec.left_out.iter().map(|left_out| left_out.problem.message.as_str());
    messages.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_plain_spec_stays_as_it_is() {
    let git = json!({"git": {"url": "https://git.example.com/a", "revision": "main"}});
    let checks = json!([{"name": "c", "command": ["x", "{{.Os}}"]}]);
    let images = [
        image(json!({"args": {"A": "{{ x }}"}, "checks": checks})),
        image(json!({"name": "b", "source": git})),
    ];
    let spec = expanded(json!({"images": images}));
    assert_eq!(spec.left_out, []);
    assert_eq!(names(&spec), ["python", "b"]);
    assert_eq!(spec.images[0].args["A"], "{{ x }}", "no template without a matrix");
    assert_eq!(spec.images[0].checks[0].command[1], "{{.Os}}");
    let git = spec.images[1].source.git.as_ref().expect("git");
    assert_eq!((git.dockerfile.as_str(), git.interval().as_secs()), ("Dockerfile", 300));
    assert_eq!(expand(spec.clone()), spec);
}

#[test]
fn a_matrix_gives_every_combination_that_is_not_excluded() {
    let matrix = json!({"python": ["3.12", "3.13"], "variant": ["", "slim", "Full_2"]});
    let exclude = json!([{"python": "3.12", "variant": "slim"}, {"variant": "Full_2"}]);
    let spec = expanded(json!({"images": [image(json!({"matrix": matrix, "exclude": exclude}))]}));
    assert_eq!(names(&spec), ["python-3-12", "python-3-13", "python-3-13-slim"]);
    let spec = expanded(json!({"images": [image(json!({"matrix": matrix}))]}));
    assert_eq!(names(&spec)[2], "python-3-12-full-2");
    assert_eq!(spec.left_out, []);
}

#[test]
fn every_field_may_name_the_values() {
    let fields = json!({
        "name": "py-{{ matrix.v }}", "matrix": {"v": ["3.12"], "os": ["trixie"]},
        "path": "python/{{ matrix.v }}", "target": "t{{ matrix.v }}",
        "from": [{"upstream": "{{ matrix.os }}", "as": "base:{{ matrix.v }}"},
            {"image": "tools-{{ matrix.v }}", "arg": "A_{{ matrix.v | replace('.', '_') }}",
                "use": "BuildStage"}],
        "args": {"V": "{{ matrix.v }}"}, "labels": {"l": "{{ name }}"},
        "tags": ["{{ matrix.v }}-{{ args.V }}-{{ name }}-r{{ build }}"],
        "source": {"git": {"url": "https://git.example.com/a", "revision": "v{{ matrix.v }}",
            "path": "{{ matrix.v }}/{{ matrix.os }}", "dockerfile": "D.{{ matrix.os }}"}},
        "strategy": {"name": "buildkit", "parameters": {"p": "{{ matrix.os }}"}},
        "checks": [{"name": "c", "command": ["run", "{{ matrix.v }}"], "args": ["{{ name }}"],
            "image": "scan:{{ matrix.v }}", "env": {"E": "{{ matrix.os }}"}}],
    });
    let tools = image(json!({"name": "tools", "matrix": {"v": ["3.12"]}}));
    let spec = expanded(json!({"images": [image(fields), tools]}));
    assert_eq!(spec.left_out, []);
    let image = &spec.images[0];
    assert_eq!(image.name, "py-3-12");
    assert_eq!(image.path.as_deref(), Some("python/3.12"));
    assert_eq!(image.target.as_deref(), Some("t3.12"));
    assert_eq!(image.from[0].upstream.as_deref(), Some("trixie"));
    assert_eq!(image.from[0].reference.as_deref(), Some("base:3.12"));
    assert_eq!(image.from[1].image.as_deref(), Some("tools-3-12"));
    assert_eq!(image.from[1].arg.as_deref(), Some("A_3_12"));
    assert_eq!((image.args["V"].as_str(), image.labels["l"].as_str()), ("3.12", "py-3-12"));
    let git = image.source.git.as_ref().expect("git");
    assert_eq!(git.path.as_deref(), Some("3.12/trixie"));
    assert_eq!((git.revision.as_str(), git.dockerfile.as_str()), ("v3.12", "D.trixie"));
    let strategy = image.strategy.as_ref().expect("a strategy");
    assert_eq!(strategy.parameters["p"], "trixie");
    let check = &image.checks[0];
    assert_eq!((check.command[1].as_str(), check.args[0].as_str()), ("3.12", "py-3-12"));
    assert_eq!((check.image.as_deref(), check.env["E"].as_str()), (Some("scan:3.12"), "trixie"));
    let tags = tags::render(&spec, image, 7, &"0123456789abcdef".into()).expect("tags");
    assert_eq!((tags[0].name.as_str(), tags[0].immutable), ("3.12-3.12-py-3-12-r7", true));
    let blueprint = validate(&spec).expect("a valid spec");
    assert_eq!(blueprint.lineage.parents(ImageIndex::new(0)).len(), 2);
}

#[test]
fn the_text_of_a_dockerfile_is_no_template() {
    let inline = "FROM x\nRUN echo '{{ matrix.v }}'\n";
    let fields = json!({"matrix": {"v": ["1"]}, "source": {"inline": inline}});
    let spec = expanded(json!({"images": [image(fields)]}));
    assert_eq!(spec.images[0].source.inline.as_deref(), Some(inline));
}

#[test]
fn a_matrix_beyond_its_bounds_leaves_out_its_images_only() {
    let values = |count: usize| (0..count).map(|v| v.to_string()).collect::<Vec<_>>();
    for (matrix, exclude, expected) in [
        (
            json!({"a": values(64), "b": values(65)}),
            json!([]),
            "spec.images[python].matrix: it has 4160 combinations, and may have 4096; split it",
        ),
        (json!({"a": values(40), "b": values(25)}), json!([]), ""),
        (json!({"a b": ["1"]}), json!([]), "spec.images[python].matrix: write the key `a b`"),
        (json!({"a": []}), json!([]), "spec.images[python].matrix.a: it has no value"),
        (
            json!({"a": ["1"]}),
            json!([{"b": "1"}]),
            "spec.images[python].exclude[0]: `matrix` has no key `b`",
        ),
        (
            json!({"a": ["1"]}),
            json!([{"a": "2"}]),
            "spec.images[python].exclude[0]: `matrix.a` has no value `2`",
        ),
        (json!({"a": ["1"]}), json!([{}]), "spec.images[python].exclude[0]: it names no key"),
        (json!({"a": ["1"]}), json!([{"a": "1"}]), "it excludes every combination"),
        (json!({}), json!([{"a": "1"}]), "`matrix` has no key `a`"),
    ] {
        let fields = json!({"matrix": matrix, "exclude": exclude, "name": "python"});
        if expected.is_empty() {
            let spec = expanded(json!({"images": [image(fields)]}));
            assert_eq!((spec.images.len(), spec.left_out.len()), (1000, 0));
        } else {
            let message = message(fields);
            assert!(message.contains(expected), "{message}");
        }
    }
    let fields = json!({"name": "many", "matrix": {"a": values(40), "b": values(25)}});
    let spec = expanded(json!({"images": [image(json!({})), image(fields)]}));
    assert_eq!(names(&spec), ["python"]);
    assert!(
        problem(&spec).message.contains("the family has 1001, and may have 1000"),
        "{:?}",
        problem(&spec)
    );
}

#[test]
fn the_matrices_of_a_family_are_bounded_together() {
    let values: Vec<String> = (0..64).map(|v| v.to_string()).collect();
    let exclude: Vec<Value> = values[1..].iter().map(|v| json!({"a": v})).collect();
    let entry = |index: usize| {
        let matrix = json!({"a": values, "b": values});
        image(json!({"name": format!("i{index}"), "matrix": matrix, "exclude": exclude}))
    };
    let spec = expanded(json!({"images": (0..5).map(entry).collect::<Vec<_>>()}));
    assert_eq!(spec.images.len(), 4 * 64);
    assert!(problem(&spec).message.starts_with("spec.images[i4].matrix: with it, the matrices"));
}

#[test]
fn names_must_be_labels_and_different() {
    for (name, matrix, expected) in [
        ("x-{{ matrix.v }}", json!({"v": ["1."]}), "spec.images[x-{{ matrix.v }}].name: `x-1-`"),
        (
            "{{ matrix.w }}",
            json!({"v": ["1"]}),
            "`{{ matrix.w }}`: undefined value; known are matrix.v",
        ),
        ("{{ name }}", json!({"v": ["1"]}), "known are matrix.v"),
        ("p", json!({"v": ["x".repeat(62)]}), "with at most 63 characters"),
        ("p", json!({"v": ["1.1", "1-1"]}), "spec.images[p-1-1].name: 2 images have this name"),
        ("sibling{{ matrix.v }}", json!({"v": ["-2"], "w": ["1", "2"]}), "2 images have this name"),
    ] {
        let message = message(json!({"name": name, "matrix": matrix}));
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let twice =
        [image(json!({})), image(json!({"name": "p{{ matrix.v }}", "matrix": {"v": ["ython"]}}))];
    let spec = expanded(json!({"images": twice}));
    assert_eq!(names(&spec), [""; 0], "none of the two is the right one");
}

#[test]
fn a_field_that_renders_to_something_invalid_is_named() {
    for (field, value, expected) in [
        ("path", json!("A{{ matrix.v }}"), ".path: `A1.2` must be a path"),
        (
            "path",
            json!("{{ matrix.x }}"),
            ".path: `{{ matrix.x }}`: undefined value; known are \
            matrix.v, name",
        ),
        ("target", json!("-{{ matrix.v }}"), ".target: `-1.2` must be the name of a stage"),
        ("args", json!({"A": "{{ args.B }}"}), ".args.A: `{{ args.B }}`: undefined value"),
        ("args", json!({"A": format!("{}{{{{ name }}}}", "x".repeat(1020))}), "at most 1024"),
        (
            "from",
            json!([{"upstream": "{{ matrix.v }}"}]),
            ".from: the family has no upstream `1-2`",
        ),
        ("from", json!([{"image": "b-{{ matrix.v }}"}]), ".from: the family has no image `b-1-2`"),
        ("from", json!([{"upstream": "trixie", "arg": "{{ matrix.v }}"}]), ".from[0].arg: `1.2`"),
        ("tags", json!(["{{ matrix.x }}"]), ".tags: `{{ matrix.x }}`: undefined value; known are"),
        ("tags", json!(["{{ args.X }}"]), ".tags: `{{ args.X }}`: undefined value"),
        ("tags", json!(["{{ matrix.v }}+"]), "`1.2+`, which is not a tag"),
        ("labels", json!({"a": "{% x %}"}), ".labels.a: `{% x %}`: `{%` is not supported"),
        (
            "source",
            json!({"git": {"url": "https://g.example/a", "revision": "main",
            "path": "a/{{ '..' }}"}}),
            ".source.git.path: it must not contain `..`",
        ),
        (
            "source",
            json!({"git": {"url": "https://g.example/a", "revision": "main",
            "path": "{{ ' ' }}"}}),
            ".source.git.path: ` ` must be a relative path",
        ),
    ] {
        let message = message(json!({"matrix": {"v": ["1.2"]}, field: value}));
        assert!(message.starts_with("spec.images[python-1-2]."), "{message}");
        assert!(message.contains(expected), "{field}: {message}");
    }
}

#[test]
fn images_on_left_out_ones_are_left_out_and_their_exports_with_them() {
    let on = |name: &str, parent: &str| image(json!({"name": name, "from": [{"image": parent}]}));
    let other = image(json!({"name": "other", "from": [{"image": "web", "as": "web",
        "family": {"name": "shop"}}]}));
    let broken = image(json!({"name": "base", "path": "{{ nothing }}"}));
    let spec = expanded(json!({
        "images": [on("app", "python"), on("python", "base"), broken, other],
        "exports": [{"image": "app"}, {"image": "other"}],
    }));
    assert_eq!(names(&spec), ["other"]);
    assert_eq!(spec.exports.len(), 1);
    let messages: Vec<&str> =
        spec.left_out.iter().map(|left_out| left_out.problem.message.as_str()).collect();
    assert!(messages[0].starts_with("spec.images[base].path: `{{ nothing }}`"), "{messages:?}");
    assert_eq!(
        messages[1],
        "spec.images[python].from: the image `base` is left out; correct that one first"
    );
    assert!(messages[2].contains("the image `python` is left out"), "{messages:?}");
    assert!(validate(&spec).is_ok());
}

#[test]
fn one_bad_combination_leaves_the_others() {
    let fields = json!({"matrix": {"v": ["1", "2"]}, "from": [{"image": "base-{{ matrix.v }}"}]});
    let base = image(json!({"name": "base", "matrix": {"v": ["1"]}}));
    let spec = expanded(json!({"images": [image(fields), base]}));
    assert_eq!(names(&spec), ["python-1", "base-1"]);
    assert_eq!(problem(&spec).reason, Reason::UnknownParent);
    assert!(problem(&spec).message.contains("or exclude the combination"));
}

#[test]
fn sources_get_what_they_leave_out_from_the_defaults() {
    let defaults = json!({"git": {"url": "https://git.example.com/a", "revision": "main",
        "interval": "1m", "path": "images/{{ name }}", "dockerfile": "Containerfile",
        "secretRef": {"name": "git"}, "include": ["src"], "exclude": ["docs"], "lfs": true,
        "commitArg": "COMMIT"}});
    let git = |source: Value| {
        let mut image = image(json!({"source": source}));
        if source.is_null() {
            image.as_object_mut().expect("an object").remove("source");
        }
        let spec = expanded(json!({"sourceDefaults": defaults, "images": [image]}));
        assert_eq!(spec.left_out, []);
        assert_eq!(spec.source_defaults, None);
        spec.images[0].source.clone()
    };
    let whole = git(Value::Null).git.expect("git");
    assert_eq!(
        (whole.url.as_str(), whole.revision.as_str()),
        ("https://git.example.com/a", "main")
    );
    assert_eq!(whole.path.as_deref(), Some("images/python"));
    assert_eq!((whole.dockerfile.as_str(), whole.interval().as_secs()), ("Containerfile", 60));
    assert_eq!(whole.secret_ref.as_ref().map(|secret| secret.name.as_str()), Some("git"));

    assert_eq!((whole.include.len(), whole.exclude.len()), (1, 1));
    assert!(whole.lfs && !whole.submodules);
    assert_eq!(whole.commit_arg.as_deref(), Some("COMMIT"));

    let own =
        git(json!({"git": {"path": "b", "exclude": ["x"], "dockerfile": "D", "interval": "5s"}}));
    let own = own.git.expect("git");
    assert_eq!((own.path.as_deref(), own.dockerfile.as_str()), (Some("b"), "D"));
    assert_eq!((own.interval().as_secs(), own.url), (5, whole.url));
    assert_eq!((own.include, own.exclude), (vec!["src".to_owned()], vec!["x".to_owned()]));

    let other = git(json!({"git": {"url": "https://elsewhere.example.com/b"}})).git.expect("git");
    assert_eq!((other.revision.as_str(), other.secret_ref), ("main", None), "another repository");

    let inline = git(json!({"inline": "FROM trixie"}));
    assert_eq!(inline.git, None, "another kind of source has no defaults");
}

#[test]
fn a_source_that_stays_incomplete_is_a_problem_of_its_image() {
    for (source, expected) in [
        (json!({}), "spec.images[python].source: set `inline`, `configMap` or `git`"),
        (
            json!({"git": {"path": "a"}}),
            "spec.images[python].source.git.url: set it there, or in \
            spec.sourceDefaults.git.url",
        ),
        (json!({"git": {"url": "https://git.example.com/a"}}), "source.git.revision: set it"),
    ] {
        let message = message(json!({"source": source}));
        assert!(message.contains(expected), "{message}");
    }
}

/// The largest of the trees that were modelled, with matrices.
#[test]
fn a_tree_in_the_shape_of_dotnet_is_small_and_expands_to_615_images() {
    let yaml = include_str!("dotnet_shape.yaml");
    assert!(yaml.len() < 80_000, "{} bytes", yaml.len());
    let family: crate::api::ImageFamily = serde_yaml::from_str(yaml).expect("a family");
    let spec = expand(family.spec);
    assert_eq!(spec.left_out, []);
    assert_eq!((spec.images.len(), spec.upstreams.len()), (615, 35));
    let edges: usize = spec.images.iter().map(|image| image.from.len()).sum();
    assert!(edges > 900, "{edges} edges");
    let blueprint = validate(&spec).expect("a valid family");
    let deepest = ImageIndex::range(615).map(|image| blueprint.lineage.level(image)).max();
    assert_eq!(deepest, Some(5));
    let plain = serde_json::to_string(&spec).expect("JSON").len();
    assert!(plain > 5 * yaml.len(), "{plain} bytes written out, {} as a matrix", yaml.len());
}

#[test]
fn an_expanded_image_is_built_as_one_that_is_written_out() {
    let matrix = json!({"name": "py", "matrix": {"v": ["3.12"]}, "args": {"V": "{{ matrix.v }}"},
        "path": "py", "target": "t{{ matrix.v }}", "tags": ["{{ matrix.v }}"]});
    let plain = json!({"name": "py-3-12", "args": {"V": "3.12"}, "path": "py", "target": "t3.12",
        "tags": ["3.12"]});
    let [first, second] = [matrix, plain].map(|fields| {
        let spec = expanded(json!({"images": [image(fields)]}));
        let blueprint = validate(&spec).expect("a valid spec");
        (spec.images[0].name.clone(), blueprint.images[0].spec_hash.clone())
    });
    assert_eq!(first, second);
}

#[test]
fn an_image_adds_its_parameters_to_the_strategy_of_its_family() {
    let image_with =
        |name: &str, strategy: Value| image(json!({"name": name, "strategy": strategy}));
    let spec = expanded(json!({
        "strategy": {"name": "kaniko", "parameters": {"cpu": "1", "memory": "2Gi"}},
        "images": [
            image(json!({"name": "plain"})),
            image_with("own", json!({"parameters": {"memory": "8Gi", "disk": "9Gi"}})),
            image_with("same", json!({"name": "kaniko", "parameters": {"cpu": "4"}})),
            image_with("other", json!({"name": "buildkit", "parameters": {"cpu": "4"}})),
            image(json!({"name": "m{{ matrix.v }}", "matrix": {"v": ["1"]},
                "strategy": {"parameters": {"cpu": "{{ matrix.v }}"}}})),
        ],
    }));
    assert_eq!(spec.left_out, []);
    let shown = |image: &Image| {
        image.strategy.as_ref().map(|strategy| {
            let parameters =
                strategy.parameters.iter().map(|(key, value)| format!("{key}={value}"));
            format!("{} {}", strategy.name, parameters.collect::<Vec<_>>().join(" "))
        })
    };
    let strategies: Vec<Option<String>> = spec.images.iter().map(shown).collect();
    let expected = [
        None,
        Some("kaniko cpu=1 disk=9Gi memory=8Gi"),
        Some("kaniko cpu=4 memory=2Gi"),
        Some("buildkit cpu=4"),
        Some("kaniko cpu=1 memory=2Gi"),
    ];
    assert_eq!(strategies, expected.map(|text| text.map(str::to_owned)));
}

#[test]
fn a_family_that_names_no_strategy_uses_the_default_one() {
    let spec = expanded(json!({
        "strategy": {"parameters": {"cpu": "1"}},
        "images": [image(json!({"name": "a", "strategy": {"parameters": {"disk": "9Gi"}}}))],
    }));
    assert_eq!(spec.strategy.name, "buildkit");
    let strategy = spec.images[0].strategy.as_ref().expect("a strategy");
    assert_eq!((strategy.name.as_str(), strategy.parameters.len()), ("buildkit", 2));
}
