use super::*;

#[test]
fn text_cannot_become_markup() {
    assert_eq!(markdown_text("a|b\n<c> @team &"), "a\\|b \\<c\\> \\@team &amp;");
}

fn image(name: String, state: Option<&'static str>) -> PlannedImage {
    let why = "x".repeat(200);
    PlannedImage { image: name, level: 1, state, starts_in_seconds: None, waits_for: vec![], why }
}

fn family(name: &str, images: usize) -> FamilyPlan {
    let names = |kind: &str| (0..images).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
    FamilyPlan {
        namespace: "default".into(),
        name: name.into(),
        causes: names("cause"),
        builds: names("image").into_iter().map(|name| image(name, None)).collect(),
        starts_in_seconds: Some(0),
        waits_for: None,
        planned_until: None,
        others: vec![image("held".into(), Some("Held"))],
        assumed_imports: Vec::new(),
        added: Vec::new(),
        removed: Vec::new(),
        unbuilt_changes: names(&"changed".repeat(20)),
        family_changes: Vec::new(),
    }
}

#[test]
fn a_comment_is_within_the_limit_of_forges() {
    let families: Vec<FamilyPlan> =
        (0..100).map(|number| family(&format!("family-{number}"), 500)).collect();
    let text = comment(&families);
    assert!(text.chars().count() <= 65_536, "{}", text.len());
    assert!(text.contains("more families are not shown"), "{}", &text[text.len() - 300..]);
    assert_eq!(text.matches("<details>").count(), text.matches("</details>").count());
    assert!(text.contains(" more | | |"));
}

#[test]
fn a_comment_says_what_is_not_built() {
    let text = comment(&[family("one", 1)]);
    assert!(text.contains("**default/one: 1 image on 1 level is built, starting now**"), "{text}");
    assert!(text.contains("| 1 | held | Held | x"), "{text}");
    assert!(text.contains("| 1 | image-0 | build | x"), "{text}");
}
