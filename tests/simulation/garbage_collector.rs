//! The garbage collector of the cluster.

use groundswell::controller::object_cache::Key;

use crate::{
    cluster::Cluster,
    objects::{Kind, owner, uid},
};

/// Deletes objects whose owners are gone.
pub fn collect(cluster: &mut Cluster) {
    for kind in [Kind::Image, Kind::Cascade, Kind::Job, Kind::Request] {
        let families: Vec<String> =
            cluster.objects.all(Kind::Family).map(|(_, family)| uid(family).into()).collect();
        let orphans = cluster
            .objects
            .all(kind)
            .filter(|(_, object)| !families.iter().any(|uid| uid == owner(object)))
            // A request has no owner until the controller has read it.
            .filter(|(_, object)| kind != Kind::Request || !owner(object).is_empty());
        let orphans: Vec<Key> = orphans.map(|(key, _)| key.clone()).collect();
        for key in orphans {
            cluster.note(format_args!("collected {kind:?} {}", key.name));
            cluster.remove(kind, &key);
        }
    }
    let jobs: Vec<String> =
        cluster.objects.all(Kind::Job).map(|(_, job)| uid(job).into()).collect();
    let orphans =
        cluster.objects.all(Kind::Pod).filter(|(_, pod)| !jobs.iter().any(|uid| uid == owner(pod)));
    let orphans: Vec<(Key, String)> =
        orphans.map(|(key, pod)| (key.clone(), owner(pod).into())).collect();
    for (key, job) in orphans {
        cluster.remove(Kind::Pod, &key);
        cluster.work.remove(&job);
    }
    // A pod that was not created yet never will be.
    cluster.work.retain(|job, _| jobs.contains(job));
}
