//! The objects of the cluster as the API server stores them: with versions that only grow, and a
//! log of all changes for the watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use groundswell::controller::object_cache::Key;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::manifests;

/// The kinds that the controller uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Family,
    Image,
    Cascade,
    Strategy,
    Job,
    Pod,
    ConfigMap,
    Secret,
    Request,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Family,
        Self::Image,
        Self::Cascade,
        Self::Strategy,
        Self::Job,
        Self::Pod,
        Self::ConfigMap,
        Self::Secret,
        Self::Request,
    ];

    /// Returns the kind with this name in paths.
    pub fn of_plural(plural: &str) -> Option<Self> {
        Some(match plural {
            "imagefamilies" => Self::Family,
            "managedimages" => Self::Image,
            "cascades" => Self::Cascade,
            "familyrequests" => Self::Request,
            "buildstrategies" => Self::Strategy,
            "jobs" => Self::Job,
            "pods" => Self::Pod,
            "configmaps" => Self::ConfigMap,
            "secrets" => Self::Secret,
            _ => return None,
        })
    }

    /// Returns whether status is a subresource that the controller applies.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Family | Self::Image | Self::Cascade | Self::Request)
    }
}

/// A change of an object. If it was deleted (`gone`), the object is its last version.
#[derive(Clone, Debug)]
pub struct Change {
    pub gone: bool,
    pub object: Arc<Value>,
}

/// Why an object was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectError {
    Exists,
    Missing,
    Conflict,
}

/// A field owner of an object's status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StatusOwner {
    kind: Kind,
    key: Key,
    owner: String,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Objects {
    objects: BTreeMap<Kind, BTreeMap<Key, Arc<Value>>>,
    log: BTreeMap<Kind, Vec<Change>>,
    /// The fields of each status that each owner has applied.
    applied: BTreeMap<StatusOwner, BTreeSet<String>>,
    version: u64,
    uids: u64,
}

impl Objects {
    pub fn get(&self, kind: Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&kind)?.get(key)
    }

    /// Returns all objects of a kind, sorted by key.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    /// Returns all changes of a kind so far.
    pub fn log(&self, kind: Kind) -> &[Change] {
        self.log.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Creates an object.
    pub fn create(
        &mut self,
        kind: Kind,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Arc<Value>, ObjectError> {
        let key = key_of(&object);
        if self.get(kind, &key).is_some() {
            return Err(ObjectError::Exists);
        }
        self.uids += 1;
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.insert("uid".into(), json!(format!("uid-{}", self.uids)));
        metadata.insert("creationTimestamp".into(), json!(format!("{now:.0}")));
        metadata.insert("generation".into(), json!(1));
        if kind.is_ours() {
            object.as_object_mut().expect("an object").remove("status");
        }
        manifests::check(kind, &object);
        Ok(self.put(kind, key, object))
    }

    /// Changes an object. A changed spec increments the generation; without a change nothing is
    /// written.
    pub fn update(
        &mut self,
        kind: Kind,
        key: &Key,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, ObjectError> {
        let known = self.get(kind, key).cloned().ok_or(ObjectError::Missing)?;
        let mut object = Value::clone(&known);
        change(&mut object);
        if object == *known {
            return Ok(known);
        }
        if object.get("spec") != known.get("spec") {
            manifests::check(kind, &object);
            let generation = known["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.put(kind, key.clone(), object))
    }

    /// Forced server-side apply by `owner`: of the object without its status, or of the status
    /// only.
    pub fn apply(
        &mut self,
        kind: Kind,
        key: &Key,
        owner: &str,
        mut body: Value,
        status: bool,
        now: Timestamp,
    ) -> Result<Arc<Value>, ObjectError> {
        if !status {
            return match self.get(kind, key) {
                None => {
                    body["metadata"]["namespace"] = json!(key.namespace);
                    self.create(kind, body, now)
                }
                Some(_) => self.update(kind, key, |object| {
                    object["spec"] = body["spec"].take();
                    for field in ["labels", "ownerReferences", "annotations"] {
                        if !body["metadata"][field].is_null() {
                            object["metadata"][field] = body["metadata"][field].take();
                        }
                    }
                }),
            };
        }
        let known = self.get(kind, key).ok_or(ObjectError::Missing)?;
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != known["metadata"]["resourceVersion"] {
            return Err(ObjectError::Conflict);
        }
        let fields = match body["status"].take() {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        let names: BTreeSet<String> = fields.keys().cloned().collect();
        let status_owner = StatusOwner { kind, key: key.clone(), owner: owner.into() };
        let before = self.applied.insert(status_owner, names).unwrap_or_default();
        self.update(kind, key, |object| {
            if !object["status"].is_object() {
                object["status"] = json!({});
            }
            let status = object["status"].as_object_mut().expect("a status");
            status.retain(|name, _| !before.contains(name));
            status.extend(fields);
        })
    }

    /// Merge patch of the version of an object that the patch names: of its metadata, or of its
    /// status.
    pub fn merge(
        &mut self,
        kind: Kind,
        key: &Key,
        patch: &Value,
    ) -> Result<Arc<Value>, ObjectError> {
        let known = self.get(kind, key).ok_or(ObjectError::Missing)?;
        if patch["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return Err(ObjectError::Conflict);
        }
        self.update(kind, key, |object| merge(object, patch))
    }

    /// Marks an object for deletion that a finalizer or a grace period keeps.
    pub fn mark_deleted(
        &mut self,
        kind: Kind,
        key: &Key,
        now: Timestamp,
    ) -> Result<Arc<Value>, ObjectError> {
        self.update(kind, key, |object| {
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = json!(format!("{now:.0}"));
            }
        })
    }

    /// Deletes an object.
    pub fn remove(&mut self, kind: Kind, key: &Key) -> Option<Arc<Value>> {
        let mut object = self.objects.get_mut(&kind)?.remove(key)?;
        self.applied.retain(|applied, _| applied.kind != kind || applied.key != *key);
        self.version += 1;
        Arc::make_mut(&mut object)["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.entry(kind).or_default().push(Change { gone: true, object: Arc::clone(&object) });
        Some(object)
    }

    fn put(&mut self, kind: Kind, key: Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        self.objects.entry(kind).or_default().insert(key, Arc::clone(&object));
        self.log.entry(kind).or_default().push(Change { gone: false, object: Arc::clone(&object) });
        object
    }
}

/// Applies a JSON merge patch.
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, field) in fields {
        if field.is_null() {
            value.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut value[name], field);
        }
    }
}

/// Returns the namespace and the name of an object.
pub fn key_of(object: &Value) -> Key {
    let metadata = &object["metadata"];
    Key::new(
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default(),
    )
}

/// Returns a label of an object; empty if there is none.
pub fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["labels"][name].as_str().unwrap_or_default()
}

/// Returns the uid of an object.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Returns the uid of the owner of an object.
pub fn owner(object: &Value) -> &str {
    object["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default()
}
