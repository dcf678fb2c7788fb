//! The controller is killed repeatedly during a cascade. Nothing is built twice, and the cascade
//! completes.

use std::time::Duration;

use super::{
    IMAGES, alone, client, cluster,
    draw::Draw,
    scene::Scene,
    seed::seed,
    support::operator::{Operator, Settings},
};

/// How often the controller is killed.
const KILLS: usize = 20;
/// Upper bound of the delay between a build and the kill that follows it, in milliseconds.
const MAX_DELAY_MS: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time_of_a_cascade_it_builds_nothing_twice() {
    let _alone = alone().await;
    let mut draw = Draw::new(seed());
    let scene = Scene::new(cluster(), &client().await, "killed", IMAGES).await;
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    scene.apply().await;
    scene.wait_cascade(1).await;
    let first = scene.digests().await;

    // Kills are scheduled by builds and not by time, so that all of them happen during the cascade,
    // however fast it is.
    let mut ends: Vec<usize> = (0..KILLS).map(|_| draw.between(1, IMAGES)).collect();
    ends.sort_unstable();
    scene.move_upstream("2").await;
    for end in ends {
        scene.wait_jobs(IMAGES + end).await;
        let later = draw.between(0, MAX_DELAY_MS);
        tokio::time::sleep(Duration::from_millis(later as u64)).await;
        println!("killed {later} ms after build {end}");
        operator.kill();
        operator = Operator::start(&settings);
    }
    scene.wait_cascade(2).await;
    let second = scene.digests().await;
    assert!(
        first.iter().all(|(image, digest)| second[image] != *digest),
        "every image was rebuilt"
    );
    scene.assert_complete(&[first, second]).await;
}
