//! One of two controllers leads. The other takes over within 17 seconds after the first is killed,
//! plus the time of its calls to the API server.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// Upper bound on the time until the second controller leads: the 17 seconds that the documentation
/// states, and the time of the calls.
const MAX_TAKEOVER: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_second_controller_takes_over() {
    let client = client().await;
    let scene = Scene::new(&client, "leader").await;
    let first = Settings::new(cluster(), &scene.place.namespace, &[]);
    let second = Settings { identity: "two".into(), ..first.clone() };
    let mut leader = Operator::ready(&first).await;
    let follower = Operator::start(&second);
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let digests = scene.place.digests("app").await;
    assert_eq!(holder(&scene).await, "one");
    assert_eq!(leads(&follower).await, Ok("0".into()));

    leader.kill();
    let killed = Instant::now();
    scene.move_upstream("2").await;
    wait_for("the second to lead", MAX_TAKEOVER.as_secs(), async || {
        let holder = holder(&scene).await;
        if holder == "two" {
            Ok(())
        } else {
            Err(format!("the Lease is held by {holder:?}\n{}", follower.log()))
        }
    })
    .await;
    assert!(killed.elapsed() < MAX_TAKEOVER, "{:?}", killed.elapsed());
    scene.place.wait_rebuilt("app", &digests, 60).await;
    scene.assert_builds("app", 2).await;
    assert_eq!(leads(&follower).await, Ok("1".into()));
}

async fn holder(scene: &Scene) -> String {
    let lease = scene.place.api::<Lease>().get("groundswell").await.expect("the Lease");
    lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
}

/// The value of the metric for whether a controller leads.
async fn leads(operator: &Operator) -> Result<String, String> {
    let (_, metrics) = operator.get("metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with("groundswell_leader"));
    line.and_then(|line| Some(line.rsplit_once(' ')?.1.to_owned())).ok_or(metrics)
}
