//! The installed controller: its version, whether it is ready, whom it serves, and what it passes
//! on to builds.

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Container},
};
use kube::{Api, Client, ResourceExt, api::ListParams};

use crate::{
    api::{ImageFamily, condition::shorten, labels},
    build_info,
    builds::{job::BuildEnvironment, pod_settings::PodSettings, proxy::ProxyVariables},
    preflight::{
        call::{CallError, call},
        report::Finding,
    },
    registry::{self, Platform},
};

/// Selects the controller's Deployments, however they were installed.
const SELECTOR: &str = "app.kubernetes.io/name=groundswell";
/// Maximum number of Deployments that are read.
const MAX_DEPLOYMENTS: u32 = 10;
/// The volume with the controller's configuration.
const CONFIGURATION: &str = "configuration";
/// The repository of the operator's image, unless another one is installed or named.
const REPOSITORY: &str = "ghcr.io/groundswell-dev/groundswell";

const CONTROLLER: &str = "controller";
/// The Lease of the active controller.
const LEASE: &str = "groundswell";
/// The most characters of a version that are quoted.
const MAX_VERSION: usize = 80;

/// What is known of the controller.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    /// Its `ServiceAccount`, if its Deployment was found.
    pub service_account: Option<String>,
    /// What it passes on to builds.
    pub environment: BuildEnvironment,
    /// How it reaches registries.
    pub registries: registry::Config,
    /// Whether the operator's image is that of a Deployment or named by the user, and not a guess.
    pub image_is_known: bool,
    /// The platform of the builds of new families whose strategies name none, if it is set.
    pub default_platform: Option<Platform>,
}

impl Installation {
    /// Returns what a controller of this version would be without any configuration.
    #[must_use]
    pub fn default_of_this_version() -> Self {
        let environment = BuildEnvironment {
            operator_image: format!("{REPOSITORY}:{}", build_info::VERSION),
            ..BuildEnvironment::default()
        };
        Self { environment, ..Self::default() }
    }
}

/// Reads the Deployment of the controller. Returns what follows from it, and what was found.
pub async fn check_controller(
    client: &Client,
    operator_namespace: &str,
    served_namespace: &str,
) -> (Installation, Vec<Finding>) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), operator_namespace);
    let parameters = ListParams::default().labels(SELECTOR).limit(MAX_DEPLOYMENTS);
    let found = call(api.list(&parameters)).await.map(|list| list.items);
    let running = running_version(client, operator_namespace).await;
    let places = CheckedPlaces { operator: operator_namespace, served: served_namespace };
    let mut findings = judge_controller(&found, running.as_deref(), places);
    let mut installation = Installation::default_of_this_version();
    let deployment = found.ok().and_then(|found| found.into_iter().next());
    if let Some(deployment) = deployment {
        read_deployment(&deployment, &mut installation);
        findings.extend(installation.set_proxy(|name| variable(&deployment, name)));
        if let Some(name) = configuration_name(&deployment) {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), operator_namespace);
            if let Ok(map) = call(api.get(&name)).await {
                read_configuration(&map, &mut installation);
            }
        }
    }
    (installation, findings)
}

/// Returns the version of the controller that is active, as it says it on its Lease. Earlier
/// versions do not say it, and not everybody may read the Lease.
async fn running_version(client: &Client, operator_namespace: &str) -> Option<String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), operator_namespace);
    let lease = call(api.get(LEASE)).await.ok()?;
    let version = lease.annotations().get(labels::CONTROLLER_VERSION)?;
    Some(shorten(version, MAX_VERSION))
}

/// The namespaces that are checked.
#[derive(Clone, Copy)]
struct CheckedPlaces<'a> {
    /// That of the controller.
    operator: &'a str,
    /// That of the families.
    served: &'a str,
}

/// `running` is the version that the active controller says it has.
fn judge_controller(
    found: &Result<Vec<Deployment>, CallError>,
    running: Option<&str>,
    places: CheckedPlaces<'_>,
) -> Vec<Finding> {
    let operator_namespace = places.operator;
    let deployments = match found {
        Ok(deployments) => deployments,
        Err(error) => {
            let message = format!("{error}; a user who may read Deployments there can check it");
            return vec![Finding::not_checked(CONTROLLER, message)];
        }
    };
    let Some(deployment) = deployments.first() else {
        let message = format!(
            "there is no Deployment with the label {SELECTOR} in namespace {operator_namespace}; \
             install Groundswell, or name its namespace with --operator-namespace"
        );
        return vec![Finding::problem(CONTROLLER, message)];
    };
    if deployments.len() > 1 {
        let names: Vec<String> = deployments.iter().map(ResourceExt::name_any).collect();
        let message = format!(
            "several are installed in namespace {operator_namespace}: {}; uninstall all but one",
            names.join(", ")
        );
        return vec![Finding::problem(CONTROLLER, message)];
    }
    vec![
        judge_readiness(deployment, running, operator_namespace),
        judge_scope(deployment, places.served),
    ]
}

fn judge_readiness(deployment: &Deployment, running: Option<&str>, namespace: &str) -> Finding {
    let name = deployment.name_any();
    let status = deployment.status.clone().unwrap_or_default();
    let (ready, wanted) = (
        status.ready_replicas.unwrap_or_default(),
        deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
    );
    let chart = deployment.labels().get("app.kubernetes.io/version").map_or("?", String::as_str);
    let version = running.unwrap_or(chart);
    if ready == 0 {
        let message = format!(
            "no replica of Deployment {namespace}/{name} is ready; run `kubectl -n {namespace} \
             describe pods -l {SELECTOR}`"
        );
        return Finding::problem(CONTROLLER, message);
    }
    let is_this = |version: &str| version.split(' ').next() == Some(build_info::VERSION);
    if !is_this(version) && is_this(chart) {
        let message = format!(
            "the chart is that of {chart}, but the controller that is active has the version \
             {version}: upgrade its image as well (the value `image.tag`, or both places in \
             deploy/groundswell.yaml)"
        );
        return Finding::problem(CONTROLLER, message);
    }
    if !is_this(version) {
        let message = format!(
            "it has the version {version}, and this check {}; use the plugin of the installed \
             version, or upgrade the controller",
            build_info::VERSION
        );
        return Finding::problem(CONTROLLER, message);
    }
    let according = if running.is_none() { " according to its label" } else { "" };
    let message = format!("version {version}{according}, {ready} of {wanted} replicas ready");
    Finding::ok(CONTROLLER, message)
}

fn judge_scope(deployment: &Deployment, namespace: &str) -> Finding {
    let subject = "served namespaces";
    let watched = variable(deployment, "WATCH_NAMESPACES").unwrap_or_default();
    let watched: Vec<&str> = watched.split(',').filter(|name| !name.is_empty()).collect();
    if watched.is_empty() {
        return Finding::ok(subject, "all");
    }
    if watched.contains(&namespace) {
        return Finding::ok(subject, format!("{namespace} is one of {}", watched.join(", ")));
    }
    Finding::problem(
        subject,
        format!(
            "the controller serves {}, but not {namespace}; add it to watchNamespaces",
            watched.join(", ")
        ),
    )
}

fn controller(deployment: &Deployment) -> Option<&Container> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers.iter().find(|container| container.name == CONTROLLER)
}

fn variable(deployment: &Deployment, name: &str) -> Option<String> {
    let env = controller(deployment)?.env.as_ref()?;
    env.iter().find(|variable| variable.name == name)?.value.clone()
}

fn configuration_name(deployment: &Deployment) -> Option<String> {
    let volumes = deployment.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == CONFIGURATION)?;
    Some(volume.config_map.as_ref()?.name.clone())
}

fn read_deployment(deployment: &Deployment, installation: &mut Installation) {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    installation.service_account = pod.and_then(|pod| pod.service_account_name.clone());
    if let Some(image) = variable(deployment, "OPERATOR_IMAGE") {
        installation.environment.operator_image = image;
        installation.image_is_known = true;
    }
    let platform = variable(deployment, "DEFAULT_PLATFORM");
    installation.default_platform = platform.and_then(|text| Platform::from_user(&text));
    let environment = &mut installation.environment;
    environment.image_pull_policy = variable(deployment, "OPERATOR_IMAGE_PULL_POLICY");
    if let Some(names) = variable(deployment, "BUILD_IMAGE_PULL_SECRETS") {
        environment.image_pull_secrets = names_of(&names);
    }
}

/// Reads what can be read. The controller itself rejects an invalid configuration when it starts.
fn read_configuration(map: &ConfigMap, installation: &mut Installation) {
    let text = |key: &str| map.data.as_ref().and_then(|data| data.get(key));
    if let Some(Ok(registries)) = text("registries.yaml").map(|text| serde_yaml::from_str(text)) {
        installation.set_registries(registries);
    }
    if let Some(Ok(pods)) = text("builds.yaml").map(|text| PodSettings::from_yaml(text)) {
        installation.environment.pods = pods;
    }
}

impl Installation {
    /// Sets the proxy of builds from the controller's environment. Returns a line if builds get
    /// none although there is one.
    pub fn set_proxy(&mut self, get: impl Fn(&str) -> Option<String>) -> Option<Finding> {
        match ProxyVariables::from_environment(get) {
            Ok(proxy) => {
                self.environment.proxy = proxy;
                None
            }
            Err(error) => Some(Finding::ok("proxy", format!("builds get none: {error}"))),
        }
    }

    /// Returns the platform of builds whose strategies name none: the recorded one of the family,
    /// or else that of new families. `None` if it is not known.
    #[must_use]
    pub fn platform_of(&self, family: Option<&ImageFamily>) -> Option<Platform> {
        let status = family.and_then(|family| family.status.as_ref());
        let recorded = status.and_then(|status| Platform::from_user(status.platform.as_deref()?));
        recorded.or_else(|| self.default_platform.clone())
    }

    /// Sets how registries are reached, for this check and for builds.
    pub fn set_registries(&mut self, registries: registry::Config) {
        self.environment.registries = serde_json::to_value(&registries).unwrap_or_default();
        self.registries = registries;
    }
}

/// Returns the names in a comma separated list.
pub fn names_of(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim);
    names.filter(|name| !name.is_empty()).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::preflight::report::Verdict;

    fn deployment(version: &str, ready: i32, watched: &str) -> Deployment {
        let container = json!({"name": "controller", "env": [
            {"name": "OPERATOR_IMAGE", "value": "registry.example.com/groundswell:1"},
            {"name": "OPERATOR_IMAGE_PULL_POLICY", "value": "Always"},
            {"name": "BUILD_IMAGE_PULL_SECRETS", "value": "pull, mirror"},
            {"name": "WATCH_NAMESPACES", "value": watched},
            {"name": "DEFAULT_PLATFORM", "value": "linux/arm64"},
            {"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
        serde_json::from_value(json!({
            "metadata": {"name": "gs", "labels": {"app.kubernetes.io/version": version}},
            "spec": {"replicas": 2, "selector": {}, "template": {"spec": {
                "serviceAccountName": "builder", "containers": [container],
                "volumes": [{"name": "configuration", "configMap": {"name": "settings"}}]}}},
            "status": {"readyReplicas": ready}}))
        .expect("a Deployment")
    }

    fn judged(found: Result<Vec<Deployment>, CallError>) -> Vec<(Verdict, String)> {
        judged_with(found, None)
    }

    fn judged_with(
        found: Result<Vec<Deployment>, CallError>,
        running: Option<&str>,
    ) -> Vec<(Verdict, String)> {
        let places = CheckedPlaces { operator: "groundswell-system", served: "team" };
        let findings = judge_controller(&found, running, places);
        findings.into_iter().map(|finding| (finding.verdict, finding.message)).collect()
    }

    #[test]
    fn the_controller_must_be_one_ready_and_of_this_version() {
        let installed = deployment(build_info::VERSION, 1, "");
        assert!(
            judged(Ok(vec![installed.clone()])).iter().all(|(verdict, _)| *verdict == Verdict::Ok)
        );
        for (found, expected) in [
            (Ok(vec![]), "install Groundswell"),
            (Ok(vec![installed.clone(), installed]), "several are installed"),
            (Ok(vec![deployment("9.9.9", 1, "")]), "the version 9.9.9"),
            (Ok(vec![deployment(build_info::VERSION, 0, "")]), "no replica"),
            (Ok(vec![deployment(build_info::VERSION, 1, "a,b")]), "serves a, b, but not team"),
        ] {
            let judged = judged(found);
            let problem = judged.iter().find(|(verdict, _)| *verdict == Verdict::Problem);
            assert!(problem.is_some_and(|(_, text)| text.contains(expected)), "{judged:?}");
        }
        let served = judged(Ok(vec![deployment(build_info::VERSION, 1, "a,team")]));
        assert_eq!(served[1].0, Verdict::Ok);
        let unknown = judged(Err(CallError::Forbidden("no".into())));
        assert_eq!(unknown[0].0, Verdict::NotChecked);
    }

    #[test]
    fn the_version_is_that_of_the_controller_that_runs() {
        let version = build_info::VERSION;
        let with = |chart: &str, running: &str| {
            judged_with(Ok(vec![deployment(chart, 2, "")]), Some(running)).remove(0)
        };
        let (verdict, text) = with(version, &build_info::LONG_VERSION);
        assert_eq!(verdict, Verdict::Ok, "{text}");
        assert!(text.contains(&*build_info::LONG_VERSION), "{text}");
        let (verdict, text) = with(version, "0.0.9 (commit abc)");
        assert_eq!(verdict, Verdict::Problem, "{text}");
        assert!(text.contains("0.0.9 (commit abc)") && text.contains("`image.tag`"), "{text}");
        let (verdict, text) = with("9.9.9", "9.9.9 (commit abc)");
        assert_eq!(verdict, Verdict::Problem, "{text}");
        assert!(text.contains("use the plugin of the installed version"), "{text}");
        let (verdict, text) = with("9.9.9", version);
        assert_eq!(verdict, Verdict::Ok, "the plugin and the controller agree: {text}");
        assert!(judged(Ok(vec![deployment(version, 2, "")]))[0].1.contains("according to its"));
    }

    #[test]
    fn what_builds_get_is_read_from_the_installation() {
        let mut installation = Installation::default_of_this_version();
        let deployment = deployment("1", 1, "");
        read_deployment(&deployment, &mut installation);
        assert_eq!(installation.service_account.as_deref(), Some("builder"));
        let named = |family: Option<&ImageFamily>| {
            installation.platform_of(family).map(|platform| platform.to_string())
        };
        assert_eq!(named(None).as_deref(), Some("linux/arm64"));
        let mut family = ImageFamily::default();
        assert_eq!(named(Some(&family)).as_deref(), Some("linux/arm64"));
        family.status.get_or_insert_default().platform = Some("linux/s390x".into());
        assert_eq!(named(Some(&family)).as_deref(), Some("linux/s390x"), "recorded");
        assert_eq!(installation.set_proxy(|name| variable(&deployment, name)), None);
        let secret = |_: &str| Some("http://me:hunter2@proxy".to_owned());
        let none = Installation::default().set_proxy(secret).expect("a line");
        assert!(none.message.contains("builds get none") && !none.message.contains("hunter2"));
        let name = configuration_name(&deployment).expect("a ConfigMap");
        assert_eq!(name, "settings");
        let data: Value = json!({"data": {
            "registries.yaml": "plainHttp: [registry.example.com]\n",
            "builds.yaml": "steps: {resources: {limits: {cpu: 1}}}\n"}});
        read_configuration(&serde_json::from_value(data).expect("a map"), &mut installation);
        let Installation { environment, registries, .. } = installation;
        assert_eq!(environment.operator_image, "registry.example.com/groundswell:1");
        assert_eq!(environment.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(environment.image_pull_secrets, ["pull", "mirror"]);
        assert!(registries.is_plain_http("registry.example.com"));
        assert_eq!(environment.registries["plainHttp"][0], "registry.example.com");
        assert_ne!(environment.pods, PodSettings::default());
        assert!(environment.proxy.to_string().contains("proxy.example.com"));
    }
}
