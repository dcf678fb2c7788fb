//! Which builds count as ours: by record, by mark, and for which inputs.

use serde_json::Value;

use super::repository_model::{F1, F2, RegistryModel, tag};
use crate::{
    api::{Inputs, condition::Reason},
    build_records::{
        RecordPolicy,
        keys::tests::{key, keys},
        statement::{BuildStatement, StatementKind},
    },
    controller::{
        family::registry::{
            build_records::{RecordStore, recorded_family},
            existing_image::is_build_of_another,
            rebuilds::find_rebuild,
            recognition::{Recognition, recognize_by_record, record_build},
        },
        object_cache::Key,
    },
    engine::{LookupResult, fingerprint::fingerprint},
    registry::Digest,
};

#[tokio::test]
async fn a_build_of_ours_from_other_inputs_is_not_what_others_have_pushed() {
    let model = RegistryModel::start().await;
    model.push(Some("ours"), "amd64", &["a"], Some((F1, 1)));
    model.push(Some("theirs"), "amd64", &["a"], None);
    for (tag, wanted, is_another) in
        [("ours", F1, false), ("ours", F2, true), ("theirs", F1, false)]
    {
        let manifest = model.repository().tagged(tag).await.expect("answer").expect("a manifest");
        assert_eq!(is_build_of_another(&manifest, &wanted.into()), is_another, "{tag} {wanted}");
    }
}

#[tokio::test]
async fn a_marked_rebuild_is_found_with_its_request() {
    let inputs = Inputs { source: "s".into(), ..Inputs::default() };
    let requested = |id: &str| Inputs { nonce: id.into(), ..inputs.clone() };
    let (plain, first, second) =
        (fingerprint(&inputs), fingerprint(&requested("r:1")), fingerprint(&requested("r:2")));
    let model = RegistryModel::start().await;
    let repository = model.repository();
    let store = RecordStore::new(&repository, &model.settings, &model.family);
    let find = async || find_rebuild(&store, &plain, &inputs).await.expect("an answer");
    let build = |fingerprint: &str, number: i64, request: Option<&str>| {
        model.push_for(
            Some(&tag(fingerprint)),
            "amd64",
            &["x"],
            Some((fingerprint, number)),
            request,
        )
    };
    build(plain.as_str(), 1, None);
    assert_eq!(find().await, None, "nothing is marked");
    for (number, made, id) in [(2, &first, "r:1"), (3, &second, "r:2")] {
        let digest = build(made.as_str(), number, Some(id));
        // Twice: a process may die after the first.
        for _ in 0..2 {
            let marked = model.mark(&plain, &digest).await;
            assert!(marked.is_ok(), "{marked:?}");
        }
        let Some(LookupResult::Present { digest: found, build, request, .. }) = find().await else {
            panic!("not found")
        };
        assert_eq!((found.as_str(), build), (digest.as_str(), number));
        assert_eq!(request.as_deref(), Some(id));
    }
    // A request that has not made this build from these inputs is not believed.
    let other = build(F1, 4, Some("r:1"));
    model.mark(&plain, &other).await.expect("set");
    let Some(LookupResult::Present { digest, request, .. }) = find().await else {
        panic!("not found")
    };
    assert_eq!((digest.as_str(), request), (other.as_str(), None));
    // What is no build of ours is not found.
    let foreign = model.push(None, "amd64", &["y"], None);
    model.mark(&plain, &foreign).await.expect("set");
    assert_eq!(find().await, None);
    // A mark that somebody else has set has no record.
    model.mark(&plain, &other).await.expect("set");
    build(plain.as_str(), 1, None);
    let mark = format!("{}-rebuilt", tag(plain.as_str()));
    let original = model.push(Some(&mark), "amd64", &["x"], Some((plain.as_str(), 1)));
    assert_eq!(model.tagged(&mark), Some(original));
    assert_eq!(find().await, None);
}

#[tokio::test]
async fn a_registry_that_forbids_a_mark_is_not_asked_for_it_again() {
    let model = RegistryModel::start().await;
    let digest = model.push(Some(&tag(F1)), "amd64", &["x"], Some((F1, 2)));
    for (status, is_transient) in [(403, false), (412, false), (503, true)] {
        model.content.lock().expect("content").refuses = Some(status);
        let error = model.mark(&F2.into(), &digest).await.expect_err("refused");
        assert_eq!(error.is_transient, is_transient, "{status}");
    }
}

#[tokio::test]
async fn a_record_counts_for_one_family_one_repository_one_fingerprint_and_one_digest() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let other = model.push(Some(&tag(F2)), "amd64", &["b"], Some((F2, 2)));
    assert!(!model.is_recorded(&tag(F1), F1, &built).await, "nothing is recorded");
    let write = async |tag: &str, statement: &BuildStatement, digest: &Digest| {
        let repository = model.repository();
        let image = repository.manifest(digest).await.expect("a manifest");
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        store.write(tag, statement, &image).await.expect("written");
    };
    let of_build =
        |fingerprint, digest| model.statement(StatementKind::Build, fingerprint, &[digest]);
    write(&tag(F1), &of_build(F1, &built), &built).await;
    assert!(model.is_recorded(&tag(F1), F1, &built).await);
    assert!(!model.is_recorded(&tag(F1), F1, &other).await, "another digest");
    // Whoever may push copies the record of an earlier build to the tag of another one.
    write(&tag(F2), &of_build(F1, &built), &built).await;
    assert!(!model.is_recorded(&tag(F2), F2, &built).await, "an earlier build");
    let elsewhere = BuildStatement { repository: "r.test/other".into(), ..of_build(F2, &other) };
    write(&tag(F2), &elsewhere, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await, "another repository");
    // Whoever may push to a shared prefix declares the same image in a namespace of their own.
    let of_another = BuildStatement { family: "other/apps".into(), ..of_build(F2, &other) };
    write(&tag(F2), &of_another, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await, "another family");
    write(&tag(F2), &of_build(F2, &other), &other).await;
    assert!(model.is_recorded(&tag(F2), F2, &other).await);
    // A build is no mark of a rebuild, and the other way around.
    let mark = format!("{}-rebuilt", tag(F1));
    write(&mark, &of_build(F1, &built), &built).await;
    assert!(!model.is_recorded(&mark, F1, &built).await);
    let of_mark = model.statement(StatementKind::Rebuild, F2, &[&other]);
    write(&tag(F2), &of_mark, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await);
    // The record is an artifact that refers to the image.
    let record = model.repository().tagged(&format!("{}-record", tag(F1))).await;
    let record = record.expect("answer").expect("a record");
    let written: Value = serde_json::from_slice(&record.bytes).expect("JSON");
    assert_eq!(written["subject"]["digest"], built.as_str());
    // With another key, nothing that was recorded counts.
    model.settings.keys = keys(&[("2027", &key())]);
    assert!(!model.is_recorded(&tag(F1), F1, &built).await);
}

#[tokio::test]
async fn a_record_that_cannot_be_replaced_is_enough() {
    let model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let repository = model.repository();
    let store = RecordStore::new(&repository, &model.settings, &model.family);
    let image = repository.manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    model.content.lock().expect("content").refuses = Some(412);
    let refused = store.ensure(&tag(F1), &statement, &image).await.expect_err("refused");
    assert_eq!(refused.problem.reason, Reason::PushRefused);
    model.content.lock().expect("content").refuses = None;
    let signer = store.ensure(&tag(F1), &statement, &image).await.expect("written");
    model.content.lock().expect("content").refuses = Some(412);
    assert_eq!(store.ensure(&tag(F1), &statement, &image).await, Ok(signer));
}

#[tokio::test]
async fn keys_are_replaced_where_no_tag_can_be_moved() {
    for status in [400, 403, 409, 412] {
        let mut model = RegistryModel::start().await;
        model.content.lock().expect("content").keeps_tags = Some(status);
        let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
        let image = model.repository().manifest(&built).await.expect("a manifest");
        let statement = model.statement(StatementKind::Build, F1, &[&built]);
        let (old, new, newest) = (key(), key(), key());
        for held in [
            keys(&[("2026", &old)]),
            keys(&[("2026", &old), ("2027", &new)]),
            keys(&[("2027", &new)]),
            keys(&[("2027", &new), ("2028", &newest)]),
        ] {
            let signer = held.signer().id().to_owned();
            model.settings.keys = held;
            // Twice: a process may die after the first.
            for _ in 0..2 {
                let repository = model.repository();
                let store = RecordStore::new(&repository, &model.settings, &model.family);
                let recorded = store.ensure(&tag(F1), &statement, &image).await;
                assert_eq!(recorded.as_ref(), Ok(&signer), "{status}");
                let found = store.find(&tag(F1), &F1.into(), &built.as_str().into()).await;
                assert_eq!(found.as_ref(), Ok(&Some(signer.clone())), "{status}");
            }
        }
        model.settings.keys = keys(&[("2026", &old)]);
        assert!(model.is_recorded(&tag(F1), F1, &built).await, "the first one is still there");
        model.settings.keys = keys(&[("2029", &key())]);
        assert!(!model.is_recorded(&tag(F1), F1, &built).await);
    }
}

#[tokio::test]
async fn an_earlier_key_stays_in_use_where_no_record_can_be_written() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let image = model.repository().manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    let (old, new) = (key(), key());
    let mut recorded = Vec::new();
    for (refuses, held) in [
        (None, keys(&[("2026", &old)])),
        (Some(403), keys(&[("2026", &old), ("2027", &new)])),
        (None, keys(&[("2026", &old), ("2027", &new)])),
    ] {
        model.content.lock().expect("content").refuses = refuses;
        model.settings.keys = held;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        recorded.push(store.ensure(&tag(F1), &statement, &image).await.expect("a record"));
    }
    let (first, last) = (keys(&[("2026", &old)]), keys(&[("2027", &new)]));
    assert_eq!(recorded, [first.signer().id(), first.signer().id(), last.signer().id()]);
}

#[tokio::test]
async fn a_family_records_its_builds_where_another_has_taken_the_tag() {
    let model = RegistryModel::start().await;
    model.content.lock().expect("content").keeps_tags = Some(412);
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let repository = model.repository();
    let image = repository.manifest(&built).await.expect("a manifest");
    for name in ["theirs", "ours"] {
        let family = Key::new("team", name);
        let store = RecordStore::new(&repository, &model.settings, &family);
        let found = async || store.find(&tag(F1), &F1.into(), &built.as_str().into()).await;
        assert_eq!(found().await, Ok(None), "{name}");
        let statement = BuildStatement {
            family: recorded_family(&family),
            ..model.statement(StatementKind::Build, F1, &[&built])
        };
        let signer = model.settings.keys.signer().id().to_owned();
        assert_eq!(store.ensure(&tag(F1), &statement, &image).await, Ok(signer.clone()));
        assert_eq!(found().await, Ok(Some(signer)), "{name}");
    }
}

#[tokio::test]
async fn a_build_without_a_record_counts_only_where_records_are_not_required() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let image = model.repository().manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    let (fingerprint, digest) = (F1.into(), built.as_str().into());
    let signer = model.settings.keys.signer().id().to_owned();
    for (policy, expected) in [
        (RecordPolicy::Required, Recognition::Unknown),
        (RecordPolicy::Warn, Recognition::Unrecorded),
    ] {
        model.settings.policy = policy;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        let recognized = recognize_by_record(&store, &fingerprint, &digest).await;
        assert_eq!(recognized, Ok(expected), "{policy:?}");
        // A registry that takes no record.
        model.content.lock().expect("content").refuses = Some(403);
        let recorded = record_build(&store, "app", &statement, &image).await;
        model.content.lock().expect("content").refuses = None;
        match recorded {
            Err(problem) if policy == RecordPolicy::Required => {
                assert!(problem.message.starts_with("app was pushed as "), "{problem:?}");
            }
            recorded => assert_eq!((policy, recorded), (RecordPolicy::Warn, Ok(None))),
        }
    }
    for policy in [RecordPolicy::Warn, RecordPolicy::Required] {
        model.settings.policy = policy;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        // What is believed is recorded, and counts without the setting from then on.
        if policy == RecordPolicy::Warn {
            let recorded = record_build(&store, "app", &statement, &image).await;
            assert_eq!(recorded.map(|it| it.map(|it| it.key)), Ok(Some(signer.clone())));
        }
        let recognized = recognize_by_record(&store, &fingerprint, &digest).await;
        assert_eq!(recognized, Ok(Recognition::Recorded(signer.clone())), "{policy:?}");
    }
}
