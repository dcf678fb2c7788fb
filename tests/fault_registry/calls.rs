//! Makes the calls of a scenario and compares what they return.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use groundswell::{
    api::{
        CredentialUse,
        condition::{Problem, Reason},
    },
    clock::Clock,
    controller::family::registry::pushed_image::{BaseComparison, Repository},
    registry::{Client, Digest, Keychain, Platform, Reference, RegistryError},
    upstream::{ImageKey, PollFailure, TagNeeds, UpstreamDigest, poll_tag},
};
use indexmap::IndexMap;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::{
    player::FaultPlayer,
    scenario::{ClientCall, Expectation, FaultScenario, FaultStep, fill_in},
};

/// When every scenario begins.
const BEGIN: &str = "2026-01-02T03:04:05Z";

/// What a call returned.
#[derive(Debug, Default)]
struct CallOutcome {
    found: Option<String>,
    missing: Vec<String>,
    error: Option<Problem>,
    retry_after: Option<u64>,
    is_done: bool,
}

/// What the calls of one scenario share.
struct Calls {
    client: Client,
    keychain: Arc<Keychain>,
    contents: IndexMap<String, String>,
    /// The results of polls by image.
    polled: BTreeMap<String, UpstreamDigest>,
}

/// Plays a scenario. The error says what was not as its file says.
pub async fn play(scenario: &FaultScenario) -> Result<(), String> {
    let contents = scenario.texts();
    let player = FaultPlayer::new(contents.clone());
    let began = tokio::time::Instant::now();
    let clock = Clock::new(move || {
        let begin: jiff::Timestamp = BEGIN.parse().expect("a time");
        begin + began.elapsed()
    });
    let client = Client::with_transport(scenario.config.clone(), Arc::new(player.clone()), clock);
    let secrets: Vec<(String, String)> = scenario
        .secrets
        .iter()
        .enumerate()
        .map(|(index, secret)| (format!("s{}", index + 1), secret.to_string()))
        .collect();
    let keychain = Keychain::from_secrets(
        secrets.iter().map(|(name, payload)| (name.as_str(), payload.as_bytes())),
    );
    let keychain = Arc::new(keychain.map_err(|error| error.to_string())?);
    let mut calls = Calls { client, keychain, contents, polled: BTreeMap::new() };
    let mut problems = Vec::new();
    for (index, step) in scenario.steps.iter().enumerate() {
        tokio::time::sleep(std::time::Duration::from_secs(step.wait)).await;
        player.expect(&step.exchanges);
        let outcome = calls.make(step).await;
        let unexpected = player.problems().into_iter().chain(calls.compare(&step.expect, &outcome));
        problems.extend(unexpected.map(|problem| format!("step {}: {problem}", index + 1)));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n    ")) }
}

impl Calls {
    async fn make(&mut self, step: &FaultStep) -> CallOutcome {
        let image: Reference =
            fill_in(step.image.split(' ').next().expect("an image"), &self.contents)
                .parse()
                .expect("an image");
        match step.call {
            ClientCall::Head => {
                let head = self.client.head(&image, &self.keychain).await;
                outcome(head.map(|found| found.map(|found| found.digest)))
            }
            ClientCall::Poll => self.poll(step).await,
            ClientCall::Manifest => {
                let manifest = self.client.manifest(&image, &self.keychain).await;
                outcome(manifest.map(|manifest| Some(manifest.digest)))
            }
            ClientCall::Lookup => {
                let tagged = self.repository(&image).tagged(image.tag().expect("a tag")).await;
                match tagged {
                    Ok(manifest) => outcome(Ok(manifest.map(|manifest| manifest.digest))),
                    Err(error) => CallOutcome { error: Some(error), ..CallOutcome::default() },
                }
            }
            ClientCall::Promote => {
                let digest = self.digest(step.to.as_deref().expect("a content"));
                let moved = self.repository(&image).point_to(&image, &digest).await;
                match moved {
                    Ok(()) => CallOutcome { is_done: true, ..CallOutcome::default() },
                    Err(error) => outcome(Err(error)),
                }
            }
            ClientCall::PullPause => CallOutcome {
                retry_after: self
                    .client
                    .pull_pause(&step.image, &self.keychain)
                    .map(|pause| pause.as_secs()),
                is_done: true,
                ..CallOutcome::default()
            },
            ClientCall::Verify => self.verify(step, &image).await,
            ClientCall::Credentials => self.write_credentials(step),
        }
    }

    async fn poll(&mut self, step: &FaultStep) -> CallOutcome {
        let needs = match &step.platforms {
            Some(required) => TagNeeds::Images { required: required.clone() },
            None => TagNeeds::Digest,
        };
        let key = ImageKey::new(&self.client, &step.image, &needs, &self.keychain);
        let last = self.polled.get(&step.image);
        match poll_tag(&self.client, &key, last).await {
            Ok(found) => {
                self.polled.insert(step.image.clone(), found.clone());
                let (found, missing) = (Some(found.tagged), found.missing_platforms);
                CallOutcome { found, missing, ..CallOutcome::default() }
            }
            Err(error) => poll_failure(error),
        }
    }

    /// Reads a build of ours and compares it with its base.
    async fn verify(&self, step: &FaultStep, image: &Reference) -> CallOutcome {
        let base: Reference =
            fill_in(step.to.as_deref().expect("a base"), &self.contents).parse().expect("a base");
        let verified = async {
            let own = self.repository(image);
            let Some(manifest) = own.tagged(image.tag().expect("a tag")).await? else {
                return Ok(None);
            };
            let images = own.images(&manifest).await?;
            let platform = Platform::from_user("linux/amd64").expect("a platform");
            let digest = base.digest().expect("a digest");
            let compared = self.repository(&base).compare_base(&digest, &images, &platform).await?;
            Ok((compared == BaseComparison::IsBase).then_some(manifest.digest))
        };
        match verified.await {
            Ok(found) => outcome(Ok(found)),
            Err(error) => CallOutcome { error: Some(error), ..CallOutcome::default() },
        }
    }

    fn write_credentials(&self, step: &FaultStep) -> CallOutcome {
        let images: Vec<Reference> =
            step.image.split(' ').map(|image| image.parse().expect("an image")).collect();
        let pulled = images.iter().map(|image| (image, CredentialUse::Pull));
        let config: Value =
            serde_json::from_str(self.keychain.docker_config(pulled).expose_secret())
                .expect("a Docker configuration");
        let auths = config["auths"].as_object().expect("entries");
        let written: BTreeMap<String, String> = auths
            .iter()
            .map(|(key, auth)| {
                let auth = auth["auth"].as_str().expect("an entry");
                let auth = STANDARD.decode(auth).expect("base64");
                (key.clone(), String::from_utf8(auth).expect("text"))
            })
            .collect();
        if written == step.builder {
            return CallOutcome { is_done: true, ..CallOutcome::default() };
        }
        let message = format!("the builder gets {written:?}");
        CallOutcome {
            error: Some(Problem { reason: Reason::InvalidSecret, message }),
            ..CallOutcome::default()
        }
    }

    fn repository(&self, image: &Reference) -> Repository<'_> {
        Repository::new(&self.client, &self.keychain, &image.repository()).expect("a repository")
    }

    fn digest(&self, content: &str) -> Digest {
        Digest::of(self.contents.get(content).expect("a content").as_bytes())
    }

    /// Returns how an outcome differs from the expected one.
    fn compare(&self, expected: &Expectation, outcome: &CallOutcome) -> Option<String> {
        let found = expected.found.as_deref().map(|name| self.digest(name).to_string());
        let reason = outcome.error.as_ref().map(|error| error.reason);
        let message = outcome.error.as_ref().map(|error| error.message.as_str());
        let is_absent = outcome.found.is_none() && outcome.error.is_none() && !outcome.is_done;
        let is_same = found == outcome.found
            && expected.error.as_deref() == reason.map(Reason::as_str)
            && expected.missing == outcome.missing
            && expected.absent == is_absent
            && expected.done == outcome.is_done
            && expected.says.iter().all(|text| message.is_some_and(|said| said.contains(text)))
            && (expected.retry_after.is_none() || expected.retry_after == outcome.retry_after);
        (!is_same).then(|| format!("returned {outcome:?}"))
    }
}

fn outcome(result: Result<Option<Digest>, RegistryError>) -> CallOutcome {
    match result {
        Ok(found) => {
            CallOutcome { found: found.map(|found| found.to_string()), ..CallOutcome::default() }
        }
        Err(error) => {
            let retry_after = error.retry_after().map(|pause| pause.as_secs());
            CallOutcome { retry_after, error: Some(error.into()), ..CallOutcome::default() }
        }
    }
}

fn poll_failure(failure: PollFailure) -> CallOutcome {
    let retry_after = failure.retry_after.map(|pause| pause.as_secs());
    CallOutcome { retry_after, error: Some(failure.problem), ..CallOutcome::default() }
}
