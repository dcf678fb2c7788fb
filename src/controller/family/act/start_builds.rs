//! Builds are started: a Job per fingerprint and attempt, by a name that says which, so that none
//! is started twice.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Resource, ResourceExt};

use crate::{
    api::{
        BuildFailure, Edge, FailureClass, ImageState, RunningBuild, Source, condition::reason,
        labels,
    },
    builds::{
        self,
        request::{
            BuildParent, BuildRequest, FamilyIdentity, GitSecret, ParentNaming, ResolvedSource,
        },
    },
    controller::{
        context::{Context, ReconcileCache},
        error::ReconcileError,
        family::{
            act::jobs::{accepted, create},
            observe::{snapshot::Snapshot, strategies::strategy_ref},
        },
        object_cache::Key,
    },
    engine::{Action, Decision, causes, image::failure, tags},
    identity::BuildIdentity,
    lineage::{ImageIndex, Import},
    registry::Reference,
};

/// Starts the builds that the decision names, and completes the decision with what came of it.
/// Whether any was refused: then there is more to decide at once.
pub async fn start_builds(
    context: &Context,
    snapshot: &Snapshot,
    decision: &mut Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let actions: Vec<Action> = decision
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Build { .. }))
        .cloned()
        .collect();
    let (mut requests, mut jobs, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for action in &actions {
        match prepare(context, snapshot, cache, action).await? {
            Ok((request, job)) => {
                requests.push((action, request));
                jobs.push(job);
            }
            Err(why) => refused.push((action, Err(why))),
        }
    }
    let api = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let created = create(&context.stores.jobs, &api, &jobs, cache).await?;
    let created = requests.into_iter().zip(created);
    let started =
        created.map(|((action, request), job)| (action, job.map(|job| running(request, &job))));
    let mut any_refused = false;
    for (action, started) in started.chain(refused) {
        let Action::Build { image, identity, .. } = action else { continue };
        let image = image.position();
        let name = snapshot.family.spec.images.get(image).map_or("", |image| image.name.as_str());
        let Some(image) = decision.images.get_mut(image) else { continue };
        match started {
            Ok(running) => {
                image.message = format!(
                    "build {} runs as Job {}: {}",
                    running.build,
                    running.job,
                    causes::sentence(&image.causes)
                )
                .into();
                image.running = Some(running.into());
            }
            // Counted as an attempt, on the budget of its class, so that it is neither tried for
            // ever nor forgotten.
            Err(refused) => {
                any_refused = true;
                image.state = ImageState::Queued;
                image.reason = reason::RETRYING;
                image.message = refused.message.clone().into();
                let cause = causes::key(name, &image.causes);
                let (fingerprint, attempt) = (&identity.fingerprint, identity.attempt);
                let failed = failure::Failed { attempt, cascade: &identity.cascade, cause: &cause };
                let known = image.failure.take().map(|known| *known);
                image.failure =
                    Some(failure::add(known, fingerprint, &failed, refused, now).into());
            }
        }
    }
    Ok(any_refused)
}

/// The Job of one build; a failure says why it can't be started.
async fn prepare(
    context: &Context,
    snapshot: &Snapshot,
    cache: &mut ReconcileCache,
    action: &Action,
) -> Result<Result<(BuildRequest, Job), BuildFailure>, ReconcileError> {
    let Some((image, request)) = request(context, snapshot, action) else {
        let message = "an input of the build went away while it was started".to_owned();
        return Ok(Err(refused(FailureClass::Infrastructure, reason::SOURCE_NOT_FOUND, message)));
    };
    let (Some(spec), Some(strategy)) = (
        snapshot.family.spec.images.get(image.position()),
        snapshot.strategies.get(image.position()).and_then(Option::as_ref),
    ) else {
        let message = "the build strategy went away while the build was started".to_owned();
        return Ok(Err(refused(FailureClass::Infrastructure, reason::STRATEGY_NOT_FOUND, message)));
    };
    let wanted = strategy_ref(&snapshot.family.spec, spec);
    let job = match builds::job::job(&request, strategy, wanted, &context.environment) {
        Ok(job) => job,
        Err(error) => {
            let message = format!("spec.images[{}].strategy: {error}", spec.name);
            return Ok(Err(refused(FailureClass::Input, reason::INVALID_STRATEGY, message)));
        }
    };
    let api: Api<Job> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let key = format!(
        "{}/{:?}",
        strategy.name_any(),
        builds::strategy::strategy_revision(strategy, wanted)
    );
    Ok(accepted(&api, &job, key, cache).await?.map(|()| (request, job)))
}

fn running(request: BuildRequest, job: &Job) -> RunningBuild {
    RunningBuild {
        job: job.name_any(),
        fingerprint: request.identity.fingerprint.into(),
        build: request.identity.number,
        attempt: request.identity.attempt,
        started_at: job.creation_timestamp().map(|time| time.0),
    }
}

fn refused(class: FailureClass, reason: &str, message: String) -> BuildFailure {
    BuildFailure { class, reason: reason.into(), message }
}

/// What the build is asked to make.
fn request(
    context: &Context,
    snapshot: &Snapshot,
    action: &Action,
) -> Option<(ImageIndex, BuildRequest)> {
    let Action::Build { image: index, identity, parents, source } = action else { return None };
    let image = snapshot.family.spec.images.get(index.position())?;
    let repository = snapshot.repository(*index);
    let parents: Vec<BuildParent> = parents
        .iter()
        .map(|parent| BuildParent {
            name: parent_name(&parent.edge),
            repository: parent.repository.clone(),
            digest: parent.digest.clone(),
            naming: parent.edge.arg.clone().map_or_else(
                || ParentNaming::Reference(parent.reference.clone()),
                ParentNaming::Arg,
            ),
            usage: parent.edge.usage,
        })
        .collect();
    let request = BuildRequest {
        family: FamilyIdentity {
            namespace: snapshot.key.namespace.clone(),
            name: snapshot.key.name.clone(),
            uid: snapshot.family.uid().unwrap_or_default(),
        },
        image: image.name.clone(),
        reference: format!("{repository}:{}", tags::pushed_as(&identity.fingerprint)),
        plain_http: is_plain_http(context, &repository),
        annotations: annotations(image, &parents, source, identity),
        repository,
        identity: identity.clone(),
        parents,
        source: resolved(context, snapshot, image, source)?,
        args: image.args.clone(),
        target: image.target.clone(),
        labels: image.labels.clone(),
        credentials: snapshot
            .family
            .spec
            .credentials
            .iter()
            .map(|secret| secret.name.clone())
            .collect(),
        owner: snapshot.family.controller_owner_ref(&())?,
    };
    Some((*index, request))
}

/// The name of a parent as causes and messages tell it: see [`Import`].
fn parent_name(edge: &Edge) -> String {
    let import = edge.family.as_ref().map(|family| Import {
        namespace: family.namespace.clone(),
        family: family.name.clone(),
        image: edge.parent().into(),
    });
    import.map_or_else(|| edge.parent().into(), |import| import.to_string())
}

fn resolved(
    context: &Context,
    snapshot: &Snapshot,
    image: &crate::api::Image,
    revision: &str,
) -> Option<ResolvedSource> {
    match &image.source {
        Source { inline: Some(dockerfile), .. } => {
            Some(ResolvedSource::Inline { dockerfile: dockerfile.clone() })
        }
        Source { config_map: Some(source), .. } => Some(ResolvedSource::ConfigMap {
            name: source.name.clone(),
            items: source.items.clone(),
            hash: revision.into(),
        }),
        Source { git: Some(source), .. } => Some(ResolvedSource::Git {
            url: source.url.clone(),
            commit: revision.into(),
            path: source.path.clone(),
            dockerfile: source.dockerfile.clone(),
            secret: source.secret_ref.as_ref().map(|secret| GitSecret {
                name: secret.name.clone(),
                hosts: secret_hosts(context, &snapshot.key.namespace, &secret.name),
            }),
        }),
        Source { inline: None, config_map: None, git: None } => None,
    }
}

/// Whether the registry of a repository is spoken to without TLS.
fn is_plain_http(context: &Context, repository: &str) -> bool {
    repository
        .parse::<Reference>()
        .is_ok_and(|reference| context.registry.is_plain_http(reference.registry()))
}

fn secret_hosts(context: &Context, namespace: &str, name: &str) -> String {
    let secret = context.stores.secrets.get(&Key::new(namespace, name));
    secret
        .and_then(|secret| secret.annotations().get(labels::CREDENTIAL_HOSTS).cloned())
        .unwrap_or_default()
}

/// The annotations of the image's manifest, by the OCI image spec's names. `created` is fixed, so
/// that the same inputs give the same digest: see [`builds::SOURCE_DATE_EPOCH`].
fn annotations(
    image: &crate::api::Image,
    parents: &[BuildParent],
    revision: &str,
    identity: &BuildIdentity,
) -> BTreeMap<String, String> {
    let created = Timestamp::from_second(builds::SOURCE_DATE_EPOCH).unwrap_or_default();
    let mut annotations = BTreeMap::from([
        (labels::OCI_FINGERPRINT.to_owned(), identity.fingerprint.to_string()),
        (labels::OCI_BUILD.to_owned(), identity.number.to_string()),
        ("org.opencontainers.image.created".to_owned(), created.to_string()),
        ("org.opencontainers.image.revision".to_owned(), revision.to_owned()),
    ]);
    if let Some(base) = parents.iter().find(|parent| parent.usage == crate::api::EdgeUse::Base) {
        let name = match &base.naming {
            ParentNaming::Reference(reference) => reference.clone(),
            ParentNaming::Arg(_) => base.repository.clone(),
        };
        annotations.insert("org.opencontainers.image.base.name".into(), name);
        annotations.insert("org.opencontainers.image.base.digest".into(), base.digest.to_string());
    }
    if let Some(git) = &image.source.git {
        annotations.insert("org.opencontainers.image.source".into(), git.url.clone());
    }
    annotations
}
