use super::*;
use crate::{
    api::{Check, CredentialUse, Duration},
    builds::request::FamilyIdentity,
};

const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

const SCANNER: &str = "registry.example.com/tools/scanner@sha256:\
    abcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcd";

fn request() -> CheckRequest {
    CheckRequest {
        family: FamilyIdentity { namespace: "team".into(), name: "python".into(), uid: "u".into() },
        image: "pyenv".into(),
        repository: "registry.example.com/team/pyenv".into(),
        digest: DIGEST.into(),
        check: Check {
            name: "starts".into(),
            command: vec!["python".into(), "--version".into()],
            timeout: Duration::from_secs(90),
            ..Check::default()
        },
        revision: "0123456789abcdef".into(),
        attempt: 2,
        credentials: vec![
            RegistryCredential::unrestricted("push"),
            RegistryCredential { name: "pull".into(), uses: vec![CredentialUse::Pull] },
        ],
        ttl_after_finished: Duration::from_secs(3600),
        ..CheckRequest::default()
    }
}

fn scan() -> CheckRequest {
    let mut request = request();
    request.check = Check {
        name: "scan".into(),
        image: Some(SCANNER.into()),
        args: vec!["$(GROUNDSWELL_IMAGE)".into()],
        env: BTreeMap::from([
            ("LEVEL".into(), "high".into()),
            (IMAGE_VARIABLE.into(), "other".into()),
        ]),
        ..Check::default()
    };
    request
}

fn job_of(request: &CheckRequest) -> Job {
    job(
        request,
        &BuildEnvironment { operator_image: "operator:1".into(), ..BuildEnvironment::default() },
    )
}

fn pod_of(request: &CheckRequest) -> PodSpec {
    job_of(request).spec.expect("spec").template.spec.expect("pod")
}

fn environment(container: &Container) -> Vec<(&str, &str)> {
    container
        .env
        .iter()
        .flatten()
        .map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or_default()))
        .collect()
}

#[test]
fn a_job_name_is_short_valid_and_unique_to_the_attempt() {
    let name = job_name(&request());
    assert!(
        name.starts_with("pyenv-check-")
            && name.ends_with("-2")
            && name.len() == "pyenv-check-".len() + 14
    );
    assert_eq!(name, job_name(&request()));
    let changes: [fn(&mut CheckRequest); 6] = [
        |r| r.family.uid = "v".into(),
        |r| r.image = "pyenw".into(),
        |r| r.digest = "sha256:1".into(),
        |r| r.check.name = "else".into(),
        |r| r.revision = "1".into(),
        |r| r.attempt = 3,
    ];
    for change in changes {
        let mut other = request();
        change(&mut other);
        assert_ne!(job_name(&other), name);
    }
    let long = CheckRequest { image: format!("{}-b", "a".repeat(29)), attempt: 99, ..request() };
    assert!(job_name(&long).len() <= 60 && !job_name(&long).contains("--"), "{}", job_name(&long));
}

#[test]
fn the_job_names_its_check_runs_once_and_is_cleaned_up() {
    let job = job_of(&request());
    let labels = job.metadata.labels.clone().expect("labels");
    for (label, value) in [
        (labels::MANAGED_BY, "groundswell"),
        (labels::COMPONENT, "check"),
        (labels::FAMILY, "python"),
        (labels::IMAGE, "pyenv"),
        (labels::CHECK, "starts"),
        (labels::CHECK_REVISION, "0123456789abcdef"),
        (labels::ATTEMPT, "2"),
    ] {
        assert_eq!(labels[label], value);
    }
    assert!(!labels.contains_key(labels::FINGERPRINT), "it must not look like a build");
    let annotations = job.metadata.annotations.expect("annotations");
    assert_eq!(annotations[labels::CHECKED_DIGEST], DIGEST);
    assert!(!annotations.contains_key(labels::CHECK_IMAGE), "it runs in the new image");
    let spec = job.spec.expect("spec");
    assert_eq!(
        (spec.backoff_limit, spec.active_deadline_seconds, spec.ttl_seconds_after_finished),
        (Some(0), Some(90), Some(3600))
    );
    assert_eq!(spec.pod_replacement_policy.as_deref(), Some("Failed"));
    assert_eq!(spec.template.metadata.expect("metadata").labels, Some(labels));
    assert_eq!(job_of(&request()), job_of(&request()));
}

#[test]
fn a_check_has_no_privileges() {
    for request in [request(), scan()] {
        let pod = pod_of(&request);
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(
            (pod.automount_service_account_token, pod.enable_service_links),
            (Some(false), Some(false))
        );
        assert_eq!((pod.host_users, pod.service_account_name), (Some(false), None));
        let seccomp = pod.security_context.expect("security").seccomp_profile.expect("seccomp");
        assert_eq!(seccomp.type_, "RuntimeDefault");
        for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
            let security = container.security_context.as_ref().expect("security");
            assert_eq!(
                (security.allow_privilege_escalation, security.privileged),
                (Some(false), None)
            );
            let capabilities = security.capabilities.as_ref().expect("capabilities");
            assert_eq!(
                (capabilities.drop.as_deref(), &capabilities.add),
                (Some(&["ALL".to_owned()][..]), &None)
            );
            let limits =
                container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            assert!(limits.expect("limits").contains_key("memory"));
        }
        let policy = pod.containers[0].termination_message_policy.as_deref();
        assert_eq!(policy, Some("FallbackToLogsOnError"));
    }
    let without = CheckRequest { user_namespace: UserNamespace::NotRequired, ..request() };
    assert_eq!(pod_of(&without).host_users, None);
}

#[test]
fn a_command_runs_in_the_new_image() {
    let pod = pod_of(&request());
    let check = &pod.containers[0];
    assert_eq!(check.image, Some(format!("registry.example.com/team/pyenv@{DIGEST}")));
    assert_eq!(check.command.as_deref(), Some(&["python".to_owned(), "--version".to_owned()][..]));
    let names: Vec<_> =
        pod.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["push", "pull"]);
    // The kubelet pulls the image; the container gets no credential.
    assert_eq!((&pod.volumes, &pod.init_containers, &check.volume_mounts), (&None, &None, &None));
    assert!(environment(check).iter().all(|(name, _)| *name != "DOCKER_CONFIG"));
}

#[test]
fn the_operators_configuration_places_checks_and_limits_them() {
    let settings = "
steps: {resources: {limits: {cpu: 50m}}, credentials: {resources: {limits: {cpu: 100m}}}}
checks:
  resources: {limits: {cpu: '1'}}
  nodeSelector: {disk: ssd}
  tolerations: [{key: builds, operator: Exists}]
  affinity: {podAntiAffinity: {}}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  imagePullSecrets: [scanner]
  priorityClassName: low
  runtimeClassName: gvisor
  podAnnotations: {sidecar.istio.io/inject: 'false'}
  podLabels: {team: platform, groundswell.dev/family: other}
  podSecurityContext: {runAsNonRoot: true, runAsUser: 1000}
  containerSecurityContext: {readOnlyRootFilesystem: true}
";
    let environment = BuildEnvironment {
        pods: crate::builds::pod_settings::PodSettings::from_yaml(settings).expect("valid"),
        ..BuildEnvironment::default()
    };
    let job = job(&scan(), &environment);
    let template = job.spec.expect("spec").template;
    let metadata = template.metadata.expect("metadata");
    assert_eq!(job.metadata.labels, metadata.labels, "queues and policies read the Job's");
    let of_job = job.metadata.annotations.expect("annotations");
    assert_eq!(of_job["sidecar.istio.io/inject"], "false");
    assert_eq!(of_job[labels::CHECKED_DIGEST], DIGEST);
    assert_eq!(metadata.annotations.expect("some")["sidecar.istio.io/inject"], "false");
    let labels = metadata.labels.expect("labels");
    assert_eq!((labels["team"].as_str(), labels[labels::FAMILY].as_str()), ("platform", "python"));
    let pod = template.spec.expect("pod");
    let selector = pod.node_selector.expect("a selector");
    assert_eq!(
        (selector["disk"].as_str(), selector["kubernetes.io/arch"].as_str()),
        ("ssd", "amd64")
    );
    assert_eq!(pod.tolerations.expect("tolerations")[0].key.as_deref(), Some("builds"));
    assert!(pod.affinity.expect("an affinity").pod_anti_affinity.is_some());
    assert_eq!(pod.topology_spread_constraints.expect("constraints")[0].topology_key, "zone");
    assert_eq!(pod.image_pull_secrets.expect("secrets")[0].name, "scanner");
    assert_eq!(pod.priority_class_name.as_deref(), Some("low"));
    assert_eq!(pod.runtime_class_name.as_deref(), Some("gvisor"));
    let context = pod.security_context.expect("a security context");
    assert_eq!((context.run_as_non_root, context.run_as_user), (Some(true), Some(1000)));
    assert_eq!(context.seccomp_profile.expect("a profile").type_, "RuntimeDefault");
    let context = pod.containers[0].security_context.clone().expect("a security context");
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.capabilities.expect("some").drop, Some(vec!["ALL".into()]));
    let limits = |container: &Container| {
        let resources = container.resources.clone().expect("resources");
        assert_eq!(resources.requests, None, "they replace the defaults as a whole");
        resources.limits.expect("limits")["cpu"].0.clone()
    };
    assert_eq!(limits(&pod.containers[0]), "1");
    assert_eq!(limits(&pod.init_containers.expect("a step")[0]), "100m");

    let plain = pod_of(&request());
    assert_eq!((plain.tolerations, plain.priority_class_name), (None, None));
    let selector = BTreeMap::from([
        ("kubernetes.io/arch".to_owned(), "amd64".to_owned()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
    ]);
    assert_eq!(plain.node_selector, Some(selector));
    assert_eq!(
        (plain.runtime_class_name, plain.affinity, plain.topology_spread_constraints),
        (None, None, None)
    );
}

#[test]
fn a_check_with_its_own_image_gets_the_proxy_and_the_private_authorities() {
    let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let environment = BuildEnvironment {
        proxy: crate::builds::proxy::ProxyVariables::from_environment(|name| {
            (name == "HTTPS_PROXY").then(|| "http://proxy.example.com:3128".into())
        })
        .expect("a proxy"),
        ca_bundle: crate::registry::CaBundle::parse(certificate).expect("a bundle"),
        ..BuildEnvironment::default()
    };
    let mut scan = scan();
    scan.credentials = Vec::new();
    let scanner = pod(&scan, &environment);
    let env = env_of(&scanner.containers[0]);
    assert_eq!(env["HTTPS_PROXY"], "http://proxy.example.com:3128");
    assert_eq!(env["SSL_CERT_FILE"], pod_paths::CHECK_TRUST_FILE);
    let step = &scanner.init_containers.expect("a step")[0];
    assert!(env_of(step)[credentials::CREDENTIALS_VARIABLE].contains("CERTIFICATE"));

    scan.check.env.insert("SSL_CERT_FILE".into(), "/own".into());
    scan.check.env.insert("https_proxy".into(), "http://own:1".into());
    let own = pod(&scan, &environment);
    let env = env_of(&own.containers[0]);
    assert_eq!((env["SSL_CERT_FILE"], env.get("HTTPS_PROXY")), ("/own", None));
    let in_new_image = pod(&request(), &environment);
    assert_eq!(in_new_image.init_containers, None);
}

fn env_of(container: &Container) -> BTreeMap<&str, &str> {
    let variables = container.env.iter().flatten();
    variables.filter_map(|env| Some((env.name.as_str(), env.value.as_deref()?))).collect()
}

#[test]
fn the_operators_pull_secrets_are_added_to_the_familys() {
    let secrets = |request: &CheckRequest, operator: &[&str]| {
        let environment = BuildEnvironment {
            image_pull_secrets: operator.iter().map(ToString::to_string).collect(),
            ..BuildEnvironment::default()
        };
        let pod = pod(request, &environment);
        pod.image_pull_secrets
            .map(|secrets| secrets.into_iter().map(|secret| secret.name).collect::<Vec<_>>())
    };
    assert_eq!(
        secrets(&request(), &["operator", "push"]).expect("secrets"),
        ["push", "pull", "operator"]
    );
    let anonymous = CheckRequest { credentials: Vec::new(), ..request() };
    assert_eq!(secrets(&anonymous, &[]), None);
}

#[test]
fn another_image_gets_the_new_images_reference_and_one_credential() {
    let pinned = format!("registry.example.com/team/pyenv@{DIGEST}");
    let pod = pod_of(&scan());
    let check = &pod.containers[0];
    assert_eq!(check.image.as_deref(), Some(SCANNER));
    let annotations = job_of(&scan()).metadata.annotations.expect("annotations");
    assert_eq!(annotations[labels::CHECK_IMAGE], SCANNER);
    assert_eq!(check.command, None);
    assert_eq!(
        environment(check),
        [
            (IMAGE_VARIABLE, pinned.as_str()),
            (DIGEST_VARIABLE, DIGEST),
            ("LEVEL", "high"),
            ("DOCKER_CONFIG", "/docker-config")
        ]
    );
    let mounts = |container: &Container| -> Vec<_> {
        container
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| (mount.mount_path.clone(), mount.read_only))
            .collect()
    };
    assert_eq!(mounts(check), [("/docker-config".into(), Some(true))]);
    let init = &pod.init_containers.as_ref().expect("an init container")[0];
    let expected = [("/credentials/0".to_owned(), Some(true))];
    assert_eq!(
        mounts(init),
        expected.into_iter().chain([("/docker-config".into(), Some(false))]).collect::<Vec<_>>()
    );
    let variables = environment(init);
    assert!(variables[0].1.contains(&pinned) && !variables[0].1.contains("push"), "{variables:?}");
    let push = vec![RegistryCredential::unrestricted("push")];
    for credentials in [Vec::new(), push] {
        let pod = pod_of(&CheckRequest { credentials, ..scan() });
        assert_eq!((pod.volumes, pod.init_containers), (None, None), "nothing that can push");
    }
}
