//! Our own containers of a Job's template: those that the Job was created with. Webhooks may add
//! others to the template and to the pod. What makes a container ours is written so that the
//! defaults of an API server change nothing. Pure.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EnvVarSource, Pod},
};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::labels;

/// The containers of a Job's template that the Job was created with.
#[derive(Clone, Debug, Default)]
pub struct OwnTemplate<'a> {
    /// The init containers, native sidecars among them.
    pub init: Vec<&'a Container>,
    /// The containers that run next to each other.
    pub main: Vec<&'a Container>,
}

impl<'a> OwnTemplate<'a> {
    /// Returns the containers of a Job's template; all of them if the Job does not say which ones
    /// it was created with.
    #[must_use]
    pub fn of(job: &'a Job) -> Self {
        let template = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let sent = job.annotations().get(labels::CONTAINERS);
        let is_sent = |container: &&Container| {
            sent.is_none_or(|names| names.split(',').any(|name| name == container.name))
        };
        let init = template.iter().flat_map(|pod| pod.init_containers.iter().flatten());
        let main = template.iter().flat_map(|pod| &pod.containers);
        Self { init: init.filter(is_sent).collect(), main: main.filter(is_sent).collect() }
    }

    /// Returns what each container runs, as a text that is equal only for equal containers: its
    /// name, image, command, arguments and variables.
    #[must_use]
    pub fn identity(&self) -> String {
        let all = |containers: &[&Container]| -> Vec<Value> {
            containers.iter().map(|container| identity(container)).collect()
        };
        json!([all(&self.init), all(&self.main)]).to_string()
    }

    /// Returns how a pod differs from what its Job's template says of these containers, as the end
    /// of a sentence about the pod; `None` if it runs them. A digest after the image, and further
    /// variables, are what webhooks add to pods.
    #[must_use]
    pub fn difference(&self, pod: &Pod) -> Option<String> {
        let spec = pod.spec.as_ref();
        let init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let main = spec.iter().flat_map(|spec| &spec.containers);
        let (init, main): (Vec<_>, Vec<_>) = (init.collect(), main.collect());
        let mut init = self.init.iter().filter_map(|ours| difference_of(ours, &init));
        init.next().or_else(|| self.main.iter().find_map(|ours| difference_of(ours, &main)))
    }
}

fn difference_of(ours: &Container, of_pod: &[&Container]) -> Option<String> {
    let name = &ours.name;
    let Some(runs) = of_pod.iter().find(|container| container.name == *name) else {
        return Some(format!("has no container `{name}`"));
    };
    let (wanted, image) = (image(ours), image(runs));
    let is_pinned =
        image.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'));
    if !is_pinned {
        return Some(format!("has the image {image} in its container `{name}`, and not {wanted}"));
    }
    if commands(ours) != commands(runs) {
        return Some(format!("has another command in its container `{name}`"));
    }
    let has = |variable: &&EnvVar| {
        let mut same = runs.env.iter().flatten().filter(|known| known.name == variable.name);
        same.clone().next().is_some() && same.all(|known| value(known) == value(variable))
    };
    let changed = ours.env.iter().flatten().find(|variable| !has(variable))?;
    Some(format!("has another value of {} in its container `{name}`", changed.name))
}

fn identity(container: &Container) -> Value {
    let variables = container.env.iter().flatten();
    let variables: Vec<Value> =
        variables.map(|variable| json!([variable.name, value(variable)])).collect();
    let (command, args) = commands(container);
    json!([container.name, image(container), command, args, variables])
}

fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

fn commands(container: &Container) -> (&[String], &[String]) {
    (
        container.command.as_deref().unwrap_or_default(),
        container.args.as_deref().unwrap_or_default(),
    )
}

/// Returns the value of a variable, or where it comes from. An API server adds versions and
/// divisors to sources.
fn value(variable: &EnvVar) -> Value {
    match &variable.value_from {
        None => json!(variable.value.as_deref().unwrap_or_default()),
        Some(source) => source_of(source),
    }
}

fn source_of(source: &EnvVarSource) -> Value {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = source;
    json!({
        "configMap": config_map_key_ref.as_ref().map(|source| (&source.name, &source.key)),
        "field": field_ref.as_ref().map(|source| &source.field_path),
        "file": file_key_ref
            .as_ref()
            .map(|source| (&source.volume_name, &source.path, &source.key)),
        "resource": resource_field_ref
            .as_ref()
            .map(|source| (source.container_name.as_deref().unwrap_or_default(), &source.resource)),
        "secret": secret_key_ref.as_ref().map(|source| (&source.name, &source.key)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        serde_json::from_value(json!({
            "metadata": {"annotations": {labels::CONTAINERS: "prepare,build"}},
            "spec": {"template": {"spec": {
                "initContainers": [{"name": "prepare", "image": "operator:1", "args": ["prepare"]}],
                "containers": [
                    {"name": "build", "image": "builder:1", "command": ["build"], "env": [
                        {"name": "A", "value": "1"}, {"name": "EMPTY", "value": ""},
                        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    ]},
                    {"name": "mesh", "image": "mesh:1"},
                ],
            }}},
        }))
        .expect("a Job")
    }

    fn pod(job: &Job) -> Pod {
        let spec = job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        Pod { spec, ..Pod::default() }
    }

    fn build(pod: &mut Pod) -> &mut Container {
        &mut pod.spec.as_mut().expect("a spec").containers[0]
    }

    /// A change of a pod, and a part of what is said of it.
    type PodEdit = (fn(&mut Pod), &'static str);

    #[test]
    fn a_pod_runs_the_containers_of_its_job() {
        let job = job();
        let own = OwnTemplate::of(&job);
        assert_eq!(own.difference(&pod(&job)), None);
        let changes: [PodEdit; 9] = [
            (|pod| pod.spec = None, "no container `prepare`"),
            (|pod| build(pod).name = "x".into(), "no container `build`"),
            (|pod| build(pod).image = Some("true:1".into()), "the image true:1"),
            (|pod| build(pod).image = Some("builder:10".into()), "and not builder:1"),
            (|pod| build(pod).command = Some(vec!["true".into()]), "another command"),
            (|pod| build(pod).args = Some(vec!["x".into()]), "another command"),
            (
                |pod| build(pod).env.as_mut().expect("variables")[0].value = Some("2".into()),
                "another value of A in its container `build`",
            ),
            (|pod| drop(build(pod).env.take()), "another value of A"),
            (
                |pod| {
                    let again = json!({"name": "A", "value": "2"});
                    let again = serde_json::from_value(again).expect("a variable");
                    build(pod).env.as_mut().expect("variables").push(again);
                },
                "another value of A",
            ),
        ];
        for (change, expected) in changes {
            let mut changed = pod(&job);
            change(&mut changed);
            let found = own.difference(&changed).unwrap_or_default();
            assert!(found.contains(expected), "`{expected}` is not in: {found}");
        }
    }

    #[test]
    fn webhooks_may_add_to_a_pod() {
        let job = job();
        let mut added = pod(&job);
        build(&mut added).image = Some("builder:1@sha256:00".into());
        let proxy = serde_json::from_value(json!({"name": "HTTPS_PROXY", "value": "p"}));
        build(&mut added).env.as_mut().expect("variables").push(proxy.expect("a variable"));
        let containers = &mut added.spec.as_mut().expect("a spec").containers;
        containers[1].image = Some("mesh:2".into());
        containers.push(Container { name: "agent".into(), ..Container::default() });
        assert_eq!(OwnTemplate::of(&job).difference(&added), None);
    }

    #[test]
    fn the_defaults_of_an_api_server_change_no_container() {
        let sent = job();
        let mut stored = sent.clone();
        let template = &mut stored.spec.as_mut().expect("a spec").template;
        let containers = &mut template.spec.as_mut().expect("a pod").containers;
        let variables = containers[0].env.as_mut().expect("variables");
        variables[1].value = None;
        let field = variables[2].value_from.as_mut().and_then(|from| from.field_ref.as_mut());
        field.expect("a field").api_version = Some("v1".into());
        containers[0].termination_message_path = Some("/dev/termination-log".into());
        containers[1].image = Some("mesh:2".into());
        assert_eq!(OwnTemplate::of(&sent).identity(), OwnTemplate::of(&stored).identity());
        assert_eq!(OwnTemplate::of(&sent).difference(&pod(&stored)), None);
    }
}
