//! Tags that name labels of the built image.

use jiff::SignedDuration;

use crate::{
    api::{
        Adoption, Cutoff, ImageFamilyStatus, ImageState, Promotion, Unmatched, condition::Reason,
    },
    engine::{
        tests::{CURRENT, model::FamilyModel},
        *,
    },
};

const VERSION: &str = "{{ label[\"org.opencontainers.image.version\"] }}";
const NAME: &str = "org.opencontainers.image.version";

/// A family of one image with these tags, whose builds have this version.
fn labelled(tags: &[&str], version: Option<&'static str>) -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    set_version(&mut model, 0, version);
    model
}

/// The version of the image's further builds.
fn set_version(model: &mut FamilyModel, image: usize, version: Option<&'static str>) {
    model.labels.insert(image, version.map(|version| (NAME, version)).into_iter().collect());
}

/// What a tag of an image points to.
fn tag<'m>(model: &'m FamilyModel, image: usize, name: &str) -> Option<&'m str> {
    model.tags.get(&(image, name.to_owned())).map(String::as_str)
}

fn move_upstream(model: &mut FamilyModel, digest: &str) {
    model.upstream_digests[0] = digest.into();
    model.settle();
}

#[test]
fn a_tag_from_a_label_follows_the_builds_that_have_it() {
    let mut model = labelled(&["latest", VERSION, "{{ label.x | default('v') }}"], Some("1.2"));
    model.settle();
    assert_eq!((model.states(), model.record("base").reason.as_str()), (vec![CURRENT], "Current"));
    for name in ["latest", "1.2", "v"] {
        assert_eq!(tag(&model, 0, name), Some("sha256:built-1"), "{name}");
    }
    // The same version moves on, another one gets a tag of its own, and the old one stays.
    move_upstream(&mut model, "sha256:up-1");
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-2"));
    set_version(&mut model, 0, Some("1.3"));
    move_upstream(&mut model, "sha256:up-2");
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-2"));
    assert_eq!(tag(&model, 0, "1.3"), Some("sha256:built-3"));
    assert_eq!((model.builds(), model.label_reads), (vec![3], 3), "once per build");
}

#[test]
fn labels_survive_a_restart_and_a_lost_status() {
    let mut model = labelled(&[VERSION], Some("1.2"));
    model.settle();
    model.read_labels.clear();
    model.asked.clear();
    model.settle();
    assert_eq!(model.label_reads, 1, "the record has them");
    model.records = vec![None];
    model.status = ImageFamilyStatus::default();
    model.read_labels.clear();
    model.jobs.clear();
    model.tags.insert((0, "1.2".into()), "sha256:other".into());
    model.settle();
    assert_eq!((model.builds(), model.label_reads), (vec![1], 2));
    assert_eq!(model.record("base").labels[0].value.as_deref(), Some("1.2"));
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
}

#[test]
fn a_label_that_gives_no_tag_affects_one_tag_of_one_image() {
    for (version, parts) in [
        (None, ["does not have", "LABEL in the Dockerfile"]),
        (Some("1.2+b3"), ["`1.2+b3`", "correct the label or the template"]),
        (Some("gs-1"), ["`gs-1`", "correct the label or the template"]),
        (Some("sha256-0a.sig"), ["`sha256-0a.sig`", "begins with"]),
        (Some("sha512-0a"), ["`sha512-0a`", "begins with"]),
        (Some(""), ["= ``", "correct the label or the template"]),
    ] {
        let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
        model.spec.images[0].tags = vec!["latest".into(), VERSION.into()];
        set_version(&mut model, 0, version);
        model.settle();
        let record = model.record("base");
        assert_eq!(
            (record.state, record.reason.as_str()),
            (CURRENT, Reason::InvalidTagLabel.as_str())
        );
        for part in ["spec.images[base].tags", VERSION, NAME].into_iter().chain(parts) {
            assert!(record.message.contains(part), "{part}: {}", record.message);
        }
        assert_eq!(tag(&model, 0, "latest"), Some("sha256:built-1"), "the other tags move");
        assert_eq!(model.record("app").reason, Reason::Current, "the family goes on");
        assert_eq!(model.tags.len(), 3);
        // The next build has a version.
        set_version(&mut model, 0, Some("1.2"));
        move_upstream(&mut model, "sha256:up-1");
        assert_eq!(model.record("base").reason, Reason::Current);
        assert_eq!(tag(&model, 0, "1.2"), model.record("base").digest.as_deref());
    }
}

#[test]
fn a_template_that_names_a_new_label_is_read_and_not_rebuilt() {
    let mut model = labelled(&["latest"], Some("1.2"));
    model.settle();
    assert_eq!(model.label_reads, 0);
    model.spec.images[0].tags.push(VERSION.into());
    model.settle();
    assert_eq!((model.builds(), model.label_reads), (vec![1], 1));
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
    model.spec.images[0].tags.push("{{ label.other }}".into());
    model.settle();
    assert_eq!((model.builds(), model.label_reads), (vec![1], 2));
    assert_eq!(model.record("base").labels.len(), 2);
    assert_eq!(model.record("base").reason, Reason::InvalidTagLabel);
    model.spec.images[0].tags.truncate(1);
    model.settle();
    assert_eq!((model.record("base").labels.len(), model.label_reads), (0, 2));
    assert_eq!(model.record("base").reason, Reason::Current);
}

#[test]
fn a_registry_that_does_not_answer_delays_only_the_tags_with_labels() {
    let mut model = labelled(&["latest"], Some("1.2"));
    model.settle();
    model.spec.images[0].tags.push(VERSION.into());
    model.registry_unreachable = true;
    let decision = model.reconcile();
    assert_eq!(model.record("base").reason, Reason::RegistryUnavailable);
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_secs(10)));
    model.reconcile();
    assert_eq!(model.label_reads, 1, "not before the pause has passed");
    model.registry_unreachable = false;
    model.settle();
    assert_eq!(model.record("base").reason, Reason::Current);
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
}

/// Two images of one repository.
fn shared(tags: [&str; 2], versions: [&'static str; 2]) -> FamilyModel {
    let images = [("base", "up"), ("left", "base"), ("right", "base")];
    let mut model = FamilyModel::new(&["up"], &images);
    for (image, (tag, version)) in (1..).zip(tags.into_iter().zip(versions)) {
        model.spec.images[image].path = Some("shared".into());
        model.spec.images[image].tags = vec![tag.into(), format!("{{{{ name }}}}-{image}")];
        set_version(&mut model, image, Some(version));
    }
    model
}

#[test]
fn two_images_whose_labels_give_one_tag_get_none_of_it() {
    for tags in [[VERSION, VERSION], [VERSION, "1.2"]] {
        let mut model = shared(tags, ["1.2", "1.2"]);
        model.settle();
        assert_eq!(model.states(), [CURRENT; 3], "all of them are built");
        for (image, other) in [("left", "`right`"), ("right", "`left`")] {
            let record = model.record(image);
            assert_eq!(record.reason, Reason::TagCollision, "{tags:?}");
            for part in ["registry.example.com/platform/shared:1.2", other] {
                assert!(record.message.contains(part), "{}", record.message);
            }
        }
        assert_eq!(model.record("base").reason, Reason::Current);
        assert_eq!((tag(&model, 1, "1.2"), tag(&model, 2, "1.2")), (None, None));
        assert!(tag(&model, 1, "left-1").is_some() && tag(&model, 2, "right-2").is_some());
        assert_eq!(model.builds(), [1; 3], "no contest, no rebuild");
    }
    let mut model = shared([VERSION, VERSION], ["1.2", "1.3"]);
    model.settle();
    assert!(tag(&model, 1, "1.2").is_some() && tag(&model, 2, "1.3").is_some());
    // A collision that comes later leaves the tag where it is.
    set_version(&mut model, 2, Some("1.2"));
    let before = tag(&model, 1, "1.2").map(str::to_owned);
    move_upstream(&mut model, "sha256:up-1");
    assert_eq!(tag(&model, 1, "1.2"), before.as_deref());
    assert_eq!(tag(&model, 2, "1.2"), None);
    assert_eq!(model.record("right").reason, Reason::TagCollision);
}

#[test]
fn a_collision_of_many_images_names_a_few() {
    let names: Vec<String> = (0..6).map(|image| format!("image-{image}")).collect();
    let images: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "up")).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    for image in 0..names.len() {
        model.spec.images[image].path = Some("shared".into());
        // The same tag twice is no collision with another image.
        let own = format!("{{{{ label['{NAME}'] }}}}-{image}");
        model.spec.images[image].tags = vec![VERSION.into(), own.clone(), own];
        set_version(&mut model, image, Some("1.2"));
    }
    model.settle();
    for (image, name) in names.iter().enumerate() {
        let record = model.record(name);
        assert_eq!(record.reason, Reason::TagCollision, "{name}");
        let others: Vec<String> =
            names.iter().filter(|other| *other != name).map(|other| format!("`{other}`")).collect();
        let named = format!("also a tag of {} and 2 more;", others[..3].join(", "));
        assert!(record.message.contains(&named), "{}", record.message);
        assert_eq!(tag(&model, image, "1.2"), None, "{name}");
        assert!(tag(&model, image, &format!("1.2-{image}")).is_some(), "{name}");
    }
}

#[test]
fn a_label_cannot_take_a_tag_of_another_family_or_close_a_circle() {
    let mut model = labelled(&["latest", VERSION], Some("1.2"));
    model.foreign_tags.insert("1.2".into(), "the family team/other".into());
    model.settle();
    let record = model.record("base");
    assert_eq!(record.reason, Reason::TagCollision);
    assert!(record.message.contains("a tag of the family team/other;"), "{}", record.message);
    assert_eq!((tag(&model, 0, "1.2"), tag(&model, 0, "latest").is_some()), (None, true));

    let mut model = labelled(&[VERSION], Some("1.2"));
    model.spec.upstreams[0].image = "registry.example.com/platform/base".into();
    model.spec.upstreams[0].follow.tag = "1.2".into();
    model.settle();
    assert_eq!(model.record("base").reason, Reason::InvalidTagLabel);
    assert!(model.record("base").message.contains("spec.upstreams[up]"));
    assert_eq!(model.tags.len(), 0);
}

#[test]
fn tags_that_move_together_get_the_labels_of_the_build_that_they_point_to() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.policy.promotion = Promotion::Cascade;
    model.spec.images[0].tags = vec!["latest".into(), VERSION.into()];
    set_version(&mut model, 0, Some("1.2"));
    model.settle();
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
    set_version(&mut model, 0, Some("1.3"));
    model.failing.insert(1, crate::api::FailureClass::Build);
    move_upstream(&mut model, "sha256:up-1");
    assert_eq!(model.states(), [CURRENT, ImageState::Failed]);
    assert_eq!(tag(&model, 0, "latest"), Some("sha256:built-1"), "the cascade is not complete");
    assert_eq!(tag(&model, 0, "1.3"), None, "and no tag says that build 1 is 1.3");
}

#[test]
fn a_rebuild_that_changed_nothing_keeps_the_labels() {
    let mut model = labelled(&[VERSION], Some("1.2"));
    model.spec.policy.cutoff = Cutoff::Content;
    model.content.insert(0, "same".into());
    model.settle();
    move_upstream(&mut model, "sha256:up-1");
    assert_eq!((model.builds(), model.label_reads), (vec![2], 1));
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
    assert_eq!(model.record("base").reason, Reason::Current);
}

#[test]
fn an_adopted_image_gets_no_tag_from_a_label_before_its_first_build() {
    let mut model = labelled(&["latest", VERSION], Some("1.2"));
    model.spec.adopt = Some(Adoption { unmatched: Unmatched::Wait });
    let digest = "sha256:existing";
    model.tags.insert((0, "latest".into()), digest.into());
    let found =
        FoundImage { digest: digest.into(), size: 1, content: Some("c".into()), blobs: None };
    let existing = ExistingImage {
        tags: [].into(),
        found: Some(found),
        mismatch: None,
        lost_platforms: Vec::new(),
        last_build: None,
        read_at: model.now,
        ask_at: model.now,
    };
    model.existing.insert(0, existing);
    model.settle();
    assert_eq!((model.builds(), model.label_reads), (vec![0], 0));
    assert_eq!((model.states(), model.tags.len()), (vec![CURRENT], 1));
    move_upstream(&mut model, "sha256:up-1");
    assert_eq!(tag(&model, 0, "1.2"), Some("sha256:built-1"));
}
