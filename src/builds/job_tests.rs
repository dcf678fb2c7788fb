#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{BuildStrategySpec, RegistryCredential, UserNamespace},
    builds::request::{FamilyIdentity, GitSecret},
    identity::{BuildIdentity, ParentNaming, PinnedParent},
};

fn strategy(spec: Value) -> BuildStrategy {
    let spec: BuildStrategySpec =
        serde_json::from_value(json!({"template": {"spec": spec}})).expect("strategy");
    BuildStrategy::new("s", spec)
}

fn plain() -> BuildStrategy {
    strategy(
        json!({"hostUsers": false, "containers": [{"name": "build", "image": "b", "args": ["{{ \
            image.reference }}"]}]}),
    )
}

fn request() -> BuildRequest {
    BuildRequest {
        family: FamilyIdentity { namespace: "team".into(), name: "python".into(), uid: "u".into() },
        image: "pyenv".into(),
        reference: "registry.example.com/team/pyenv:gs-1".into(),
        identity: BuildIdentity {
            fingerprint: "0123456789012345678901234567890123456789".into(),
            attempt: 2,
            number: 7,
            cascade: "python-1".into(),
            ..BuildIdentity::default()
        },
        parents: vec![PinnedParent {
            naming: ParentNaming::Reference("docker.io/library/alpine:3.20".into()),
            ..PinnedParent::default()
        }],
        source: ResolvedSource::Git {
            url: "https://git.example.com/x".into(),
            commit: "c".into(),
            path: None,
            dockerfile: "Dockerfile".into(),
            include: Vec::new(),
            exclude: Vec::new(),
            submodules: false,
            lfs: false,
            secret: Some(GitSecret { name: "deploy".into(), hosts: "git.example.com".into() }),
        },
        credentials: ["push", "pull"].map(RegistryCredential::unrestricted).into(),
        ..BuildRequest::default()
    }
}

fn environment() -> BuildEnvironment {
    BuildEnvironment { operator_image: "operator:1".into(), ..BuildEnvironment::default() }
}

fn job_of(strategy: &BuildStrategy) -> Job {
    job(&request(), strategy, &StrategyRef::default(), &environment()).expect("job")
}

fn pod(job: &Job) -> PodSpec {
    job.spec.clone().expect("spec").template.spec.expect("pod")
}

#[test]
fn a_job_name_is_short_valid_and_unique_to_the_build() {
    let fingerprint = &Fingerprint::from("0123456789012345678901234567890123456789");
    let name = job_name("u", "pyenv", fingerprint, 0);
    assert!(
        name.starts_with("pyenv-") && name.ends_with("-0") && name.len() == "pyenv-".len() + 14,
        "{name}"
    );
    assert_eq!(name, job_name("u", "pyenv", fingerprint, 0));
    let others = [
        job_name("v", "pyenv", fingerprint, 0),
        job_name("u", "pyenw", fingerprint, 0),
        job_name("u", "pyenv", &fingerprint.as_str()[1..].into(), 0),
        job_name("u", "pyenv", fingerprint, 1),
    ];
    assert!(others.iter().all(|other| *other != name), "{others:?}");
    let long = job_name("u", &format!("{}-b", "a".repeat(29)), fingerprint, 99);
    assert!(long.len() <= 54 && !long.contains("--"), "{long}");
}

#[test]
fn the_same_build_gives_the_same_job() {
    assert_eq!(job_of(&plain()), job_of(&plain()));
}

#[test]
fn the_job_runs_once_and_cleans_up() {
    let job = job_of(&plain());
    let labels = job.metadata.labels.clone().expect("labels");
    assert_eq!(labels[labels::FAMILY], "python");
    assert_eq!(labels[labels::ATTEMPT], "2");
    assert_eq!(job.metadata.annotations.as_ref().expect("annotations")[labels::BUILD], "7");
    assert_eq!(
        job.metadata.annotations.as_ref().expect("annotations")[labels::REPOSITORY],
        request().repository
    );
    let spec = job.spec.as_ref().expect("spec");
    assert_eq!(
        (spec.backoff_limit, spec.active_deadline_seconds, spec.ttl_seconds_after_finished),
        (Some(0), Some(3600), Some(3600))
    );
    assert_eq!(spec.pod_replacement_policy.as_deref(), Some("Failed"));
    assert_eq!(spec.template.metadata.as_ref().expect("metadata").labels, Some(labels));
    let pod = pod(&job);
    assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
    assert_eq!(
        (pod.automount_service_account_token, pod.enable_service_links),
        (Some(false), Some(false))
    );
    assert_eq!(
        pod.containers[0].args.as_deref(),
        Some(&["registry.example.com/team/pyenv:gs-1".to_owned()][..])
    );
}

#[test]
fn only_prepare_mounts_the_secrets() {
    let job = job_of(&plain());
    let pod = pod(&job);
    let prepare = &pod.init_containers.as_ref().expect("init")[0];
    let paths = |container: &Container| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| mount.mount_path.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(prepare.name, PREPARE);
    assert_eq!(
        paths(prepare),
        ["/workspace", "/docker-config", "/credentials/0", "/credentials/1", "/git-credential"]
    );
    assert_eq!(paths(&pod.containers[0]), ["/workspace", "/docker-config"]);
    let secrets: Vec<_> = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.secret.as_ref()?.secret_name.clone())
        .collect();
    assert_eq!(secrets, ["push", "pull", "deploy"]);
    let of_push = pod.volumes.iter().flatten().find_map(|volume| volume.secret.as_ref());
    let of_push = of_push.expect("a Secret");
    let keys: Vec<&str> = of_push.items.iter().flatten().map(|item| item.key.as_str()).collect();
    assert_eq!(
        (keys, of_push.optional),
        (vec![".dockerconfigjson", ".dockercfg"], Some(true)),
        "a Secret has one of the keys"
    );
    let security = prepare.security_context.as_ref().expect("security");
    assert_eq!(
        (security.run_as_non_root, security.read_only_root_filesystem),
        (Some(true), Some(true))
    );
    assert_eq!(security.run_as_user, None, "the image or the cluster decides");
}

#[test]
fn the_operators_configuration_replaces_the_resources_of_prepare() {
    let resources = |environment: &BuildEnvironment| {
        let job = job(&request(), &plain(), &StrategyRef::default(), environment).expect("job");
        pod(&job).init_containers.expect("init")[0].resources.clone().expect("resources")
    };
    let defaults = resources(&environment());
    assert_eq!(defaults.requests, Some(quantities(&PREPARE_REQUESTS)));
    assert_eq!(defaults.limits, Some(quantities(&PREPARE_LIMITS)));
    let settings = "steps: {resources: {limits: {cpu: 200m, memory: 1Gi}}}";
    let pods = PodSettings::from_yaml(settings).expect("valid");
    let configured = resources(&BuildEnvironment { pods, ..environment() });
    assert_eq!(configured.limits, Some(quantities(&[("cpu", "200m"), ("memory", "1Gi")])));
    let settings =
        "steps: {resources: {limits: {cpu: 1}}, prepare: {resources: {limits: {cpu: 2}}}}";
    let pods = PodSettings::from_yaml(settings).expect("valid");
    let configured = resources(&BuildEnvironment { pods, ..environment() });
    assert_eq!(configured.limits, Some(quantities(&[("cpu", "2")])));
}

#[test]
fn private_authorities_and_the_proxy_reach_prepare_and_the_builder() {
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let proxy = |name: &str| (name == "HTTPS_PROXY").then(|| "http://proxy:3128".to_owned());
    let environment = BuildEnvironment {
        ca_bundle: CaBundle::parse(certificate).expect("a bundle"),
        proxy: ProxyVariables::from_environment(proxy).expect("a proxy"),
        ..environment()
    };
    let own = strategy(json!({"hostUsers": false, "containers": [
        {"name": "build"},
        {"name": "other", "env": [{"name": "https_proxy", "value": "http://own:1"}]},
    ]}));
    let value = |container: &Container, name: &str| {
        let variables = container.env.clone().unwrap_or_default();
        variables.into_iter().find(|variable| variable.name == name).and_then(|found| found.value)
    };
    let of_family = |environment: &BuildEnvironment| {
        pod(&job(&request(), &own, &StrategyRef::default(), environment).expect("job"))
    };
    let configured = of_family(&environment);
    let prepare = &configured.init_containers.as_ref().expect("init")[0];
    let spec: PrepareSpec =
        serde_json::from_str(&value(prepare, PREPARE_VARIABLE).expect("a spec")).expect("parses");
    assert_eq!(spec.ca_bundle, certificate);
    assert_eq!(value(prepare, "SSL_CERT_FILE").as_deref(), Some(pod_paths::TRUST_FILE));
    for container in [prepare, &configured.containers[0]] {
        assert_eq!(value(container, "HTTPS_PROXY").as_deref(), Some("http://proxy:3128"));
    }
    assert_eq!(value(&configured.containers[1], "HTTPS_PROXY"), None, "it has its own");

    let plain = of_family(&self::environment());
    let prepare = &plain.init_containers.as_ref().expect("init")[0];
    assert_eq!((value(prepare, "SSL_CERT_FILE"), value(prepare, "HTTPS_PROXY")), (None, None));
}

#[test]
fn the_pods_images_are_pulled_with_every_secret_once() {
    let secrets = |request: &BuildRequest, strategy: &BuildStrategy, operator: &[&str]| {
        let environment = BuildEnvironment {
            image_pull_secrets: operator.iter().map(ToString::to_string).collect(),
            ..environment()
        };
        let job = job(request, strategy, &StrategyRef::default(), &environment).expect("job");
        let secrets = pod(&job).image_pull_secrets;
        secrets.map(|secrets| secrets.into_iter().map(|secret| secret.name).collect::<Vec<_>>())
    };
    let own = strategy(json!({"hostUsers": false, "containers": [{"name": "build"}],
        "imagePullSecrets": [{"name": "strategy"}, {"name": "pull"}]}));
    assert_eq!(
        secrets(&request(), &own, &["operator", "push"]).expect("secrets"),
        ["strategy", "pull", "push", "operator"]
    );
    let anonymous = BuildRequest { credentials: Vec::new(), ..request() };
    assert_eq!(secrets(&anonymous, &plain(), &["operator"]).expect("secrets"), ["operator"]);
    // The API server adds those of the ServiceAccount only to a pod that names none.
    assert_eq!(secrets(&anonymous, &plain(), &[]), None);
}

#[test]
fn shipped_strategies_request_disk_space_and_ask_not_to_be_disrupted() {
    for strategy in shipped() {
        let job = job_of(&strategy);
        let template = &job.spec.as_ref().expect("spec").template;
        let annotations =
            template.metadata.clone().and_then(|metadata| metadata.annotations).expect("some");
        assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
        let of_job = job.metadata.annotations.as_ref().expect("annotations");
        assert_eq!(of_job["karpenter.sh/do-not-disrupt"], "true", "policies read the Job's");
        assert_eq!(annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"], "false");
        let resources = pod(&job).containers[0].resources.clone().expect("resources");
        let disk = |list: Option<BTreeMap<String, Quantity>>| {
            list.expect("a list")["ephemeral-storage"].0.clone()
        };
        assert_eq!(
            (disk(resources.requests), disk(resources.limits)),
            ("2Gi".into(), "20Gi".into())
        );
    }
}

#[test]
fn prepare_runs_as_the_builders_user() {
    let mut spec = json!({"hostUsers": false, "securityContext": {"runAsUser": 1000,
        "runAsGroup": 1001}, "containers": [{"name": "b"}]});
    let user = |spec: &Value| {
        let pod = pod(&job_of(&strategy(spec.clone())));
        let security =
            pod.init_containers.expect("init")[0].security_context.clone().expect("security");
        (security.run_as_user, security.run_as_group)
    };
    assert_eq!(user(&spec), (Some(1000), Some(1001)));
    spec["containers"][0]["securityContext"] = json!({"runAsUser": 2000});
    assert_eq!(user(&spec), (Some(2000), Some(1001)));
    spec["containers"][0]["securityContext"] = json!({"runAsUser": 0});
    assert_eq!(user(&spec), (Some(65532), Some(65532)));
    // OpenShift assigns a user, and refuses any other.
    assert_eq!(user(&json!({"hostUsers": false, "containers": [{"name": "b"}]})), (None, None));
}

#[test]
fn a_dropped_user_namespace_is_detected() {
    let sent = job_of(&plain());
    assert!(!drops_user_namespace(&sent, &sent));
    let mut returned = sent.clone();
    if let Some(pod) = returned.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
        pod.host_users = None;
    }
    assert!(drops_user_namespace(&sent, &returned));
    let mut privileged = strategy(json!({"containers": [{"name": "b"}]}));
    privileged.spec.user_namespace = UserNamespace::NotRequired;
    let sent = job_of(&privileged);
    assert!(!drops_user_namespace(&sent, &sent));
}

/// Returns the strategies that the chart ships, sorted by file name.
fn shipped() -> Vec<BuildStrategy> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/groundswell/files/strategies");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect(folder)
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).expect("file");
    files.iter().map(|path| serde_yaml::from_str(&read(path)).expect("strategy")).collect()
}

#[test]
fn every_shipped_strategy_makes_a_job() {
    let names: Vec<_> = shipped()
        .iter()
        .map(|strategy| strategy.metadata.name.clone().unwrap_or_default())
        .collect();
    assert_eq!(names, ["buildkit-privileged", "buildkit"]);
    for strategy in shipped() {
        let pod = pod(&job_of(&strategy));
        let privileged =
            pod.containers[0].security_context.as_ref().and_then(|security| security.privileged);
        match strategy.spec.user_namespace {
            UserNamespace::Required => {
                assert_eq!((pod.host_users, privileged), (Some(false), None));
            }
            UserNamespace::NotRequired => {
                assert_eq!((pod.host_users, privileged), (None, Some(true)));
            }
        }
    }
}

#[test]
fn buildkit_gets_every_input_of_the_image() {
    let buildkit = shipped()
        .into_iter()
        .find(|strategy| strategy.metadata.name.as_deref() == Some("buildkit"));
    let mut request = request();
    request.parents[0].repository = "docker.io/library/alpine".into();
    request.parents[0].digest = "sha256:aa".into();
    request.args = BTreeMap::from([("A".into(), "1,$(HOME)".into())]);
    request.labels = BTreeMap::from([("l".into(), "x=y".into())]);
    request.annotations =
        BTreeMap::from([("n".into(), "one, two".into()), ("o".into(), "3".into())]);
    request.target = Some("final".into());
    let job = job(&request, &buildkit.expect("shipped"), &StrategyRef::default(), &environment())
        .expect("job");
    assert_eq!(
        pod(&job).containers[0].args.as_deref().unwrap_or_default(),
        [
            "--progress=plain",
            "--metadata-file=/workspace/metadata.json",
            "--frontend=dockerfile.v0",
            "--local=context=/workspace/context",
            "--local=dockerfile=/workspace/context",
            "--opt=filename=Dockerfile",
            "--opt=platform=linux/amd64",
            "--opt=cmdline=dockerfile.v0",
            "--source-policy-file=/workspace/source-policy.json",
            "--opt=target=final",
            "--opt=context:alpine:3.20=docker-image://docker.io/library/alpine@sha256:aa",
            "--opt=build-arg:A=1,$$(HOME)",
            "--opt=label:l=x=y",
            concat!(
                "--output=type=image,name=registry.example.com/team/pyenv:gs-1,push=true,",
                "oci-mediatypes=true,rewrite-timestamp=true,",
                "\"annotation.n=one, two\",annotation.o=3"
            ),
        ]
    );
}

#[test]
fn a_parameter_denies_what_add_fetches() {
    for strategy in shipped() {
        for (value, file) in
            [("Allowed", pod_paths::SOURCE_POLICY), ("Denied", pod_paths::IMAGES_ONLY_POLICY)]
        {
            let parameters = BTreeMap::from([("remoteSources".into(), value.into())]);
            let chosen = StrategyRef { parameters, ..StrategyRef::default() };
            let job = job(&request(), &strategy, &chosen, &environment()).expect("job");
            let option = format!("--source-policy-file={file}");
            let args = pod(&job).containers.remove(0).args.expect("arguments");
            assert!(args.contains(&option), "{args:?}");
        }
    }
}

/// The entry point of `BuildKit` in a folder of its own: it prints its arguments, one per line.
const PRINT_ARGUMENTS: &str = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n";

#[test]
fn buildkit_gets_the_dates_and_contexts_that_prepare_writes() {
    let folder = tempfile::tempdir().expect("folder");
    let dates = folder.path().join("dates.env");
    let text = "SOURCE_DATE_EPOCH=1767323045\nCREATED=2026-01-02T03:04:05Z\n";
    std::fs::write(&dates, text).expect("dates");
    let contexts = folder.path().join("contexts.env");
    let options = ["--opt=context:a:1@sha256:b=docker-image://c", "--opt=context:d=e"];
    let text = format!("CONTEXTS='{}'\n", options.join(" "));
    std::fs::write(&contexts, text).expect("contexts");
    let entry_point = folder.path().join("buildctl-daemonless.sh");
    std::fs::write(&entry_point, PRINT_ARGUMENTS).expect("entry point");
    let entry_point = entry_point.display().to_string();
    let pushed = format!("sha256:{}", "a".repeat(64));
    let metadata = folder.path().join("metadata.json");
    // As BuildKit writes it.
    let text = json!({
        "containerimage.config.digest": format!("sha256:{}", "b".repeat(64)),
        "containerimage.descriptor": {"digest": pushed, "size": 1},
        "containerimage.digest": pushed,
        "image.name": "registry.example.com/team/pyenv:gs-1",
    });
    let text = serde_json::to_string_pretty(&text).expect("JSON");
    std::fs::write(&metadata, text).expect("metadata");
    let report = folder.path().join("report");
    for strategy in shipped() {
        let build = pod(&job_of(&strategy)).containers.remove(0);
        let command = build.command.expect("a command");
        assert_eq!(command[0], "sh");
        let script = command[2]
            .replace(pod_paths::DATES, &dates.display().to_string())
            .replace(pod_paths::CONTEXTS, &contexts.display().to_string())
            .replace("/workspace/metadata.json", &metadata.display().to_string())
            .replace("/dev/termination-log", &report.display().to_string())
            .replace("buildctl-daemonless.sh", &format!("sh {entry_point}"));
        let args = build.args.expect("arguments");
        let output = std::process::Command::new("sh")
            .args([command[1].as_str(), script.as_str()])
            .args(&command[3..])
            .args(&args)
            .output()
            .expect("sh");
        let printed = String::from_utf8(output.stdout).expect("text");
        let printed: Vec<&str> = printed.lines().collect();
        assert_eq!(
            printed[..4],
            ["build", "--opt=build-arg:SOURCE_DATE_EPOCH=1767323045", options[0], options[1]],
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(printed[4..printed.len() - 1], args[..args.len() - 1]);
        let created = ",annotation.org.opencontainers.image.created=2026-01-02T03:04:05Z";
        let last = args.last().expect("an output").clone() + created;
        assert_eq!(printed.last(), Some(&last.as_str()));
        assert!(last.starts_with("--output="), "{last}");
        let reported = std::fs::read_to_string(&report).expect("a report");
        assert_eq!(reported.trim(), pushed, "the digest of what was pushed, and no other");
        std::fs::remove_file(&report).expect("a report");
    }
}

#[test]
fn a_build_that_fails_reports_no_digest_and_keeps_its_exit_code() {
    for strategy in shipped() {
        let build = pod(&job_of(&strategy)).containers.remove(0);
        let command = build.command.expect("a command");
        let folder = tempfile::tempdir().expect("folder");
        let report = folder.path().join("report");
        let script = command[2]
            .replace(". /workspace/dates.env;", "SOURCE_DATE_EPOCH=0; CREATED=0; CONTEXTS=;")
            .replace(". /workspace/contexts.env;", "")
            .replace("/dev/termination-log", &report.display().to_string())
            .replace("buildctl-daemonless.sh", "sh -c 'exit 3'");
        let ended = std::process::Command::new("sh")
            .args([command[1].as_str(), script.as_str()])
            .args(&command[3..])
            .args(build.args.expect("arguments"))
            .status()
            .expect("sh");
        assert_eq!((ended.code(), report.exists()), (Some(3), false));
    }
}

#[test]
fn a_build_runs_on_nodes_of_its_platform_and_sees_it() {
    let on = |selector: Value, platform: &str| {
        let mut strategy = strategy(json!({"hostUsers": false, "nodeSelector": selector,
            "containers": [{"name": "b", "args": ["{{ platform }} {{ parameters.platform }}"]}]}));
        strategy.spec.parameters =
            vec![crate::api::Parameter { name: "platform".into(), ..Default::default() }];
        let platform = platform.parse().expect("a platform");
        let request = BuildRequest { platform, ..request() };
        job(&request, &strategy, &StrategyRef::default(), &environment())
    };
    let built = pod(&on(json!({"disk": "ssd"}), "linux/arm/v7").expect("job"));
    let selector = json!({"disk": "ssd", "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm"});
    assert_eq!(serde_json::to_value(&built.node_selector).expect("JSON"), selector);
    assert_eq!(built.containers[0].args, Some(vec!["linux/arm/v7 linux/arm/v7".into()]));
    on(json!({"kubernetes.io/arch": "amd64"}), "linux/amd64").expect("the same architecture");
    let error = on(json!({"kubernetes.io/arch": "amd64"}), "linux/arm64").expect_err("other");
    assert_eq!(
        error.to_string(),
        "BuildStrategy `s`: spec.template.spec.nodeSelector selects nodes with \
         kubernetes.io/arch=amd64, but the build is for linux/arm64; remove the label from \
         nodeSelector, or set the parameter `platform`"
    );
}
