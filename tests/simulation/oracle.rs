//! What the world comes to when nothing goes wrong any more, computed from scratch: from the specs,
//! the sources and the registries, without a word of the engine.

use std::collections::BTreeMap;

use groundswell::{
    api::{
        Cutoff, Edge, FailureClass, Image, ImageFamilySpec, ImageFamilyStatus, ImageState,
        ManagedImageStatus, ManualHold, OnParentFailure, Promotion, Upstream, condition::reason,
        labels,
    },
    controller::object_cache::Key,
};
use jiff::Timestamp;

use crate::{
    builder::{BAD, BROKEN, MISMATCH},
    cluster::Cluster,
    invariants::short,
    job_controller::Phase,
    objects::{Kind, label, owner, uid},
    registry::Made,
    scene::{repository, text_of},
    script::FOLLOWED,
};

/// How much the oracle asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// An image may rest as failed if its last build failed for any reason.
    Lenient,
    /// Only what is broken for good may rest as failed, and no hold is going to end: that sets off
    /// a cascade.
    Strict,
}

/// What an image has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Built from its inputs as they are.
    Current,
    /// Kept where it is.
    Held,
    /// Failed, or below something that has.
    Failed,
    Blocked,
    /// It waits for something that does not come.
    Waiting,
}

/// The first thing that is not as it must be.
pub fn mismatch(cluster: &Cluster, demand: Demand) -> Option<String> {
    if let Some(work) = cluster.work.values().find(|work| work.phase == Phase::Live) {
        return Some(format!("{} runs", work.key.name));
    }
    let families: Option<BTreeMap<String, View>> = cluster
        .objects
        .all(Kind::Family)
        .map(|(key, _)| Some((key.name.clone(), View::of(cluster, key)?)))
        .collect();
    let Some(families) = families else { return Some("a family can't be read".into()) };
    if demand == Demand::Strict
        && let Some(until) =
            families.values().find_map(|family| family.hold_ends(cluster.time.truth()))
    {
        return Some(format!("a hold ends at {until}"));
    }
    let mut world = World { cluster, families: &families, demand, fates: BTreeMap::new() };
    families
        .values()
        .filter_map(|family| {
            world.family(family).err().map(|why| format!("{}: {why}", family.key.name))
        })
        .next()
}

/// A family, with what is recorded of it.
struct View {
    key: Key,
    uid: String,
    spec: ImageFamilySpec,
    status: ImageFamilyStatus,
    records: BTreeMap<String, ManagedImageStatus>,
}

impl View {
    fn of(cluster: &Cluster, key: &Key) -> Option<Self> {
        let object = cluster.objects.get(Kind::Family, key)?;
        let spec: ImageFamilySpec = serde_json::from_value(object["spec"].clone()).ok()?;
        let status = serde_json::from_value(object["status"].clone()).unwrap_or_default();
        let record = |image: &Image| {
            let key = Key::new(&key.namespace, &format!("{}.{}", key.name, image.name));
            let object = cluster.objects.get(Kind::Image, &key)?;
            Some((image.name.clone(), serde_json::from_value(object["status"].clone()).ok()?))
        };
        let records = spec.images.iter().filter_map(record).collect();
        Some(Self { key: key.clone(), uid: uid(object).into(), spec, status, records })
    }

    fn image(&self, name: &str) -> Option<&Image> {
        self.spec.images.iter().find(|image| image.name == name)
    }

    /// When a hold ends by itself that still lasts.
    fn hold_ends(&self, now: Timestamp) -> Option<Timestamp> {
        let upstreams =
            self.spec.upstreams.iter().filter_map(|upstream| upstream.hold.as_ref()?.until);
        let images = self.spec.images.iter().filter_map(|image| image.hold.as_ref()?.until);
        let of_upstreams =
            self.status.upstreams.iter().filter_map(|upstream| upstream.hold.as_ref()?.until);
        let of_images = self.records.values().filter_map(|record| record.hold.as_ref()?.until);
        upstreams.chain(images).chain(of_upstreams).chain(of_images).find(|until| *until > now)
    }

    fn record(&self, name: &str) -> ManagedImageStatus {
        self.records.get(name).cloned().unwrap_or_default()
    }
}

struct World<'a> {
    cluster: &'a Cluster,
    families: &'a BTreeMap<String, View>,
    demand: Demand,
    /// What images have come to, by family and name.
    fates: BTreeMap<(String, String), Fate>,
}

/// A parent as its child sees it: where it stands, and what it has come to.
struct Parent {
    pinned: Option<String>,
    fate: Fate,
    /// Whether that has passed its checks as they are now.
    checked: bool,
}

impl World<'_> {
    fn family(&mut self, family: &View) -> Result<(), String> {
        for upstream in &family.spec.upstreams {
            self.adopted(family, upstream)?;
        }
        let mut fates = Vec::new();
        for image in &family.spec.images {
            fates.push(self.fate(family, image)?);
        }
        let mut taken = false;
        for image in &family.spec.images {
            taken |= self.tags(family, image, &fates)?;
        }
        let status = &family.status;
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let whole = fates.iter().all(|fate| *fate == Fate::Current);
        if (whole && !taken) != ready && !fates.contains(&Fate::Held) {
            return Err(format!(
                "whole is {whole}, and Ready says {ready}: {:?}",
                status.conditions
            ));
        }
        let current = fates.iter().filter(|fate| **fate == Fate::Current).count();
        if usize::try_from(status.counts.current) != Ok(current) && !fates.contains(&Fate::Held) {
            return Err(format!("counts.current is {}, and not {current}", status.counts.current));
        }
        if let Some(pending) = &status.pending {
            return Err(format!("{pending:?}"));
        }
        if let Some(cascade) = &status.cascade {
            return Err(format!("{cascade:?}"));
        }
        let cascades = self
            .cluster
            .objects
            .all(Kind::Cascade)
            .filter(|(_, cascade)| owner(cascade) == family.uid);
        let running = cascades.filter(|(_, cascade)| {
            matches!(cascade["status"]["phase"].as_str(), None | Some("Running"))
        });
        if let Some((cascade, _)) = running.into_iter().next() {
            return Err(format!("{} runs", cascade.name));
        }
        self.requests(family)?;
        let records =
            self.cluster.objects.all(Kind::Image).filter(|(_, record)| owner(record) == family.uid);
        let gone = records.filter(|(_, record)| {
            record["spec"]["image"].as_str().is_none_or(|name| family.image(name).is_none())
        });
        match gone.into_iter().next() {
            Some((name, _)) => Err(format!("{} is the record of an image that is gone", name.name)),
            None => Ok(()),
        }
    }

    /// What an image has come to; an error says what is wrong with it.
    fn fate(&mut self, family: &View, image: &Image) -> Result<Fate, String> {
        let place = (family.key.name.clone(), image.name.clone());
        if let Some(fate) = self.fates.get(&place) {
            return Ok(*fate);
        }
        let fate = self.looked_at(family, image)?;
        self.fates.insert(place, fate);
        Ok(fate)
    }

    fn looked_at(&mut self, family: &View, image: &Image) -> Result<Fate, String> {
        let record = family.record(&image.name);
        let expect = |fate: Fate, states: &[ImageState]| {
            let told = format!(
                "{} is {} ({}), and not {fate:?}",
                image.name,
                record.state.as_str(),
                record.message
            );
            if states.contains(&record.state) { Ok(fate) } else { Err(told) }
        };
        let mut parents = Vec::new();
        for edge in &image.from {
            parents.push(self.parent(family, edge)?);
        }
        let failed: fn(&Parent) -> bool =
            |parent| matches!(parent.fate, Fate::Failed | Fate::Blocked);
        let last_good = image.on_parent_failure == OnParentFailure::UseLastGood;
        let held = self.is_image_held(family, image);
        if parents.iter().any(|parent| failed(parent) && !(last_good && parent.pinned.is_some())) {
            // One that is held stays what it is, whatever is above it.
            return if held && record.digest.is_some() {
                expect(Fate::Held, &[ImageState::Held])
            } else {
                expect(Fate::Blocked, &[ImageState::Blocked])
            };
        }
        let pinned: Option<Vec<String>> =
            parents.iter().map(|parent| parent.pinned.clone()).collect();
        let Some(pinned) = pinned else {
            let states = if held {
                &[ImageState::Held, ImageState::Waiting][..]
            } else {
                &[ImageState::Waiting]
            };
            let fate = if record.state == ImageState::Held { Fate::Held } else { Fate::Waiting };
            return expect(fate, states);
        };
        let text = text_of(self.cluster, &image.source).unwrap_or_default();
        let current = record.state == ImageState::Current
            && self.lineage(family, image, &record, &text, &pinned).is_ok();
        let smoke = image.checks.iter().any(|check| check.required);
        let fails_check = smoke && text.contains(BAD);
        if held && !current {
            // While its inputs are as they were, checks run although it is held.
            let unchanged = self.lineage(family, image, &record, &text, &pinned).is_ok();
            return if fails_check && unchanged && record.state == ImageState::Failed {
                Ok(Fate::Failed)
            } else {
                expect(Fate::Held, &[ImageState::Held])
            };
        }
        let unchecked = |fate: fn(&Parent) -> bool| {
            parents.iter().any(|parent| !parent.checked && fate(parent))
        };
        if !current && unchecked(failed) {
            return expect(Fate::Blocked, &[ImageState::Blocked]);
        }
        if !current && unchecked(|parent| parent.fate == Fate::Held) {
            return expect(Fate::Waiting, &[ImageState::Waiting]);
        }
        if text.contains(BROKEN) || text.contains(MISMATCH) || fails_check {
            return expect(Fate::Failed, &[ImageState::Failed]);
        }
        let cancelled = record
            .failure
            .as_ref()
            .is_some_and(|failure| failure.last.class == FailureClass::Cancelled);
        let lenient = self.demand == Demand::Lenient || !self.is_reached(family, image);
        if record.state == ImageState::Failed
            && (cancelled || lenient && self.last_failed(family, image))
        {
            return Ok(Fate::Failed);
        }
        expect(Fate::Current, &[ImageState::Current])?;
        self.lineage(family, image, &record, &text, &pinned)?;
        Ok(Fate::Current)
    }

    /// Whether an image stands on an upstream whose moves are adopted and passed on, so that there
    /// is another cascade for it.
    fn is_reached(&self, family: &View, image: &Image) -> bool {
        let now = self.cluster.time.truth();
        image.from.iter().any(|edge| {
            if let Some(upstream) = &edge.upstream {
                let row = family.status.upstreams.iter().find(|row| row.name == *upstream);
                let manual = row
                    .and_then(|row| row.hold.as_ref())
                    .is_some_and(|hold| self.is_held(None, Some(hold)));
                let found = family.spec.upstreams.iter().find(|known| known.name == *upstream);
                return !manual && found.is_some_and(|found| found.hold_at(now).is_none());
            }
            let of =
                edge.family.as_ref().map_or(Some(family), |other| self.families.get(&other.name));
            let parent = edge.image.as_deref().unwrap_or_default();
            of.and_then(|of| Some((of, of.image(parent)?))).is_some_and(|(of, parent)| {
                !self.is_image_held(of, parent) && self.is_reached(of, parent)
            })
        })
    }

    fn is_image_held(&self, family: &View, image: &Image) -> bool {
        self.is_held(
            image.hold.as_ref().map(|hold| hold.until),
            family.record(&image.name).hold.as_ref(),
        )
    }

    fn is_held(&self, of_spec: Option<Option<Timestamp>>, manual: Option<&ManualHold>) -> bool {
        let now = self.cluster.time.truth();
        let lasts = |until: Option<Timestamp>| until.is_none_or(|until| now < until);
        of_spec.is_some_and(lasts) || manual.is_some_and(|hold| lasts(hold.until))
    }

    /// Whether the last Job for an image failed, as far as there are any left to tell.
    fn last_failed(&self, family: &View, image: &Image) -> bool {
        let jobs = self.cluster.work.values().filter(|work| owner(&work.job) == family.uid);
        let last = jobs
            .filter(|work| label(&work.job, labels::IMAGE) == image.name)
            .max_by_key(|work| work.number);
        last.is_none_or(|work| work.phase != Phase::Succeeded || !work.has_pushed())
    }

    fn parent(&mut self, family: &View, edge: &Edge) -> Result<Parent, String> {
        if let Some(upstream) = &edge.upstream {
            let found = family.spec.upstreams.iter().find(|known| known.name == *upstream);
            let found = found.ok_or_else(|| format!("there is no upstream {upstream}"))?;
            let digest = self.adopted(family, found)?;
            let pinned = (!digest.is_empty()).then(|| format!("{}@{digest}", found.image));
            return Ok(Parent { pinned, fate: Fate::Current, checked: true });
        }
        let name = edge.image.as_deref().unwrap_or_default();
        let families = self.families;
        let of = match &edge.family {
            None => Some(family),
            Some(other) => families
                .get(&other.name)
                .filter(|other| other.spec.exports.iter().any(|export| export.image == name)),
        };
        let Some((of, found)) = of.and_then(|of| Some((of, of.image(name)?))) else {
            return Ok(Parent { pinned: None, fate: Fate::Waiting, checked: true });
        };
        let fate = self.fate(of, found)?;
        let record = of.record(name);
        let digest = record.digest.clone();
        // What another family waits for may take for ever: it is built from as it is until that has
        // come.
        let stands = fate != Fate::Waiting || edge.family.is_some();
        let pinned = digest
            .filter(|_| stands)
            .map(|digest| format!("{}@{digest}", repository(&of.spec, found)));
        // What another family exports is as good as that family says.
        let is_checked = |pinned: &String| self.cluster.invariants.is_told_checked(found, pinned);
        // One whose checks were cancelled goes nowhere by itself, however they end.
        let cancelled = record.failure.as_ref().is_some_and(|failure| {
            failure.last.class == FailureClass::Cancelled
                && Some(&failure.fingerprint) == record.fingerprint.as_ref()
        });
        let checked = edge.family.is_some() || pinned.as_ref().is_none_or(is_checked) && !cancelled;
        Ok(Parent { pinned, fate, checked })
    }

    /// Whether an image's digest is of a build from its inputs as they are now.
    fn lineage(
        &self,
        family: &View,
        image: &Image,
        record: &ManagedImageStatus,
        text: &str,
        parents: &[String],
    ) -> Result<(), String> {
        let name = repository(&family.spec, image);
        let digest = record.digest.clone().unwrap_or_default();
        let pinned = format!("{name}@{digest}");
        let registry = &self.cluster.registry;
        let Some(content) = registry.content(&pinned) else {
            return Err(format!("{} is current at {digest}, which does not exist", image.name));
        };
        let kept = registry.repositories.get(&name);
        let builds = kept.into_iter().flat_map(|kept| &kept.made);
        let from_these = builds.filter(|(_, made)| {
            made.iter().any(|made| {
                made.source == text && made.parents == parents && made.args == image.args
            })
        });
        let never = family.spec.policy.cutoff == Cutoff::Never;
        // What was spared stays so when the policy becomes `Never`; the registry remembers it.
        let spared_before = |made: &[Made]| {
            self.cluster.invariants.history.ever_spares(&family.key.name)
                && made.iter().any(|made| {
                    registry.tag(&name, &format!("gs-{}", made.fingerprint)) == Some(&digest)
                })
        };
        let same = |other: &str, made: &[Made]| {
            other == digest
                || (!never || spared_before(made))
                    && registry.content(&format!("{name}@{other}")) == Some(content)
        };
        let mut any = false;
        for (other, made) in from_these {
            any = true;
            if same(other, made) {
                return Ok(());
            }
        }
        let made = registry.made(&pinned);
        Err(format!(
            "{} is current at {}, which was made from {made:?}, and not from {text:?} and \
             {parents:?}; made from these was {any}",
            image.name,
            short(&digest)
        ))
    }

    /// The digest of an upstream that builds use, if it is the one that they must use.
    fn adopted(&self, family: &View, upstream: &Upstream) -> Result<String, String> {
        let standing =
            self.cluster.registry.tag(&upstream.image, FOLLOWED).unwrap_or_default().to_owned();
        let row = family.status.upstreams.iter().find(|row| row.name == upstream.name);
        // After failures it is looked at again after a while, and then the row is written once
        // more.
        if row.is_some_and(|row| row.reason.as_deref() == Some(reason::REGISTRY_UNAVAILABLE)) {
            return Err(format!("upstream {} could not be looked at", upstream.name));
        }
        let adopted = row
            .and_then(|row| row.adopted.as_ref())
            .map(|adopted| adopted.digest.clone())
            .unwrap_or_default();
        let manual =
            row.and_then(|row| row.hold.as_ref()).filter(|hold| self.is_held(None, Some(hold)));
        let lacks = !upstream.platforms.is_empty()
            && !self.cluster.registry.offers_all(&format!("{}@{standing}", upstream.image));
        let expected = match (upstream.hold_at(self.cluster.time.truth()), manual) {
            (Some(hold), _) => hold.digest.clone(),
            (None, Some(hold)) => hold.digest.clone(),
            // One that lacks a platform is not taken.
            (None, None) => Some(standing.clone()).filter(|_| !lacks),
        };
        let candidate =
            row.and_then(|row| row.candidate.as_ref()).map(|candidate| candidate.digest.as_str());
        if adopted != standing && candidate != Some(standing.as_str()) {
            return Err(format!("upstream {} was not seen at {}", upstream.name, short(&standing)));
        }
        match expected {
            Some(expected) if expected != adopted => Err(format!(
                "upstream {} is used at {}, and not at {}",
                upstream.name,
                short(&adopted),
                short(&expected)
            )),
            _ => Ok(adopted),
        }
    }

    /// Whether a tag that names a build is taken by one of before; an error says which tag stands
    /// elsewhere than it must. Where a record is lost or a family is made again, builds are counted
    /// from what the floating tag stands on: that may be an older one, or there may be none. A
    /// promotion that was recorded there is not known any more either.
    fn tags(&self, family: &View, image: &Image, fates: &[Fate]) -> Result<bool, String> {
        let anew = self.cluster.invariants.history.counts_anew(&family.key.name);
        let mut taken = false;
        let record = family.record(&image.name);
        let place = family
            .spec
            .images
            .iter()
            .position(|known| known.name == image.name)
            .unwrap_or_default();
        let name = repository(&family.spec, image);
        let digest = record.digest.as_deref().unwrap_or_default();
        let whole = family
            .spec
            .images
            .iter()
            .zip(fates)
            .all(|(image, fate)| !image.required || *fate == Fate::Current);
        for template in &image.tags {
            let build = record.build.unwrap_or_default().to_string();
            let fingerprint = record.fingerprint.clone().unwrap_or_default();
            let tag = template
                .replace("{{ build }}", &build)
                .replace("{{ fingerprint }}", short(&fingerprint))
                .replace("{{ upstream.u0.tag }}", FOLLOWED);
            let floats = tag == *template;
            let expected = match (fates[place], floats, family.spec.policy.promotion) {
                (Fate::Current, true, Promotion::Cascade) if !whole => record.promoted.as_deref(),
                (Fate::Current, _, _) => Some(digest),
                _ => continue,
            };
            let standing = self.cluster.registry.tag(&name, &tag);
            if anew && !floats && standing.is_some() && standing != expected {
                taken = true;
            } else if standing != expected && !(anew && expected.is_none()) {
                return Err(format!(
                    "{name}:{tag} stands on {:?}, and not on {:?}",
                    standing.map(short),
                    expected.map(short)
                ));
            }
        }
        Ok(taken)
    }

    /// Every request is handled.
    fn requests(&self, family: &View) -> Result<(), String> {
        let of_family = self.cluster.objects.get(Kind::Family, &family.key);
        let of_images =
            self.cluster.objects.all(Kind::Image).filter(|(_, record)| owner(record) == family.uid);
        for object in of_family.into_iter().chain(of_images.map(|(_, record)| record)) {
            let Some(asked) = object["metadata"]["annotations"][labels::REQUEST].as_str() else {
                continue;
            };
            let last = object["status"]["lastHandledRequest"].as_str().unwrap_or_default();
            let id = serde_json::from_str::<serde_json::Value>(asked)
                .ok()
                .and_then(|asked| Some(asked["id"].as_str()?.to_owned()));
            let handled = object["status"]["requests"].as_array().into_iter().flatten();
            let mut handled = handled.filter_map(|request| request["id"].as_str());
            let done = id.is_none_or(|id| handled.any(|known| known == id));
            if !done {
                return Err(format!("{asked} is not handled; the last one was {last:?}"));
            }
        }
        Ok(())
    }
}
