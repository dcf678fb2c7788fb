//! The pre-flight against a real API server and registry. No kubelet runs here, so that the pod of
//! the check never starts.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use groundswell::preflight::rights::controller_rules;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authentication::v1::{TokenRequest, TokenRequestSpec},
        batch::v1::Job,
        core::v1::{Namespace, Pod, ResourceQuota, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    builder::STRATEGY,
    client, cluster,
    odd_registry::OddRegistry,
    support::{
        family,
        images::Images,
        objects::{Place, USER},
        wait::wait_for,
    },
};

/// A namespace with a Deployment that looks like a ready controller, and files for the check.
struct CheckScene {
    place: Place,
    folder: TempDir,
}

impl CheckScene {
    async fn new(name: &str) -> Self {
        let place = Place::new(&client().await, name).await;
        let scene = Self { place, folder: tempfile::tempdir().expect("a folder") };
        // The controller manager creates it a moment after the namespace.
        let accounts: Api<ServiceAccount> = scene.place.api();
        wait_for("the default ServiceAccount", 30, async || {
            accounts.get("default").await.map_err(|error| error.to_string())
        })
        .await;
        let account = ServiceAccount { metadata: named("controller"), ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.expect("a ServiceAccount");
        scene.install_controller().await;
        scene
    }

    async fn install_controller(&self) {
        let namespace = &self.place.namespace;
        let registries = json!({"plainHttp": [cluster().registry]}).to_string();
        self.place.config_map("settings", &[("registries.yaml", &registries)]).await;
        let labels = json!({
            "app.kubernetes.io/name": "groundswell",
            "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
        });
        let container = json!({
            "name": "controller", "image": "operator:1",
            "env": [
                { "name": "WATCH_NAMESPACES", "value": namespace },
                { "name": "OPERATOR_IMAGE", "value": "operator:1" },
            ],
        });
        let volume = json!({ "name": "configuration", "configMap": { "name": "settings" } });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "groundswell", "labels": labels },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "serviceAccountName": "controller",
                        "automountServiceAccountToken": false,
                        "containers": [container],
                        "volumes": [volume],
                    },
                },
            },
        });
        let api: Api<Deployment> = self.place.api();
        let deployment = serde_json::from_value(deployment).expect("a Deployment");
        api.create(&PostParams::default(), &deployment).await.expect("created");
    }

    /// Makes the controller's pod look ready, and waits until its Deployment says so.
    async fn make_ready(&self) {
        let pods: Api<Pod> = self.place.api();
        let of_controller = ListParams::default().labels("app.kubernetes.io/name=groundswell");
        let pod = wait_for("the controller's pod", 30, async || {
            let found = pods.list(&of_controller).await.map_err(|error| error.to_string())?;
            found.items.first().map(ResourceExt::name_any).ok_or("there is none".to_owned())
        })
        .await;
        let ready = json!({ "type": "Ready", "status": "True" });
        let status = json!({ "status": { "phase": "Running", "conditions": [ready] } });
        pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("a status");
        let api: Api<Deployment> = self.place.api();
        wait_for("the Deployment to be ready", 30, async || {
            let found = api.get("groundswell").await.map_err(|error| error.to_string())?;
            let ready = found.status.and_then(|status| status.ready_replicas);
            if ready == Some(1) { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await;
    }

    /// Writes a manifest with a family, and returns its path.
    fn manifest(&self, spec: &Value) -> String {
        let family = json!({
            "apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
            "metadata": { "name": "app" }, "spec": spec,
        });
        let path = self.folder.path().join("family.yaml");
        std::fs::write(&path, family.to_string()).expect("a file");
        path.to_str().expect("a path").to_owned()
    }

    fn command(&self, kubeconfig: &PathBuf, arguments: &[&str]) -> Command {
        let namespace = &self.place.namespace;
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-family"));
        command
            .args(["check", "--namespace", namespace, "--operator-namespace", namespace])
            .args(["--output", "json"])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn check(&self, arguments: &[&str]) -> Checked {
        self.check_as(&cluster().kubeconfig, arguments).await
    }

    async fn check_as(&self, kubeconfig: &PathBuf, arguments: &[&str]) -> Checked {
        let mut command = self.command(kubeconfig, arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a task");
        Checked::new(&output.expect("the plugin"))
    }

    async fn jobs(&self) -> Vec<String> {
        let jobs = self.place.list::<Job>().await;
        jobs.iter()
            .filter(|job| job.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect()
    }

    /// A kubeconfig of a `ServiceAccount` of the namespace, with the rights of a role.
    async fn kubeconfig_of(&self, name: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = self.place.api();
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.expect("a ServiceAccount");
        let request =
            TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let token = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .expect("a token")
            .status
            .expect("a token")
            .token;
        let text = std::fs::read_to_string(&cluster().kubeconfig).expect("a kubeconfig");
        let mut config: Value = serde_yaml::from_str(&text).expect("YAML");
        for user in config["users"].as_array_mut().expect("users") {
            user["user"] = json!({ "token": token });
        }
        let path = self.folder.path().join(name);
        std::fs::write(&path, config.to_string()).expect("a file");
        path
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

/// The report of a check.
struct Checked {
    code: Option<i32>,
    findings: Vec<Value>,
    text: String,
}

impl Checked {
    fn new(output: &Output) -> Self {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        Self { code: output.status.code(), findings, text }
    }

    /// Asserts the verdict about a subject, and that its message contains a text.
    fn assert(&self, subject: &str, verdict: &str, said: &str) {
        let found = self.findings.iter().any(|finding| {
            finding["subject"] == subject
                && finding["verdict"] == verdict
                && finding["message"].as_str().is_some_and(|message| message.contains(said))
        });
        assert!(found, "no line `{verdict} {subject}: {said}` in\n{}", self.text);
    }
}

#[tokio::test]
async fn a_preflight_checks_cluster_rights_registry_and_pod() {
    let scene = CheckScene::new("preflight").await;
    scene.make_ready().await;
    let namespace = &scene.place.namespace;
    let images = Images::new(&cluster().registry);
    images.push(&format!("library/{namespace}"), "3.20", None, "1", &BTreeMap::new()).await;
    let upstream = format!("{}/library/{namespace}", cluster().registry);
    let repository = format!("{}/{namespace}", cluster().registry);
    let mut spec = family::spec(&repository, &upstream, STRATEGY);
    spec["images"] = json!([family::image("base", "alpine")]);
    let manifest = scene.manifest(&spec);

    let checked = scene.check(&["-f", &manifest, "--timeout", "3s"]).await;
    checked.assert("API server", "ok", "Kubernetes v1.");
    checked.assert("CustomResourceDefinitions", "ok", "the 5 kinds");
    checked.assert("controller", "ok", env!("CARGO_PKG_VERSION"));
    checked.assert("served namespaces", "ok", namespace);
    checked.assert("your rights", "ok", "may do all");
    checked.assert("controller's rights", "problem", "jobs.batch");
    checked.assert("controller's rights", "problem", "imagefamilies/status.groundswell.dev");
    checked.assert(&format!("strategy {STRATEGY}"), "ok", "valid pod");
    checked.assert("admission", "ok", "Jobs and pods");
    checked.assert("build pod", "problem", "within 3 s: no scheduler has assigned its pod");
    checked.assert("credentials", "ok", "names none");
    checked.assert(&format!("repository {repository}/base"), "ok", "pushed to");
    checked.assert("upstream alpine", "ok", "sha256:");
    assert_eq!(checked.code, Some(1), "{}", checked.text);
    assert_eq!(scene.jobs().await, Vec::<String>::new(), "the Job is deleted");
    let tags = cluster().run("crane", &["ls", "--insecure", &format!("{repository}/base")]);
    assert!(!tags.is_ok_and(|tags| tags.contains("groundswell")), "a tag was written");

    let rules: Vec<Value> = controller_rules()
        .expect("rules")
        .into_iter()
        .map(|rule| {
            let (groups, resources, verbs) = (rule.api_groups, rule.resources, rule.verbs);
            json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
        })
        .collect();
    grant(&scene.place, "controller", &json!(rules)).await;
    let checked = scene.check(&["--no-pod", "--strategy", STRATEGY]).await;
    checked.assert("controller's rights", "problem", "buildstrategies.groundswell.dev in the");
    assert!(!checked.text.contains("may not create jobs.batch"), "{}", checked.text);
    grant_in_cluster(&scene.place, "controller").await;
    let checked = scene.check(&["--no-pod", "--strategy", STRATEGY]).await;
    checked.assert("controller's rights", "ok", "may do all");
    assert_eq!(checked.code, Some(0), "{}", checked.text);
}

/// Gives the `ServiceAccount` of a controller what it needs outside of the namespaces that it
/// serves.
async fn grant_in_cluster(place: &Place, account: &str) {
    let name = &place.namespace;
    let rules = json!([
        { "apiGroups": ["groundswell.dev"], "resources": ["buildstrategies"],
            "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"] },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "verbs": ["get", "update", "create"] },
        { "apiGroups": [""], "resources": ["secrets"], "verbs": ["create"] },
    ]);
    let role = json!({ "metadata": { "name": name }, "rules": rules });
    let role: ClusterRole = serde_json::from_value(role).expect("a ClusterRole");
    let client = client().await;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    roles.create(&PostParams::default(), &role).await.expect("a ClusterRole");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": name }],
    }))
    .expect("a ClusterRoleBinding");
    let bindings: Api<ClusterRoleBinding> = Api::all(client);
    bindings.create(&PostParams::default(), &binding).await.expect("a ClusterRoleBinding");
}

/// Gives a role with these rules to a `ServiceAccount`.
async fn grant(place: &Place, account: &str, rules: &Value) {
    let role = json!({ "metadata": { "name": account }, "rules": rules });
    let role: Role = serde_json::from_value(role).expect("a Role");
    place.api::<Role>().create(&PostParams::default(), &role).await.expect("a Role");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": { "name": account },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": place.namespace }],
    }))
    .expect("a RoleBinding");
    place.api().create(&PostParams::default(), &binding).await.expect("a RoleBinding");
}

#[tokio::test]
async fn a_preflight_says_what_is_wrong_with_registries_and_admission() {
    let scene = CheckScene::new("preflight-wrong").await;
    let namespace = &scene.place.namespace;
    let odd = OddRegistry::open().await;
    let registries = scene.folder.path().join("registries.yaml");
    let plain = json!({ "plainHttp": [odd.host, cluster().registry] });
    std::fs::write(&registries, plain.to_string()).expect("a file");
    let auth =
        json!({ "auths": { odd.host.clone(): { "username": "me", "password": "hunter2" } } });
    scene
        .place
        .secret("push", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &auth.to_string())
        .await;
    let upstream = format!("{}/library/absent-{namespace}", cluster().registry);
    let mut spec = family::spec(&format!("{}/denied", odd.host), &upstream, "buildkit");
    spec["credentials"] = json!([{ "name": "push" }]);
    spec["images"] = json!([family::image("base", "alpine")]);
    let manifest = scene.manifest(&spec);
    let namespaces: Api<Namespace> = Api::all(scene.place.client.clone());
    let label = json!({ "metadata": { "labels": {
        "pod-security.kubernetes.io/enforce": "baseline" } } });
    namespaces
        .patch(namespace, &PatchParams::apply(USER), &Patch::Merge(label))
        .await
        .expect("a label");

    let registries = registries.to_str().expect("a path");
    let arguments = ["-f", &manifest, "--registries-config", registries, "--timeout", "20s"];
    let checked = scene.check(&arguments).await;
    checked.assert("controller", "problem", "no replica");
    checked.assert("strategy buildkit", "problem", "does not exist");
    checked.assert("admission", "problem", "violates PodSecurity \"baseline:latest\"");
    checked.assert("admission", "problem", "`pod-security.kubernetes.io/enforce`");
    checked.assert("build pod", "problem", "violates PodSecurity");
    checked.assert("credentials", "ok", "push");
    checked.assert(
        &format!("repository {}/denied/base", odd.host),
        "problem",
        "neither pulled from nor pushed to",
    );
    checked.assert("upstream alpine", "problem", "does not exist in the registry");
    assert!(!checked.text.contains("hunter2"), "{}", checked.text);
    assert_eq!(checked.code, Some(1), "{}", checked.text);
    assert_eq!(scene.jobs().await, Vec::<String>::new(), "the Job is deleted");

    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": { "name": "few" }, "spec": { "hard": { "count/jobs.batch": "0" } } }))
    .expect("a quota");
    let quotas: Api<ResourceQuota> = scene.place.api();
    quotas.create(&PostParams::default(), &quota).await.expect("a quota");
    wait_for("the quota to be counted", 30, async || {
        let quota = quotas.get("few").await.map_err(|error| error.to_string())?;
        quota.status.and_then(|status| status.hard).map(|_| ()).ok_or("not counted".to_owned())
    })
    .await;
    let checked = scene.check(&["--no-pod", "--strategy", STRATEGY]).await;
    checked.assert("admission", "problem", "exceeded quota: few");
    checked.assert("admission", "problem", "raise the quota");
}

#[tokio::test]
async fn a_preflight_with_few_rights_says_what_it_could_not_check() {
    let scene = CheckScene::new("preflight-rights").await;
    let kubeconfig = scene.kubeconfig_of("guest").await;
    let checked = scene.check_as(&kubeconfig, &["--timeout", "3s"]).await;
    checked.assert("build pod", "notChecked", "name it with --operator-image");
    let arguments = ["--timeout", "3s", "--operator-image", "operator:1"];
    let checked = scene.check_as(&kubeconfig, &arguments).await;
    checked.assert("CustomResourceDefinitions", "ok", "the 5 kinds");
    checked.assert("controller", "notChecked", "cannot list resource \"deployments\"");
    checked.assert("your rights", "problem", "create secrets; ask for the role `edit`");
    checked.assert("strategy buildkit", "notChecked", "ships is tried in its place");
    checked.assert("admission", "notChecked", "cannot create resource \"jobs\"");
    checked.assert("build pod", "notChecked", "cannot create resource \"jobs\"");
    assert_eq!(checked.code, Some(1), "{}", checked.text);

    let pre = scene.check(&["--pre", "--no-pod"]).await;
    pre.assert("your rights", "ok", "you may do all");
    pre.assert("strategy buildkit", "ok", "is not installed yet");
    assert_eq!(pre.code, Some(0), "{}", pre.text);
}

/// A running check, which is killed if the test fails.
struct RunningCheck(Child);

impl Drop for RunningCheck {
    fn drop(&mut self) {
        // This fails if the process has already ended.
        _ = self.0.kill();
    }
}

#[tokio::test]
async fn a_preflight_that_is_stopped_deletes_its_job() {
    let scene = CheckScene::new("preflight-stop").await;
    let arguments = ["--timeout", "5m", "--strategy", STRATEGY];
    let child = scene.command(&cluster().kubeconfig, &arguments).spawn().expect("the plugin");
    let mut running = RunningCheck(child);
    wait_for("the Job of the check", 60, async || {
        let jobs = scene.jobs().await;
        if jobs.is_empty() { Err("there is none") } else { Ok(()) }
    })
    .await;
    let interrupted =
        Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().expect("kill");
    assert!(interrupted.success());
    let status = wait_for("the check to end", 30, async || {
        running.0.try_wait().expect("a process").ok_or("it runs")
    })
    .await;
    assert_eq!(status.code(), Some(2));
    assert_eq!(scene.jobs().await, Vec::<String>::new(), "the Job is deleted");
}
