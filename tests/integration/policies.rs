//! The admission policies of the chart on a real API server: what they refuse to everybody, and
//! what the controller and the controllers of the cluster may still do. Users are impersonated.

use std::sync::atomic::{AtomicUsize, Ordering};

use groundswell::api::{ManagedImage, labels};
use http::Request;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::{
    client, cluster,
    support::{objects::Place, wait::wait_for},
};

/// The controller that the chart is rendered for.
const CONTROLLER: &str = "system:serviceaccount:groundswell-system:groundswell";
/// The controller of another installation, by the chart's value.
const OTHER_CONTROLLER: &str = "system:serviceaccount:other-system:groundswell";
/// A backup tool, by the chart's value.
const RESTORER: &str = "system:serviceaccount:velero:velero";
/// A user with all rights but those of the controller.
const TENANT: &str = "tenant";
const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
/// A name as the controller gives to Jobs.
const JOB: &str = "web-0123456789ab-0";

/// Installs policies for one namespace, under names of their own.
fn install(namespace: &str) {
    let values = format!(
        "{{fullnameOverride: {namespace}, serviceAccount: {{name: groundswell}}, watchNamespaces: \
         [{namespace}], admissionPolicy: {{controllers: ['{OTHER_CONTROLLER}'], restorers: \
         ['{RESTORER}']}}}}"
    );
    let arguments = [
        "template",
        "policies",
        "charts/groundswell",
        "--namespace=groundswell-system",
        "--show-only=templates/admission-policy.yaml",
        "--values=-",
    ];
    let tools = cluster().run("dev/tools/build", &["--path", "helm"]).expect("Helm");
    let helm = format!("{}/helm", tools.trim());
    let rendered = cluster().feed(&helm, &arguments, &values).expect("rendered");
    cluster().feed("kubectl", &["apply", "-f", "-"], &rendered).expect("policies");
}

/// A namespace in which a user does things. Roles forbid the user nothing.
struct As {
    place: Place,
}

impl As {
    async fn new(place: &Place, user: &str) -> Self {
        let kubeconfig = Kubeconfig::read_from(&cluster().kubeconfig).expect("kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("config");
        config.auth_info.impersonate = Some(user.into());
        config.auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        let client = Client::try_from(config).expect("client");
        Self { place: Place { client, ..place.clone() } }
    }

    /// Creates a Job in a dry run.
    async fn try_job(&self, job: &Value) -> Result<(), String> {
        answer(self.place.api::<Job>().create(&dry(), &read(job)).await)
    }

    /// Creates a pod in a dry run.
    async fn try_pod(&self, pod: &Value) -> Result<(), String> {
        answer(self.place.api::<Pod>().create(&dry(), &read(pod)).await)
    }

    async fn change_job(&self, name: &str, patch: &Value) -> Result<(), String> {
        let patch = Patch::Merge(patch);
        answer(self.place.api::<Job>().patch(name, &PatchParams::default(), &patch).await)
    }

    async fn change_pod(&self, name: &str, patch: &Value) -> Result<(), String> {
        let patch = Patch::Strategic(patch);
        answer(self.place.api::<Pod>().patch(name, &PatchParams::default(), &patch).await)
    }

    /// Adds a debug container to a pod in a dry run.
    async fn debug(&self, pod: &str, context: &Value) -> Result<(), String> {
        let container = json!({"name": "debug", "image": "busybox", "securityContext": context});
        let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        answer(self.place.api::<Pod>().patch_ephemeral_containers(pod, &parameters, &patch).await)
    }

    /// Runs a command in a pod. No node runs it: the answer says whether it was admitted.
    async fn exec(&self, pod: &str, subresource: &str) -> Result<(), String> {
        let namespace = &self.place.namespace;
        let uri = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/{subresource}?command=true&stdout=true"
        );
        let request = Request::post(uri).body(Vec::new()).expect("a request");
        answer(self.place.client.request_text(request).await)
    }
}

fn dry() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn read<K: serde::de::DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).expect("an object")
}

fn answer<T>(result: kube::Result<T>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// Asserts that a policy refuses, with this text.
#[track_caller]
fn refused(answer: Result<(), String>, expected: &str) {
    let message = answer.expect_err(expected);
    assert!(message.contains(expected), "`{expected}` is not in: {message}");
}

/// Asserts that it is admitted.
#[track_caller]
fn admitted(answer: Result<(), String>) {
    answer.expect("admitted");
}

fn ours() -> Value {
    json!({labels::MANAGED_BY: labels::MANAGED_BY_VALUE, labels::FAMILY: "app"})
}

fn job(name: &str, of_job: &Value, of_pods: &Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": of_job},
        "spec": {"backoffLimit": 0, "template": {
            "metadata": {"labels": of_pods},
            "spec": {"restartPolicy": "Never",
                "initContainers": [{"name": "prepare", "image": "operator"}],
                "containers": [{"name": "build", "image": "builder"}]},
        }},
    })
}

fn pod(metadata: &Value, spec: &Value) -> Value {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut pod = json!({"metadata": metadata, "spec": spec});
    pod["metadata"]["name"] = json!(format!("pod-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    pod
}

fn plain() -> Value {
    json!({"containers": [{"name": "a", "image": "i"}]})
}

/// A policy is enforced a moment after it was made.
async fn wait_enforced(what: &str, attempt: impl AsyncFn() -> Result<(), String>) {
    wait_for(format!("{what} to be enforced"), 60, async || match attempt().await {
        Ok(()) => Err("it is admitted".to_owned()),
        Err(message) if message.contains("ValidatingAdmissionPolicy") => Ok(()),
        Err(message) => Err(message),
    })
    .await;
}

/// Waits for the pod that the Job controller of the cluster makes.
async fn pod_of(place: &Place, job: &str) -> Pod {
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    wait_for("the pod of the Job", 60, async || {
        place.api::<Pod>().list(&of_job).await.expect("pods").items.pop().ok_or("no pod")
    })
    .await
}

#[tokio::test]
async fn the_api_server_keeps_others_from_our_jobs_and_pods() {
    let client = client().await;
    let place = Place::new(&client, "policies").await;
    install(&place.namespace);
    let tenant = As::new(&place, TENANT).await;
    let controller = As::new(&place, CONTROLLER).await;
    let none = json!({});
    let their_label = "is for Jobs of the Groundswell controller";
    wait_enforced("the policy for Jobs", async || tenant.try_job(&job("a", &ours(), &none)).await)
        .await;
    let named = format!("{JOB}-x7k2p");
    wait_enforced("the policy for commands", async || tenant.exec(&named, "exec").await).await;

    refused(tenant.try_job(&job("a", &ours(), &ours())).await, their_label);
    refused(tenant.try_job(&job("a", &none, &ours())).await, their_label);
    admitted(tenant.try_job(&job("a", &none, &none)).await);
    admitted(controller.try_job(&job("a", &ours(), &ours())).await);
    let other = As::new(&place, OTHER_CONTROLLER).await;
    admitted(other.try_job(&job("a", &ours(), &ours())).await);
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": "u"}]);
    for metadata in [
        json!({"labels": ours()}),
        json!({"labels": {labels::FAMILY: "app"}}),
        json!({"labels": {"batch.kubernetes.io/job-name": JOB}}),
        json!({"ownerReferences": owner}),
    ] {
        refused(tenant.try_pod(&pod(&metadata, &plain())).await, their_label);
    }
    admitted(tenant.try_pod(&pod(&json!({"labels": {"app": "a"}}), &plain())).await);

    let made = read(&job(JOB, &ours(), &ours()));
    controller.place.api::<Job>().create(&PostParams::default(), &made).await.expect("a Job");
    let pod = pod_of(&place, JOB).await.name_any();
    assert_pod_is_kept(&tenant, &pod).await;
    assert_job_is_kept(&tenant, &controller).await;

    // The real garbage collector deletes both, whatever finalizers and labels they have.
    let finalizer = json!({"metadata": {"finalizers": ["example.com/kept"]}});
    let gone = json!({"metadata": {"finalizers": null}});
    let collector = As::new(&place, COLLECTOR).await;
    admitted(controller.change_job(JOB, &finalizer).await);
    let unlabelled = json!({"metadata": {"labels": {labels::MANAGED_BY: null}}});
    admitted(controller.change_job(JOB, &unlabelled).await);
    admitted(collector.change_job(JOB, &gone).await);
    admitted(controller.change_job(JOB, &finalizer).await);
    admitted(tenant.change_job(JOB, &gone).await);
    let foreground = DeleteParams::foreground();
    place.api::<Job>().delete(JOB, &foreground).await.expect("deleted");
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    _ = place.api::<Pod>().delete(&pod, &now).await;
    wait_for("the Job to be gone", 60, async || {
        match place.api::<Job>().get_opt(JOB).await.expect("an answer") {
            None => Ok(()),
            Some(job) => Err(format!("{:?}", job.metadata)),
        }
    })
    .await;
}

/// What the policy says of a pod that the Job controller has made.
async fn assert_pod_is_kept(tenant: &As, pod: &str) {
    for (name, kind) in [("build", "containers"), ("prepare", "initContainers")] {
        let image = json!({"spec": {kind: [{"name": name, "image": "evil"}]}});
        refused(tenant.change_pod(pod, &image).await, "keeps the images of its containers");
    }
    for (label, value) in [
        (labels::MANAGED_BY, json!(null)),
        (labels::MANAGED_BY, json!("other")),
        (labels::FAMILY, json!("other")),
        (labels::CHECK, json!("new")),
        ("batch.kubernetes.io/controller-uid", json!("other")),
    ] {
        let changed = json!({"metadata": {"labels": {label: value}}});
        refused(tenant.change_pod(pod, &changed).await, "stay as they are");
    }
    let owners = Patch::Merge(json!({"metadata": {"ownerReferences": []}}));
    let pods = tenant.place.api::<Pod>();
    let released = answer(pods.patch(pod, &PatchParams::default(), &owners).await);
    refused(released, "keeps its owner");
    refused(tenant.debug(pod, &json!({})).await, "gets no debug containers");
    for subresource in ["exec", "attach"] {
        refused(tenant.exec(pod, subresource).await, "decide how a build or a check ends");
    }
    let noted = json!({"metadata": {"annotations": {"a": "b"}, "labels": {"a": "b"}}});
    admitted(tenant.change_pod(pod, &noted).await);

    // Somebody's own pod becomes none of ours.
    let own = json!({"metadata": {"name": "own"}, "spec": plain()});
    pods.create(&PostParams::default(), &read(&own)).await.expect("a pod");
    for labels in [ours(), json!({"batch.kubernetes.io/job-name": JOB})] {
        let labelled = json!({"metadata": {"labels": labels}});
        refused(tenant.change_pod("own", &labelled).await, "stay as they are");
    }
    let image = json!({"spec": {"containers": [{"name": "a", "image": "j"}]}});
    admitted(tenant.change_pod("own", &image).await);
    admitted(tenant.debug("own", &json!({})).await);
    for own in ["own-6d4cf56db6-x7k2p", "own-29000000-x7k2p"] {
        refused(tenant.exec(own, "exec").await, "not found");
    }
}

/// What the policy says of a Job of the controller.
async fn assert_job_is_kept(tenant: &As, controller: &As) {
    let unlabelled = json!({"metadata": {"labels": {labels::MANAGED_BY: null}}});
    refused(tenant.change_job(JOB, &unlabelled).await, "stay as they are");
    let renamed = json!({"metadata": {"labels": {labels::FAMILY: "other"}}});
    refused(tenant.change_job(JOB, &renamed).await, "stay as they are");
    for suspend in [true, false] {
        admitted(tenant.change_job(JOB, &json!({"spec": {"suspend": suspend}})).await);
    }
    admitted(tenant.change_job(JOB, &json!({"metadata": {"annotations": {"a": "b"}}})).await);
    let own: Job = read(&job("own", &json!({}), &json!({})));
    tenant.place.api::<Job>().create(&PostParams::default(), &own).await.expect("a Job");
    let labelled = json!({"metadata": {"labels": ours()}});
    refused(tenant.change_job("own", &labelled).await, "is for Jobs of the Groundswell controller");
    admitted(controller.change_job("own", &labelled).await);
}

#[tokio::test]
async fn the_api_server_keeps_others_from_our_records() {
    let client = client().await;
    let place = Place::new(&client, "policies").await;
    install(&place.namespace);
    let tenant = As::new(&place, TENANT).await;
    let record: ManagedImage = read(&json!({
        "apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImage",
        "metadata": {"name": "app.base", "namespace": place.namespace},
        "spec": {"family": "app", "image": "base", "repository": "registry.example.com/base"},
    }));
    let create = async |user: &str, parameters: PostParams| {
        let images = As::new(&place, user).await.place.api::<ManagedImage>();
        answer(images.create(&parameters, &record).await)
    };
    wait_enforced("the policy for records", async || create(TENANT, dry()).await).await;
    refused(create(TENANT, dry()).await, "are the records of the Groundswell controller");
    for user in [OTHER_CONTROLLER, RESTORER] {
        admitted(create(user, dry()).await);
    }
    admitted(create(CONTROLLER, PostParams::default()).await);
    let change = async |patch: Value| {
        let images = tenant.place.api::<ManagedImage>();
        let patch = Patch::Merge(patch);
        answer(images.patch("app.base", &PatchParams::default(), &patch).await)
    };
    let spec = json!({"spec": {"repository": "registry.example.com/evil"}});
    refused(change(spec).await, "are the records of the Groundswell controller");
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"});
    let owned = json!({"metadata": {"ownerReferences": [owner]}});
    refused(change(owned).await, "are the records of the Groundswell controller");
    admitted(change(json!({"metadata": {"annotations": {"a": "b"}}})).await);
}

/// Pods that the Pod Security level `baseline` forbids, one for each line of the standard.
fn above_baseline() -> Vec<(&'static str, Value)> {
    let with = |field: &str, value: Value| {
        let mut spec = plain();
        spec[field] = value;
        pod(&json!({}), &spec)
    };
    let of_pod = |context: Value| with("securityContext", context);
    let of_init = |mut container: Value| {
        container["name"] = json!("init");
        container["image"] = json!("i");
        with("initContainers", json!([container]))
    };
    let of_container = |context: Value| of_init(json!({"securityContext": context}));
    let probe = json!({"httpGet": {"port": 80, "host": "10.0.0.1"}});
    let hook = json!({"preStop": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}});
    let probed = |field: &str, value: Value| {
        with("containers", json!([{"name": "a", "image": "i", field: value}]))
    };
    let windows = json!({"windowsOptions": {"hostProcess": true, "runAsUserName": "a"}});
    let mut on_windows = with("securityContext", windows);
    on_windows["spec"]["hostNetwork"] = json!(true);
    let annotation = "container.apparmor.security.beta.kubernetes.io/a";
    let annotated = json!({"annotations": {annotation: "unconfined"}});
    vec![
        ("host processes", on_windows),
        ("host network", with("hostNetwork", json!(true))),
        ("host pids", with("hostPID", json!(true))),
        ("host ipc", with("hostIPC", json!(true))),
        ("privileged", of_container(json!({"privileged": true}))),
        ("capabilities", of_container(json!({"capabilities": {"add": ["SYS_ADMIN"]}}))),
        ("host paths", with("volumes", json!([{"name": "v", "hostPath": {"path": "/"}}]))),
        ("host ports", of_init(json!({"ports": [{"containerPort": 80, "hostPort": 80}]}))),
        ("probes", probed("livenessProbe", probe)),
        ("hooks", probed("lifecycle", hook)),
        ("AppArmor of the pod", of_pod(json!({"appArmorProfile": {"type": "Unconfined"}}))),
        ("AppArmor", of_container(json!({"appArmorProfile": {"type": "Unconfined"}}))),
        ("AppArmor by annotation", pod(&annotated, &plain())),
        ("SELinux type", of_pod(json!({"seLinuxOptions": {"type": "spc_t"}}))),
        ("SELinux user", of_container(json!({"seLinuxOptions": {"user": "system_u"}}))),
        ("SELinux role", of_container(json!({"seLinuxOptions": {"role": "system_r"}}))),
        ("seccomp of the pod", of_pod(json!({"seccompProfile": {"type": "Unconfined"}}))),
        ("seccomp", of_container(json!({"seccompProfile": {"type": "Unconfined"}}))),
        ("sysctls", of_pod(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}))),
    ]
}

#[tokio::test]
async fn only_builds_are_privileged_in_a_namespace_for_privileged_builds() {
    let client = client().await;
    let place = Place::new(&client, "privileged").await;
    install(&place.namespace);
    let labelled = json!({"metadata": {"labels": {"groundswell.dev/privileged-pods": "builds"}}});
    Api::<Namespace>::all(client)
        .patch(&place.namespace, &PatchParams::default(), &Patch::Merge(labelled))
        .await
        .expect("a namespace");
    let tenant = As::new(&place, TENANT).await;
    let privileged = json!({"securityContext": {"privileged": true}, "name": "a", "image": "i"});
    let privileged = json!({"restartPolicy": "Never", "containers": [privileged]});
    wait_enforced("the policy for privileged pods", async || {
        tenant.try_pod(&pod(&json!({}), &privileged)).await
    })
    .await;
    for (line, pod) in above_baseline() {
        let answer = tenant.try_pod(&pod).await;
        assert!(
            answer.as_ref().is_err_and(|message| message.contains("Pod Security level baseline")),
            "{line}: {answer:?}"
        );
    }
    let profile = json!({"type": "RuntimeDefault"});
    let allowed = json!({
        "securityContext": {"seccompProfile": profile, "appArmorProfile": profile,
            "seLinuxOptions": {"type": "container_t"},
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
        "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "securityContext": {"capabilities": {"add": ["CHOWN"], "drop": ["ALL"]}}}],
    });
    admitted(tenant.try_pod(&pod(&json!({}), &allowed)).await);

    let own = json!({"metadata": {"name": "own"}, "spec": plain()});
    let pods = tenant.place.api::<Pod>();
    pods.create(&PostParams::default(), &read(&own)).await.expect("a pod");
    refused(tenant.debug("own", &json!({"privileged": true})).await, "Pod Security level baseline");
    admitted(tenant.debug("own", &json!({})).await);
    // Each policy is enforced at a time of its own.
    wait_enforced("the policy for commands", async || tenant.exec("own", "exec").await).await;
    for subresource in ["exec", "attach"] {
        refused(tenant.exec("own", subresource).await, "nobody runs commands in them");
    }

    // A build is privileged, and its Job is made by the controller.
    let mut build = job(JOB, &ours(), &ours());
    build["spec"]["template"]["spec"] = privileged;
    let controller = As::new(&place, CONTROLLER).await;
    let jobs = controller.place.api::<Job>();
    jobs.create(&PostParams::default(), &read(&build)).await.expect("a Job");
    let made = pod_of(&place, JOB).await.name_any();
    refused(tenant.exec(&made, "exec").await, "command");
    refused(tenant.debug(&made, &json!({})).await, "gets no debug containers");
}
