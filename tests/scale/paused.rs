//! The leader of two replicas is paused, and resumes after the other one has taken over. No effect
//! happens twice.

use std::process::Command;

use k8s_openapi::api::coordination::v1::Lease;

use super::{
    IMAGES, alone, client, cluster,
    draw::Draw,
    scene::{MAX_STALL_SECONDS, Scene},
    seed::seed,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// How many builds the follower starts before the paused leader resumes.
const FOLLOWER_BUILDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_does_nothing_twice() {
    let _alone = alone().await;
    let mut draw = Draw::new(seed());
    let scene = Scene::new(cluster(), &client().await, "paused", IMAGES).await;
    let one = Settings::new(cluster(), &scene.place.namespace, &[]);
    let two = Settings { identity: "two".into(), ..one.clone() };
    let mut leader = Operator::ready(&one).await;
    let mut follower = Operator::start(&two);
    let (mut of_leader, mut of_follower) = (one, two);
    scene.apply().await;

    let mut digests = Vec::new();
    for cascade in 1..=2 {
        let built = (cascade - 1) * IMAGES;
        // One pause per half, so that the follower still has builds to start.
        for half in [0, IMAGES / 2] {
            let at = built + half + draw.between(1, IMAGES / 3);
            scene.wait_jobs(at).await;
            signal(&leader, "STOP");
            println!("{} paused at build {at} of cascade {cascade}", of_leader.identity);
            wait_for("the follower to lead", 40, async || {
                let holder = holder(&scene).await;
                if holder == of_follower.identity { Ok(()) } else { Err(holder) }
            })
            .await;
            let paused_at = scene.build_log.count().0;
            scene.wait_jobs((paused_at + FOLLOWER_BUILDS).min(built + IMAGES)).await;
            signal(&leader, "CONT");
            wait_for("the former leader to exit", MAX_STALL_SECONDS, async || {
                let ended = leader.child.try_wait().expect("the controller");
                ended.map(|_| ()).ok_or_else(|| leader.log())
            })
            .await;
            leader = Operator::start(&of_leader);
            std::mem::swap(&mut leader, &mut follower);
            std::mem::swap(&mut of_leader, &mut of_follower);
        }
        scene.wait_cascade(cascade).await;
        digests.push(scene.digests().await);
        if cascade == 1 {
            scene.move_upstream("2").await;
        }
    }
    scene.assert_complete(&digests).await;
}

async fn holder(scene: &Scene) -> String {
    let lease = scene.place.api::<Lease>().get("groundswell").await.expect("the Lease");
    lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
}

fn signal(operator: &Operator, signal: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &operator.child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success(), "SIG{signal} to the controller");
}
