//! What a registry has, and how tags are moved in it.

use serde_json::{Value, json};

use super::repository_model::{F1, F2, FoundBuild, RegistryModel, found, tag};
use crate::{
    api::condition::Reason,
    controller::family::registry::pushed_image::BaseComparison,
    engine::{Lookup, LookupResult, tags::Tag},
    identity::{BlobsHash, ContentHash},
    registry::{Digest, OCI_MANIFEST, Platform},
};

#[tokio::test]
async fn a_pushed_image_is_described() {
    let model = RegistryModel::start().await;
    let digest = model.push(Some("1"), "amd64", &["base", "app"], Some((F1, 7)));
    let LookupResult::Present { digest: found, build, size, content, blobs, .. } =
        model.present("1").await
    else {
        panic!("not present")
    };
    assert_eq!((found, build), (digest.as_str().into(), 7));
    assert!((200..1000).contains(&size), "two layers of 100 bytes and a configuration: {size}");
    let texts =
        content.as_ref().map(ContentHash::as_str).zip(blobs.as_ref().map(BlobsHash::as_str));
    assert!(texts.is_some_and(|(content, blobs)| content != blobs));
    model.push(Some("2"), "amd64", &["base", "app"], Some((F2, 8)));
    let LookupResult::Present { content: other, blobs: other_blobs, .. } = model.present("2").await
    else {
        panic!("not present")
    };
    assert_eq!((other, other_blobs), (content, blobs), "annotations are not content");
}

#[tokio::test]
async fn the_last_build_is_found_by_floating_and_numbered_tags() {
    let tags = |floats: bool| {
        move |build: i64| {
            let floating =
                floats.then(|| Tag { name: "latest".into(), immutable: false, ..Tag::default() });
            floating
                .into_iter()
                .chain([Tag { name: format!("r{build}"), immutable: true, ..Tag::default() }])
                .collect::<Vec<_>>()
        }
    };
    let model = RegistryModel::start().await;
    let last = async |floats| model.repository().last_build(tags(floats)).await.expect("an answer");
    assert_eq!(last(true).await, None);
    model.push(Some("latest"), "amd64", &["app"], Some((F1, 5)));
    assert_eq!((last(true).await, last(false).await), (Some(5), None));
    // The cascade did not complete: build 6 has failed, and builds 7 and 8 were pushed.
    for later in ["r7", "r8"] {
        model.push(Some(later), "amd64", &["app"], Some((F2, 7)));
    }
    assert_eq!((last(true).await, last(false).await), (Some(8), None));
    model.push(Some("r1"), "amd64", &["app"], Some((F2, 1)));
    model.push(Some("r4"), "amd64", &["app"], Some((F2, 4)));
    assert_eq!(last(false).await, Some(8), "from gap to gap");

    model.push(Some("x-f2"), "amd64", &["app"], Some((F2, 4)));
    let of_fingerprint = |_| vec![Tag { name: "x-f2".into(), immutable: true, ..Tag::default() }];
    assert_eq!(
        model.repository().last_build(of_fingerprint).await.expect("an answer"),
        None,
        "it names no build"
    );

    for hostile in [i64::MAX, 0, -1] {
        model.push(Some("latest"), "amd64", &["app"], Some((F1, hostile)));
        assert_eq!(last(true).await, Some(8), "{hostile}");
        assert_eq!(found(&model.present("latest").await).build, 1, "{hostile}");
    }
}

#[tokio::test]
async fn an_index_is_described_by_its_images() {
    let model = RegistryModel::start().await;
    let amd = model.push(None, "amd64", &["base", "app"], None);
    let arm = model.push(None, "arm64", &["base", "app"], None);
    model.push_index("1", &[("amd64", &amd), ("arm64", &arm)]);
    let LookupResult::Present { size, content: both, .. } = model.present("1").await else {
        panic!("not present")
    };
    assert!((200..1000).contains(&size), "shared layers are stored once: {size}");
    model.push_index("2", &[("amd64", &amd)]);
    let LookupResult::Present { content: one, .. } = model.present("2").await else {
        panic!("not present")
    };
    assert_ne!(one, both);

    let many: Vec<(&str, &Digest)> = std::iter::repeat_n(("amd64", &amd), 33).collect();
    model.push_index("3", &many);
    let repository = model.repository();
    let manifest = repository.tagged("3").await.expect("answer").expect("a manifest");
    let problem = repository.images(&manifest).await.expect_err("too many");
    assert_eq!(problem.reason, Reason::InvalidRegistryResponse);
    assert!(problem.message.contains("more than 32 images"), "{}", problem.message);
}

#[tokio::test]
async fn an_index_whose_images_fill_the_memory_is_refused() {
    let model = RegistryModel::start().await;
    let image = model.push(None, "amd64", &["app"], None);
    let stored = model.content.lock().expect("content").manifests[image.as_str()].1.clone();
    let padded = |number: usize| {
        let mut manifest: Value = serde_json::from_slice(&stored).expect("JSON");
        manifest["annotations"] = json!({ "n": number.to_string(), "pad": "x".repeat(3 << 20) });
        model.store(None, OCI_MANIFEST, &manifest)
    };
    let [one, two, three] = [1, 2, 3].map(padded);
    model.push_index("two", &[("amd64", &one), ("arm64", &two)]);
    assert!(matches!(model.present("two").await, LookupResult::Present { .. }));
    model.push_index("three", &[("amd64", &one), ("arm64", &two), ("s390x", &three)]);
    let repository = model.repository();
    let manifest = repository.tagged("three").await.expect("answer").expect("a manifest");
    let problem = repository.images(&manifest).await.expect_err("too much");
    assert_eq!(problem.reason, Reason::InvalidRegistryResponse);
    assert!(problem.message.contains("more than 8 MiB"), "{}", problem.message);
}

#[tokio::test]
async fn a_retagged_build_is_distinguished_from_a_foreign_image() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    assert!(model.has_fingerprint(&tag(F1), F1).await);
    assert!(
        !model.registry.request_lines().iter().any(|asked| asked.starts_with("HEAD")),
        "its own tag says enough"
    );

    assert_eq!(model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F1, 7))), kept);
    assert!(
        model.has_fingerprint(&tag(F2), F2).await,
        "the same image under the tag of its own fingerprint"
    );

    model.push(Some(&tag(F1)), "amd64", &["base", "other"], Some((F1, 7)));
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "its own tag points to another image");
    model.content.lock().expect("content").manifests.remove(&tag(F1));
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "its own tag is gone");

    model.push(Some(&tag(F2)), "amd64", &["base", "app"], None);
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "not a build of ours");
    let before = model.registry.request_lines().len();
    for written in ["latest", "../../other/app/manifests/1", "é"] {
        model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((written, 7)));
        assert!(!model.has_fingerprint(&tag(F2), F2).await, "{written}");
    }
    assert_eq!(
        model.registry.request_lines().len() - before,
        3,
        "what is no fingerprint is not asked for"
    );
}

#[tokio::test]
async fn an_image_is_built_on_its_base_if_it_begins_with_its_layers() {
    use BaseComparison::{IsBase, NotOffered, OtherLayers, OtherPlatform};

    let model = RegistryModel::start().await;
    let amd = model.push(None, "amd64", &["base amd64"], None);
    let arm = model.push(None, "arm64", &["base arm64"], None);
    let base = model.push_index("base", &[("amd64", &amd), ("arm64", &arm)]);
    let only_amd = model.push_index("amd", &[("amd64", &amd)]);
    let unknown = model.push(None, "", &["base arm64"], None);
    let repository = model.repository();
    let Ok(platform) = "linux/arm64".parse::<Platform>();
    for (base, layers, expected) in [
        (&base, &["base arm64", "app"][..], IsBase),
        (&base, &["base arm64"], IsBase),
        // The image of another platform proves nothing: a child must not change architecture.
        (&base, &["base amd64", "app"], OtherLayers),
        (&base, &["app", "base arm64"], OtherLayers),
        (&base, &[], OtherLayers),
        (&arm, &["base arm64", "app"], IsBase),
        (&unknown, &["base arm64", "app"], IsBase),
        (&amd, &["base amd64", "app"], OtherPlatform(Platform::default())),
        (&only_amd, &["base amd64", "app"], NotOffered),
    ] {
        model.push(Some("app"), "arm64", layers, None);
        let manifest = repository.tagged("app").await.expect("answer").expect("a manifest");
        let images = repository.images(&manifest).await.expect("images");
        let compared = repository.compare_base(base, &images, &platform).await;
        assert_eq!(compared, Ok(expected), "{base} {layers:?}");
    }
    let asked = model.registry.request_lines();
    let of =
        |digest: &Digest| asked.iter().filter(|asked| asked.ends_with(digest.as_str())).count();
    assert_eq!((of(&arm), of(&amd)), (1, 1), "a digest is read once");
}

#[tokio::test]
async fn the_platforms_of_a_tag_are_read() {
    let model = RegistryModel::start().await;
    let arm = model.push(Some("1"), "arm64", &["app"], None);
    model.push_index("2", &[("arm64", &arm), ("amd64", &arm)]);
    let repository = model.repository();
    for (tag, expected) in [("1", &["linux/arm64"][..]), ("2", &["linux/amd64", "linux/arm64"])] {
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        let platforms = repository.platforms(&manifest).await.expect("platforms");
        let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        assert_eq!(platforms, expected);
    }
}

#[tokio::test]
async fn a_build_that_changed_nothing_is_retagged() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
    assert_ne!(kept, rebuilt);
    let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
    // Twice: a process may die after the first.
    for _ in 0..2 {
        let result = model.keep(&lookup, &kept, &rebuilt).await.expect("retagged");
        let expected = FoundBuild { digest: kept.as_str(), build: 7, is_comparable: true };
        assert_eq!(found(&result), expected);
        assert_eq!(model.tagged(&tag(F2)), Some(kept.clone()));
        assert!(
            model.has_fingerprint(&tag(F2), F2).await,
            "and a process without a cache finds it"
        );
        for digest in [&kept, &rebuilt] {
            assert!(model.is_recorded(&tag(F2), F2, digest).await, "before and after the retag");
        }
    }
}

#[tokio::test]
async fn a_build_that_cannot_be_retagged_uses_its_own_digest() {
    for (gone, refuses) in [(true, None), (false, Some(412)), (false, Some(403))] {
        let model = RegistryModel::start().await;
        let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
        let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
        let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
        if gone {
            model.content.lock().expect("content").manifests.remove(kept.as_str());
        }
        model.content.lock().expect("content").refuses = refuses;
        let result = model.keep(&lookup, &kept, &rebuilt).await.expect("an answer");
        let expected = FoundBuild { digest: rebuilt.as_str(), build: 8, is_comparable: false };
        assert_eq!(found(&result), expected, "{gone} {refuses:?}");
        assert_eq!(model.tagged(&tag(F2)), Some(rebuilt));
    }
}

#[tokio::test]
async fn a_retag_is_retried_while_the_registry_is_unreachable() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
    let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
    model.content.lock().expect("content").refuses = Some(503);
    let problem = model.keep(&lookup, &kept, &rebuilt).await.expect_err("unreachable");
    assert_eq!(problem.reason, Reason::RegistryUnavailable);
    model.content.lock().expect("content").refuses = None;
    assert!(model.keep(&lookup, &kept, &rebuilt).await.is_ok());
}
