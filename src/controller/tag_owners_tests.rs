use serde_json::{Value, json};

use super::*;

const BASE: &str = "registry.example.com/base";

/// Adds a family that claims `registry.example.com/base:latest`, created in this second.
fn add_family(stores: &Stores, name: &str, second: u32) {
    add_changed(stores, name, second, |_| ());
}

/// Adds such a family with changes.
fn add_changed(stores: &Stores, name: &str, second: u32, change: impl FnOnce(&mut ImageFamily)) {
    let family: Value = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ImageFamily",
        "metadata": {"name": name, "namespace": "team", "uid": name, "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
        "spec": {"repository": "registry.example.com",
            "upstreams": [{"name": "up", "image": "a", "follow": {"tag": "1"}}],
            "images": [{"name": "base", "from": [{"upstream": "up"}], "tags": ["latest"],
                "source": {"inline": "FROM a"}}]}});
    let mut family = serde_json::from_value(family).expect("a family");
    change(&mut family);
    stores.families.record_write(family);
}

/// Records that a family has set this tag in this repository.
fn add_record(stores: &Stores, family: &str, repository: &str, tag: &str, version: u32) {
    let record: Value = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "ManagedImage",
        "metadata": {"name": format!("{family}.base"), "namespace": "team",
            "resourceVersion": version.to_string(),
            "ownerReferences": [{"apiVersion": "groundswell.dev/v1alpha1",
                "kind": "ImageFamily", "name": family, "uid": family, "controller": true}]},
        "spec": {"family": family, "image": "base", "repository": repository, "level": 1},
        "status": {"digest": "sha256:00", "tags": [{"tag": tag, "digest": "sha256:00"}]}});
    stores.images.record_write(serde_json::from_value(record).expect("a record"));
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Lets a family claim this tag, and nothing else.
fn change_claim(stores: &Stores, name: &str, tag: &str, generation: i64) {
    let family = stores.families.get(&Key::new("team", name)).expect("a family");
    let mut family = ImageFamily::clone(&family);
    family.spec.images[0].tags = vec![tag.into()];
    family.metadata.generation = Some(generation);
    family.metadata.resource_version = Some(generation.to_string());
    stores.families.record_write(family);
}

/// Returns the families whose image `base` has a conflict at this time.
fn in_conflict(owners: &TagOwners, stores: &Stores, second: i64) -> Vec<String> {
    let families = ["old", "new"].map(|name| {
        let family = stores.families.get(&Key::new("team", name)).expect("a family");
        let problems = owners.problems(&family, stores, at(second));
        problems.get("base").map(|problem| format!("{name}: {}", problem.message))
    });
    families.into_iter().flatten().collect()
}

#[test]
fn who_has_claimed_a_tag_first_keeps_it_also_after_a_restart() {
    let (stores, owners) = (Stores::default(), TagOwners::default());
    add_family(&stores, "old", 1);
    add_family(&stores, "new", 2);
    change_claim(&stores, "old", "other", 2);
    assert_eq!(in_conflict(&owners, &stores, 10), Vec::<String>::new());
    // The older family adds the tag that the newer one claims, and has not set yet.
    change_claim(&stores, "old", "latest", 3);
    let found = in_conflict(&owners, &stores, 20);
    assert!(found.len() == 1 && found[0].contains("old: spec.images[base].tags: "), "{found:?}");
    assert!(found[0].contains("team/new, which has claimed it first"), "{found:?}");

    // What is recorded lasts longer than the process.
    let new = stores.families.get(&Key::new("team", "new")).expect("a family");
    let claims = owners.claims(&new, "base");
    assert_eq!(claims, [ClaimRecord { tag: "latest".into(), since: Some(at(10)) }]);
    let later = TagOwners::default();
    assert!(in_conflict(&later, &stores, 30)[0].starts_with("new: "), "nothing is recorded");
    add_record(&stores, "new", BASE, "edge", 1);
    let records = stores.images.group(&Key::new("team", "new"));
    let mut record = ManagedImage::clone(&records[0]);
    record.metadata.resource_version = Some("2".into());
    record.status.as_mut().expect("a status").claims = claims;
    stores.images.record_write(record);
    let later = TagOwners::default();
    assert_eq!(in_conflict(&later, &stores, 30), found);

    // A claim that was given up and comes back is a later one.
    change_claim(&stores, "new", "gone", 2);
    assert_eq!(in_conflict(&later, &stores, 40), Vec::<String>::new());
    let record = stores.images.group(&Key::new("team", "new"));
    let mut record = ManagedImage::clone(&record[0]);
    record.metadata.resource_version = Some("3".into());
    record.status.as_mut().expect("a status").claims = later.claims(&new, "base");
    stores.images.record_write(record);
    change_claim(&stores, "new", "latest", 3);
    let found = in_conflict(&later, &stores, 50);
    assert!(found.len() == 1 && found[0].starts_with("new: "), "{found:?}");
}

#[test]
fn a_claim_is_to_one_repository_and_a_suspended_family_makes_none() {
    let (stores, owners) = (Stores::default(), TagOwners::default());
    add_changed(&stores, "old", 1, |family| {
        family.spec.images[0].path = Some("elsewhere".into());
    });
    add_changed(&stores, "new", 2, |family| family.spec.suspend = true);
    assert_eq!(in_conflict(&owners, &stores, 10), Vec::<String>::new());
    let new = stores.families.get(&Key::new("team", "new")).expect("a family");
    assert_eq!(owners.claims(&new, "base"), [], "it is suspended");
    let mut new = ImageFamily::clone(&new);
    (new.spec.suspend, new.metadata.generation) = (false, Some(2));
    new.metadata.resource_version = Some("2".into());
    stores.families.record_write(new);
    assert_eq!(in_conflict(&owners, &stores, 20), Vec::<String>::new());
    // The same tag of another repository is claimed from now on.
    let old = stores.families.get(&Key::new("team", "old")).expect("a family");
    let mut old = ImageFamily::clone(&old);
    (old.spec.images[0].path, old.metadata.generation) = (None, Some(2));
    old.metadata.resource_version = Some("2".into());
    stores.families.record_write(old);
    let found = in_conflict(&owners, &stores, 30);
    assert!(found.len() == 1 && found[0].starts_with("old: "), "{found:?}");
}

/// Returns the messages of the images of a family, by image.
fn problems_of(owners: &TagOwners, stores: &Stores, key: &Key) -> BTreeMap<String, String> {
    let family = stores.families.get(key).expect("a family");
    let problems = owners.problems(&family, stores, at(0)).into_iter();
    problems.map(|(image, problem)| (image, problem.message)).collect()
}

/// Returns the message of the image `base` of a family in conflict.
fn problem_of(stores: &Stores, name: &str) -> Option<String> {
    problems_of(&TagOwners::default(), stores, &Key::new("team", name)).remove("base")
}

/// Returns the tags of `registry.example.com/base` that are foreign to a family.
fn foreign(owners: &TagOwners, stores: &Stores, name: &str) -> Vec<(String, String)> {
    let family = stores.families.get(&Key::new("team", name)).expect("a family");
    // One that no family has, and one that only looks like one of theirs.
    let repositories = [BASE, "registry.example.com/other", "registry.example.community/base"];
    let mut found = owners.foreign_tags(&family, &repositories.into(), stores);
    let tags = found.remove(BASE).unwrap_or_default();
    assert!(found.is_empty(), "{found:?}");
    tags.into_iter().collect()
}

#[test]
fn what_others_have_set_is_foreign_and_what_only_an_older_one_claims() {
    let stores = Stores::default();
    let owners = TagOwners::default();
    let of = |tag: &str, owner: &str| (tag.to_owned(), format!("the family team/{owner}"));
    add_family(&stores, "old", 1);
    add_family(&stores, "new", 2);
    assert_eq!(foreign(&owners, &stores, "old"), [], "a bare claim of a newer family");
    assert_eq!(foreign(&owners, &stores, "new"), [of("latest", "old")]);

    add_record(&stores, "new", BASE, "1.2", 1);
    assert_eq!(foreign(&owners, &stores, "old"), [of("1.2", "new")]);

    // A label has given the tag to the newer family before the older one claimed it.
    add_record(&stores, "new", BASE, "latest", 2);
    assert_eq!(foreign(&owners, &stores, "new"), []);
    assert_eq!(foreign(&owners, &stores, "old"), [of("latest", "new")]);

    // Both have set it.
    add_record(&stores, "old", BASE, "latest", 1);
    assert_eq!(foreign(&owners, &stores, "new"), [of("latest", "old")]);
    assert_eq!(foreign(&owners, &stores, "old"), [of("latest", "new")]);
}

#[test]
fn claims_are_rendered_once_per_generation() {
    let stores = Stores::default();
    let owners = TagOwners::default();
    add_family(&stores, "old", 1);
    add_family(&stores, "new", 2);
    let known = |of: &str| {
        let family = stores.families.get(&Key::new("team", of)).expect("a family");
        let mut family = ImageFamily::clone(&family);
        move |generation: i64, tag: &str| {
            family.metadata.generation = Some(generation);
            family.spec.images[0].tags = vec![tag.into()];
            let claimed = owners.claimed.lock().expect("no panic").of(&family, &owners.rules);
            claimed.iter().map(|(_, tag)| tag.clone()).collect::<Vec<_>>()
        }
    };
    let mut of_old = known("old");
    assert_eq!(of_old(1, "a"), ["a"]);
    assert_eq!(of_old(1, "b"), ["a"], "the same generation");
    assert_eq!(of_old(2, "b"), ["b"]);
}

#[test]
fn a_tag_belongs_to_the_family_that_has_set_it_and_else_to_the_oldest() {
    let stores = Stores::default();
    add_family(&stores, "old", 1);
    add_family(&stores, "new", 2);
    assert_eq!(problem_of(&stores, "old"), None);
    let message = problem_of(&stores, "new").unwrap_or_default();
    assert!(message.contains("team/old, which is older"), "{message}");

    add_record(&stores, "new", "registry.example.com/base", "latest", 1);
    assert_eq!(problem_of(&stores, "new"), None);
    let message = problem_of(&stores, "old").unwrap_or_default();
    assert!(message.contains("team/new, which has pushed it"), "{message}");

    // Another tag, or one of another repository, is no claim to this one.
    for (version, repository, tag) in
        [(2, "registry.example.com/base", "edge"), (3, "elsewhere.example.com/base", "latest")]
    {
        add_record(&stores, "new", repository, tag, version);
        assert_eq!(problem_of(&stores, "old"), None, "{repository}:{tag}");
    }
}
#[test]
fn a_suspended_family_takes_no_tag_and_is_not_named_elsewhere() {
    let stores = Stores::default();
    let squatter = Key::new("evil", "squatter");
    add_changed(&stores, "squatter", 1, |family| {
        family.metadata.namespace = Some("evil".into());
        family.spec.suspend = true;
    });
    add_family(&stores, "app", 2);
    assert_eq!(problem_of(&stores, "app"), None);
    let problems = problems_of(&TagOwners::default(), &stores, &squatter);
    let message = &problems["base"];
    assert!(message.contains("a family of another namespace, which is not suspended"), "{message}");
    assert!(!message.contains("team") && !message.contains("app"), "{message}");

    // It is the first that claims the tag, and is not suspended any more.
    let family = stores.families.get(&squatter).expect("a family");
    let mut family = ImageFamily::clone(&family);
    (family.spec.suspend, family.metadata.generation) = (false, Some(2));
    family.metadata.resource_version = Some("2".into());
    stores.families.record_write(family);
    let message = problem_of(&stores, "app").expect("a conflict");
    assert!(message.contains("a family of another namespace, which is older"), "{message}");
    assert!(!message.contains("evil") && !message.contains("squatter"), "{message}");
    let found = foreign(&TagOwners::default(), &stores, "app");
    assert_eq!(found, [("latest".to_owned(), ELSEWHERE.to_owned())]);

    // The tag is set, and the family that has set it keeps it.
    add_record(&stores, "app", BASE, "latest", 1);
    assert_eq!(problem_of(&stores, "app"), None);
    assert_eq!(problems_of(&TagOwners::default(), &stores, &squatter).len(), 1);
}

#[test]
fn only_the_image_in_conflict_has_a_problem() {
    let stores = Stores::default();
    add_family(&stores, "old", 1);
    add_changed(&stores, "new", 2, |family| {
        let mut free = family.spec.images[0].clone();
        free.name = "free".into();
        family.spec.images.push(free);
    });
    let problems = problems_of(&TagOwners::default(), &stores, &Key::new("team", "new"));
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["base"]);
}

#[test]
fn another_spelling_is_the_same_tag() {
    for spelling in ["Registry.Example.com", "registry.example.com:443"] {
        let stores = Stores::default();
        add_family(&stores, "old", 1);
        add_changed(&stores, "new", 2, |family| family.spec.repository = spelling.into());
        let message = problem_of(&stores, "new").expect(spelling);
        assert!(message.contains(&format!("{spelling}/base:latest")), "{message}");
        let new = stores.families.get(&Key::new("team", "new")).expect("a family");
        let repository = format!("{spelling}/base");
        let repositories = [repository.as_str()].into();
        let found = TagOwners::default().foreign_tags(&new, &repositories, &stores);
        assert!(found[&repository].contains_key("latest"), "{found:?}");
    }
}

#[test]
fn nobody_chooses_who_is_first_within_a_second() {
    let stores = Stores::default();
    add_changed(&stores, "a", 1, |family| family.metadata.uid = Some("2".into()));
    add_changed(&stores, "z", 1, |family| family.metadata.uid = Some("1".into()));
    assert_eq!(problem_of(&stores, "z"), None);
    assert!(problem_of(&stores, "a").is_some());
}

#[test]
fn a_repository_that_is_not_allowed_is_refused_and_claims_nothing() {
    let rules = "[{repositories: [registry.example.com/*], namespaces: [team]}]";
    let owners = TagOwners::new(RepositoryRules::from_yaml(rules).expect("valid"));
    let stores = Stores::default();
    let squatter = Key::new("evil", "squatter");
    add_changed(&stores, "squatter", 1, |family| {
        family.metadata.namespace = Some("evil".into());
    });
    add_family(&stores, "app", 2);
    assert!(problems_of(&owners, &stores, &Key::new("team", "app")).is_empty());
    assert_eq!(foreign(&owners, &stores, "app"), []);
    let message = &problems_of(&owners, &stores, &squatter)["base"];
    assert!(message.contains("families of the namespace `evil` no repository"), "{message}");
}

#[test]
fn a_conflict_goes_on_while_its_owner_may_be_unwatched() {
    let stores = Stores::default();
    add_family(&stores, "app", 1);
    let family = stores.families.get(&Key::new("team", "app")).expect("a family");
    let message = format!(
        "spec.images[base].tags: {BASE}:latest is already claimed by {ELSEWHERE}, which is \
         older; x"
    );
    let stalled = |message: &str| {
        let mut family = ImageFamily::clone(&family);
        let status = json!({"conditions": [{"type": "Stalled", "status": "True",
            "reason": Reason::TagCollision.as_str(), "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        family.status = serde_json::from_value(status).expect("a status");
        family
    };
    let unresolved = |family: &ImageFamily, records: &[ManagedImage]| {
        let problems = unresolved_conflicts(family, records).into_iter();
        problems.map(|(image, problem)| (image, problem.message)).collect::<Vec<_>>()
    };
    let kept = [("base".to_owned(), message.clone())];
    assert_eq!(unresolved(&stalled(&message), &[]), kept);
    let renamed = message.replace("latest", "edge");
    assert_eq!(unresolved(&stalled(&renamed), &[]), [], "the tag is not claimed any more");
    let own = message.replace(ELSEWHERE, "the family team/old");
    assert_eq!(unresolved(&stalled(&own), &[]), [], "the owner would be found");

    add_record(&stores, "app", BASE, "latest", 1);
    let records = stores.images.group(&Key::of(&*family));
    let mut record = ManagedImage::clone(&records[0]);
    assert_eq!(unresolved(&family, std::slice::from_ref(&record)), []);
    let status = record.status.as_mut().expect("a status");
    (status.reason, status.message) = (Reason::TagCollision.as_str().into(), message);
    assert_eq!(unresolved(&family, &[record]), kept);
}
