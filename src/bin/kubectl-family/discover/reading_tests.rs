//! Tests of what registries answer, and of what is said about it.

use super::*;

#[tokio::test]
async fn names_in_a_narrow_table_differ() {
    let mut shape = RegistryShape::default();
    let base = shape.add("platform/services/base:3.1", None, 2);
    for name in ["payments-api", "payments-worker"] {
        shape.add(&format!("platform/services/{name}:1"), Some(base), 1);
    }
    let registry = ShapeRegistry::start(&shape).await;
    let scan = registry.scan().await;
    let bases = bases(&scan.images);
    let report = DiscoveryReport::new(&scan.images, &bases, Vec::new(), Timestamp::UNIX_EPOCH);
    let table = report.table(Some(80));
    let head = format!("Names below {}/platform/services/\n", registry.host);
    assert!(table.starts_with(&head), "{table}");
    assert!(table.lines().skip(2).all(|line| line.chars().count() <= 80), "{table}");
    for name in ["base:3.1", "payments-api:1", "payments-work"] {
        assert!(table.lines().any(|line| line.starts_with(name)), "{name}: {table}");
    }
}

#[tokio::test]
async fn what_a_family_cannot_say_is_listed() {
    let mut shape = RegistryShape::default();
    shape.add("team/app:v00", None, 2);
    for number in 1..20 {
        let mut again = shape.images[0].clone();
        again.name = format!("team/app:v{number:02}");
        shape.images.push(again);
    }
    let mut elsewhere = shape.images[0].clone();
    elsewhere.name = "team/other:1".into();
    shape.images.push(elsewhere);
    let (specs, problems) = adopted(&shape).await;
    assert_eq!(specs[0].images[0].tags.len(), 16);
    assert!(problems[0].contains("left out: v16, v17, v18, v19"), "{problems:?}");
    assert!(problems[1].contains("team/other:1"), "{problems:?}");
}

#[tokio::test]
async fn a_registry_that_does_not_list_repositories_may_have_the_one() {
    let mut shape = RegistryShape::default();
    shape.add("team:1", None, 2);
    shape.add("team/app:1", None, 2);
    for catalog in [None, Some("{\"repositories\": []}")] {
        let registry = ShapeRegistry::start_with(&shape, |contents| {
            contents.remove("/v2/_catalog");
            if let Some(catalog) = catalog {
                contents.insert("/v2/_catalog".into(), catalog.into());
            }
        })
        .await;
        let prefix = RegistryPrefix::parse(&format!("{}/team", registry.host)).expect("a prefix");
        let mut problems = Vec::new();
        let tags = list_tags(&registry.access(), &prefix, 100, &mut problems).await.expect("tags");
        let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
        assert_eq!(tags, [format!("{}/team:1", registry.host)]);
        let is_reported = problems.iter().any(|one| one.contains("does not list its repositories"));
        assert_eq!(is_reported, catalog.is_none(), "{problems:?}");
    }
}

#[tokio::test]
async fn tags_of_tools_do_not_count_and_an_index_without_an_image_is_listed() {
    let mut shape = RegistryShape::default();
    shape.add("team/a:v1", None, 2);
    let registry = ShapeRegistry::start_with(&shape, |contents| {
        let mut tags: Vec<String> = (0..20).map(|n| format!("sha256-{n:064}.sig")).collect();
        tags.extend(["v1".into(), "plain".into(), "empty".into(), "nested".into()]);
        let tags = json!({"name": "team/a", "tags": tags}).to_string();
        contents.insert("/v2/team/a/tags/list".into(), tags.into_bytes());
        let image = contents["/v2/team/a/manifests/v1"].clone();
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(&image),
            "size": image.len()});
        contents.insert(format!("/v2/team/a/manifests/{}", Digest::of(&image)), image);
        let index = |entries: serde_json::Value| {
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string()
        };
        let plain = index(json!([entry]));
        let inner = json!({"mediaType": OCI_INDEX, "digest": Digest::of(plain.as_bytes()),
            "size": plain.len()});
        let by_digest = format!("/v2/team/a/manifests/{}", Digest::of(plain.as_bytes()));
        for (path, text) in [
            ("/v2/team/a/manifests/empty", index(json!([]))),
            ("/v2/team/a/manifests/nested", index(json!([inner]))),
            ("/v2/team/a/manifests/plain", plain.clone()),
            (by_digest.as_str(), plain),
        ] {
            contents.insert(path.into(), text.into_bytes());
        }
    })
    .await;
    let prefix = RegistryPrefix::parse(&registry.host).expect("a prefix");
    let mut problems = Vec::new();
    let tags = list_tags(&registry.access(), &prefix, 6, &mut problems).await.expect("tags");
    assert_eq!((tags.len(), problems), (4, Vec::new()));
    let scan = read_images(&registry.access(), tags, &[]).await;
    let names: Vec<&str> =
        scan.images.iter().flat_map(|image| &image.names).filter_map(Reference::tag).collect();
    assert_eq!(names, ["plain", "v1"]);
    let [empty, nested] = scan.problems.as_slice() else { panic!("{:?}", scan.problems) };
    assert!(empty.contains("a:empty: its index has no image"), "{empty}");
    assert!(nested.contains("a:nested: its index leads to another index"), "{nested}");
}
