//! Records that have lost their family: they are adopted by the one of their name, and what they
//! say is not believed. A record that belongs to another object is left alone.

use groundswell::api::{Cascade, ImageFamily, ManagedImage, condition::Reason};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::ConfigMap},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        objects::{Place, USER},
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// A digest that nobody has built.
const PLANTED: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The uids of the objects that control each object of a kind, by name.
async fn owners<K>(place: &Place) -> Vec<(String, Vec<String>)>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let uids = |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect();
    let objects = place.list::<K>().await;
    objects.iter().map(|object| (object.name_any(), uids(object.owner_references()))).collect()
}

/// Takes the owners from all objects of a kind, as a restore from a backup does.
async fn remove_owners<K>(place: &Place)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let nobody = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    for object in place.list::<K>().await {
        let patched =
            place.api::<K>().patch(&object.name_any(), &PatchParams::default(), &nobody).await;
        patched.expect("patched");
    }
}

/// Deletes the family and leaves its records behind. No controller may run.
///
/// This is not left to the garbage collector (`--cascade=orphan`): for up to half a minute it does
/// not know kinds that were defined lately, orphans nothing of them, and deletes them afterwards.
async fn orphan(place: &Place, family: &str) {
    remove_owners::<ManagedImage>(place).await;
    remove_owners::<Cascade>(place).await;
    let api = place.api::<ImageFamily>();
    api.delete(family, &DeleteParams::background()).await.expect("deleted");
    wait_for("the family to be gone", 60, async || match api.get_opt(family).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Writes what nobody has built into a record, and adds records as anybody may who can create them.
async fn plant(place: &Place) {
    let (images, cascades) = (place.api::<ManagedImage>(), place.api::<Cascade>());
    let status = json!({"status": {
        "state": "Current", "reason": "Current", "message": "",
        "digest": PLANTED, "promoted": PLANTED,
        "hold": {"by": "somebody", "at": "2026-01-01T00:00:00Z"},
    }});
    let parameters = PatchParams { field_manager: Some(USER.into()), ..PatchParams::default() };
    images
        .patch_status("app.base", &parameters, &Patch::Merge(status))
        .await
        .expect("a planted status");
    let known = images.get("app.base").await.expect("a record");
    let planted = ManagedImage::new("planted", known.spec);
    images.create(&PostParams::default(), &planted).await.expect("a planted record");
    let spec = json!({"family": "app", "levels": [["base"]]});
    let planted = Cascade::new("planted", serde_json::from_value(spec).expect("a spec"));
    cascades.create(&PostParams::default(), &planted).await.expect("a planted cascade");
}

#[tokio::test]
async fn records_without_a_family_are_adopted_and_not_believed() {
    let client = client().await;
    let scene = Scene::new(&client, "orphans").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    place.wait_family("app", "Ready", 90).await;
    let digests = place.digests("app").await;
    let cascades: Vec<String> =
        place.list::<Cascade>().await.iter().map(ResourceExt::name_any).collect();
    operator.kill();
    orphan(place, "app").await;
    let orphaned = owners::<ManagedImage>(place).await;
    assert!(
        orphaned.len() == 4 && orphaned.iter().all(|(_, owners)| owners.is_empty()),
        "{orphaned:?}"
    );
    plant(place).await;

    let _operator = Operator::ready(&settings).await;
    let family = place.apply_family("app", &scene.spec()).await.expect("a family");
    let uid = family.uid().expect("a uid");
    place.wait_family("app", "Ready", 90).await;
    for (name, owners) in owners::<ManagedImage>(place).await {
        let expected = if name == "planted" { Vec::new() } else { vec![uid.clone()] };
        assert_eq!(owners, expected, "{name}");
    }
    for cascade in cascades {
        let known = place.api::<Cascade>().get(&cascade).await.expect("an ended cascade");
        assert_eq!(known.owner_references().first().map(|owner| &owner.uid), Some(&uid));
    }
    let planted = place.api::<Cascade>().get_opt("planted").await.expect("an answer");
    assert_eq!(planted, None, "nobody continues it");
    for record in place.list::<ManagedImage>().await.iter().filter(|r| r.name_any() != "planted") {
        let status = record.status.clone().unwrap_or_default();
        assert_eq!(status.digest.as_ref(), digests.get(&record.spec.image));
        assert_eq!((status.promoted, status.hold), (status.digest, None), "{}", record.name_any());
        assert_eq!(status.build, Some(1), "the number is in the registry");
    }
    // The Jobs of the family that is gone may be collected by now.
    let jobs = place.jobs("app").await;
    let is_ours = |job: &&Job| job.owner_references().iter().any(|owner| owner.uid == uid);
    assert_eq!(jobs.iter().filter(is_ours).count(), 0, "nothing is built again");
    let events = place.list::<k8s_openapi::api::events::v1::Event>().await;
    let adopted = events.iter().find(|event| event.reason.as_deref() == Some("RecordsAdopted"));
    let note = adopted.and_then(|event| event.note.clone()).unwrap_or_default();
    assert!(
        note.contains("4 ManagedImages") && note.ends_with("is read from the registry"),
        "{note}"
    );

    place.api::<ImageFamily>().delete("app", &DeleteParams::background()).await.expect("deleted");
    wait_for("the adopted records to be deleted with the family", 90, async || {
        let left = owners::<ManagedImage>(place).await;
        let cascades = owners::<Cascade>(place).await;
        let gone = left.iter().all(|(name, _)| name == "planted") && cascades.is_empty();
        if gone { Ok(()) } else { Err(format!("{left:?} {cascades:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_record_of_another_object_is_left_alone_and_named() {
    let client = client().await;
    let scene = Scene::new(&client, "foreign").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let owner = ConfigMap {
        metadata: ObjectMeta { name: Some("tenant".into()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    let config_maps = place.api::<ConfigMap>();
    let owner = config_maps.create(&PostParams::default(), &owner).await.expect("an owner");
    let spec: Value = json!({
        "family": "app", "image": "base", "repository": "registry.example.com/base", "level": 1,
    });
    let mut record = ManagedImage::new("app.base", serde_json::from_value(spec).expect("a spec"));
    record.metadata.owner_references = owner.controller_owner_ref(&()).map(|owner| vec![owner]);
    let images = place.api::<ManagedImage>();
    let created = images.create(&PostParams::default(), &record).await.expect("a record");

    place.apply_family("app", &scene.spec()).await.expect("a family");
    let (why, message) = place.wait_family("app", "Stalled", 60).await;
    assert_eq!(why, Reason::RecordConflict);
    assert!(message.contains("app.base is controlled by ConfigMap tenant"), "{message}");
    assert_eq!(images.get("app.base").await.expect("a record"), created);
    images.delete("app.base", &DeleteParams::default()).await.expect("deleted");
    place.wait_family("app", "Ready", 90).await;
}
