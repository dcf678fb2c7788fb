use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    builds::{request::BuildRequest, template::*},
    identity::{ParentNaming, PinnedParent},
};

/// Everything that could break out of a string if it were parsed again.
const HOSTILE: &str =
    "x\"\n  privileged: true\n- {{ image.name }} {% raw %} {value} ' , $(TOKEN) $";

fn request() -> BuildRequest {
    BuildRequest {
        image: "web".into(),
        reference: "registry.example.com/team/web:gs-1".into(),
        args: BTreeMap::from([("A".into(), "1".into()), ("B".into(), HOSTILE.into())]),
        parents: vec![
            PinnedParent {
                name: "alpine".into(),
                repository: "docker.io/library/alpine".into(),
                digest: "sha256:aa".into(),
                naming: ParentNaming::Reference("docker.io/library/alpine:3.20".into()),
                ..PinnedParent::default()
            },
            PinnedParent {
                name: "base".into(),
                repository: "registry.example.com/team/base".into(),
                digest: "sha256:bb".into(),
                naming: ParentNaming::Arg("BASE".into()),
                ..PinnedParent::default()
            },
        ],
        annotations: BTreeMap::from([
            ("note".into(), "one, \"two\"".into()),
            ("plain".into(), "x".into()),
        ]),
        no_cache: true,
        ..BuildRequest::default()
    }
}

fn rendered(template: &Value) -> Result<Value, TemplateError> {
    render(
        "buildkit",
        template,
        &Variables::new(&request(), BTreeMap::from([("memory".into(), "1Gi".into())])),
    )
}

#[test]
fn fills_strings_and_splices_lists() {
    let template = json!({"spec": {"containers": [{
        "name": "build",
        "resources": {"requests": {"memory": "{{ parameters.memory }}"}},
        "args": [
            "build",
            "{{ contexts | each('--opt=context:{name}=docker-image://{pinned}') }}",
            "{{ args | each('--opt=build-arg:{name}={value}') }}",
            "--name={{ image.reference }}",
            "{{ labels }}",
            "{{ ['--no-cache'] if noCache else [] }}",
        ],
        "ports": [{"containerPort": 80}],
    }]}});
    let container = rendered(&template).expect("renders")["spec"]["containers"][0].clone();
    assert_eq!(container["resources"]["requests"]["memory"], "1Gi");
    assert_eq!(container["ports"][0]["containerPort"], 80);
    assert_eq!(
        container["args"],
        json!([
            "build",
            "--opt=context:alpine:3.20=docker-image://docker.io/library/alpine@sha256:aa",
            "--opt=build-arg:A=1",
            format!("--opt=build-arg:B={}", HOSTILE.replace('$', "$$")),
            "--opt=build-arg:BASE=registry.example.com/team/base@sha256:bb",
            "--name=registry.example.com/team/web:gs-1",
            "--no-cache",
        ])
    );
}

#[test]
fn a_value_stays_in_its_string() {
    let template = json!({
        "metadata": {"annotations": {"note": "{{ args[1].value }}", "{{ image.name }}": "kept"}},
        "spec": {"containers": [{
            "args": ["{{ args[1].value }}", "$(OWN) {{ args[1].value }}"],
            "env": [{"name": "A", "value": "{{ args[1].value }}"}],
        }]},
    });
    let pod = rendered(&template).expect("renders");
    let doubled = HOSTILE.replace('$', "$$");
    assert_eq!(pod["metadata"]["annotations"]["note"], HOSTILE);
    assert_eq!(
        pod["metadata"]["annotations"]["{{ image.name }}"], "kept",
        "names of fields are no templates"
    );
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"], json!([doubled, format!("$(OWN) {doubled}")]));
    assert_eq!(container["env"][0]["value"], doubled);
    assert_eq!(container.as_object().map(serde_json::Map::len), Some(2), "no field came in");
}

#[test]
fn the_csv_filter_keeps_commas_in_their_field() {
    let template =
        json!(["--output={{ (['type=image', 'name=' ~ image.reference] + (annotations | \
                each('annotation.{name}={value}')) | list) | csv }}"]);
    assert_eq!(
        rendered(&template).expect("renders"),
        json!([
            "--output=type=image,name=registry.example.com/team/web:gs-1,\"annotation.note=one, \
             \"\"two\"\"\",annotation.plain=x"
        ])
    );
}

#[test]
fn an_unknown_variable_is_reported_with_its_field_and_the_known_ones() {
    for (text, variable) in [
        ("{{ image.nme }}", "image.nme"),
        ("{{ parameters.cpu }}", "parameters.cpu"),
        ("a {{ nothing }}", "nothing"),
        ("{% if secret %}x{% endif %}", "secret"),
    ] {
        for template in [json!({"spec": {"a": text}}), json!({"spec": {"a": [text]}})] {
            let error = rendered(&template).expect_err(text);
            let TemplateError::UnknownVariable { strategy, path, variable: named, known } = &error
            else {
                panic!("{error}")
            };
            assert_eq!((strategy.as_str(), named.as_str()), ("buildkit", variable));
            assert!(path.starts_with("spec.template.spec.a"), "{path}");
            for name in ["image.reference", "parameters.memory", "contexts", "registry.plainHttp"] {
                assert!(known.contains(name), "{known}");
            }
        }
    }
}

#[test]
fn a_rendering_error_names_its_field() {
    for text in [
        "{{ image.name",
        "{{ args }} and more",
        "{{ image }}",
        "{% include 'x' %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{{ args | each('{nme}') }}",
        "{{ args | nofilter }}",
        "{{ args[7].value }}",
        "{{ 1 / 0 }}",
    ] {
        let error = rendered(&json!({"a": ["x", text]})).expect_err(text);
        assert!(
            error.to_string().contains("BuildStrategy `buildkit`: spec.template.a[1]"),
            "{error}"
        );
    }
    let mut deep = json!("x");
    for _ in 0..40 {
        deep = json!([deep]);
    }
    assert!(rendered(&deep).is_err());
    let large = format!("{{% for i in range(300) %}}{}{{% endfor %}}", "0123456789".repeat(100));
    assert!(rendered(&json!([large])).expect_err("too large").to_string().contains("larger than"));
}

#[test]
fn a_list_of_objects_as_an_item_is_rejected() {
    assert!(rendered(&json!(["{{ args }}"])).expect_err("objects").to_string().contains("each"));
}

#[test]
fn every_variable_is_documented() {
    let guide = include_str!("../../../docs/strategies.md");
    for variable in
        Variables::new(&request(), BTreeMap::from([("NAME".into(), String::new())])).known()
    {
        assert!(
            guide.contains(&format!("`{variable}`")),
            "docs/strategies.md does not mention `{variable}`"
        );
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "([{}%#|$ a-z.\"']|\\{\\{|\\}\\}){0,40}") {
        let _ = rendered(&json!({"a": [text.clone()], "b": text}));
    }
}
