//! Two installations of Groundswell that watch the same family: one of them serves it, and the
//! other one says so. It takes over once the first is gone.

use k8s_openapi::api::events::v1::Event;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// Waits until a controller says that the installation in a namespace serves its one family.
async fn wait_idle(operator: &Operator, other: &str) {
    let note = format!("1 families are not served here: the installation in namespace {other}");
    wait_for("the second installation to leave the family alone", 60, async || {
        let (code, text) = operator.get("readyz").await?;
        if code == 200 && text.contains(&note) { Ok(()) } else { Err(format!("{code} {text}")) }
    })
    .await;
    let (_, metrics) = operator.get("metrics").await.expect("metrics");
    assert!(metrics.contains("groundswell_families_of_other_installations 1\n"), "{metrics}");
}

async fn installation(place: &Place) -> Option<String> {
    place.family("app").await.status?.installation
}

#[tokio::test]
async fn a_second_installation_leaves_a_family_alone_until_the_first_is_gone() {
    let client = client().await;
    let scene = Scene::new(&client, "first").await;
    let (place, elsewhere) = (&scene.place, Place::new(&client, "second").await);
    let first = Settings::new(cluster(), &place.namespace, &[]);
    let second = Settings {
        more_namespaces: vec![place.namespace.clone()],
        ..Settings::new(cluster(), &elsewhere.namespace, &[])
    };
    let mut serving = Operator::ready(&first).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    place.wait_family("app", "Ready", 90).await;
    let before = place.digests("app").await;
    assert_eq!(installation(place).await.as_ref(), Some(&place.namespace));

    let idle = Operator::ready(&second).await;
    wait_idle(&idle, &place.namespace).await;
    let events = place.list::<Event>().await;
    let reported = events.iter().filter(|event| event.reason.as_deref() == Some("ServedElsewhere"));
    let notes: Vec<String> = reported.filter_map(|event| event.note.clone()).collect();
    assert!(notes.len() == 1 && notes[0].contains(&place.namespace), "{notes:?}");
    scene.move_upstream("2").await;
    let before = place.wait_rebuilt("app", &before, 90).await;
    scene.assert_builds("app", 2).await;
    assert_eq!(installation(place).await.as_ref(), Some(&place.namespace));

    serving.kill();
    scene.move_upstream("3").await;
    place.wait_rebuilt("app", &before, 120).await;
    assert_eq!(installation(place).await.as_ref(), Some(&elsewhere.namespace));
    scene.assert_builds("app", 3).await;
    let (_, ready) = idle.get("readyz").await.expect("an answer");
    assert!(!ready.contains("not served here"), "{ready}");

    let returned = Operator::ready(&first).await;
    wait_idle(&returned, &elsewhere.namespace).await;
    assert_eq!(installation(place).await.as_ref(), Some(&elsewhere.namespace));
}
