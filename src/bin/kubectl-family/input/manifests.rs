//! The objects in the text of a file: several YAML documents, JSON, or the lists that
//! `kubectl get -o yaml` writes. Every problem has a place: file, line and column.

use std::{
    cell::OnceCell,
    fmt::{self, Write as _},
    sync::Arc,
};

use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_yaml::Options;

use groundswell::{
    api::{Cascade, FamilyRequest, GROUP, ImageFamily, ManagedImage, VERSION, condition::shorten},
    terminal::printable,
};

use crate::input::{
    InputProblem,
    files::{GROUP_MARK, InputFile, MAX_FILE_BYTES},
    positions::Positions,
    schema::{FamilySchema, prune_nulls},
};

/// Maximum number of characters of a message of the YAML parser.
const MAX_MESSAGE: usize = 300;
/// Maximum number of characters of a name in a message.
const MAX_NAME: usize = 63;
/// The kinds of our API that say nothing about a family.
const OTHER_KINDS: [&str; 1] = ["BuildStrategy"];
/// Maximum number of values in a file: a family of 1000 images has some 50,000.
const MAX_NODES: usize = 4_000_000;

/// What a file contains.
#[derive(Debug, Default)]
pub struct ParsedFile {
    pub families: Vec<(ImageFamily, DocumentPlace)>,
    pub images: Vec<ManagedImage>,
    pub cascades: Vec<Cascade>,
    pub requests: Vec<FamilyRequest>,
    pub config_maps: Vec<ConfigMap>,
    pub problems: Vec<InputProblem>,
}

/// The place of an object in a file.
#[derive(Clone)]
pub struct DocumentPlace {
    file: Arc<str>,
    positions: Arc<Positions>,
    /// Which document of the file it is, counted from 0.
    document: usize,
    /// JSON pointer of the object in the document; empty if it is the document.
    root: String,
}

impl fmt::Debug for DocumentPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}{}", self.file, self.document, self.root)
    }
}

impl DocumentPlace {
    /// Returns the place of a field, given by its JSON pointer in the object, as
    /// `file:line:column`.
    pub fn field(&self, pointer: &str) -> String {
        let pointer = format!("{}{pointer}", self.root);
        let mut place = self.file.to_string();
        if let Some(position) = self.positions.find(self.document, &pointer) {
            // Writing to a String never fails.
            _ = write!(place, ":{}:{}", position.line, position.column);
        }
        place
    }

    /// Returns the file, and the line of a field that is given by its JSON pointer in the object.
    pub fn line(&self, pointer: &str) -> (String, u64) {
        let pointer = format!("{}{pointer}", self.root);
        let position = self.positions.find(self.document, &pointer).unwrap_or_default();
        (self.file.to_string(), position.line.max(1))
    }

    fn problem(&self, pointer: &str, message: String) -> InputProblem {
        InputProblem { place: self.field(pointer), message }
    }
}

/// Returns the options with which files are read: bounded, and without the text of the file in
/// messages.
pub fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_reader_input_bytes: usize::try_from(MAX_FILE_BYTES).ok(),
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_documents: 100_000,
        },
        with_snippet: false,
    }
}

impl ParsedFile {
    /// Reads the objects of a file. Objects of other kinds are skipped, and so is a file of a
    /// folder that is no YAML, unless it mentions our API.
    pub fn parse(file: &InputFile) -> Self {
        let mut manifest = Self::default();
        let documents = serde_yaml::from_multiple_with_options::<Value>(&file.text, options());
        let documents = match documents {
            Ok(documents) => documents,
            Err(error) if file.named || file.text.contains(GROUP_MARK) => {
                manifest.problems.push(syntax_problem(&file.name, &error));
                return manifest;
            }
            Err(_) => return manifest,
        };
        let positions = Arc::new(Positions::of(file.text.clone()));
        for (document, object) in documents.into_iter().enumerate() {
            let (file, positions) = (file.name.clone(), positions.clone());
            let place = DocumentPlace { file, positions, document, root: String::new() };
            manifest.add(object, place);
        }
        manifest
    }

    /// Adds an object, or the items of a list.
    fn add(&mut self, mut object: Value, place: DocumentPlace) {
        let written = object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = written.split_once('/').unwrap_or((written, ""));
        let is_ours = group == GROUP;
        if is_ours && version != VERSION {
            let message = format!("the only version of {GROUP} is {VERSION}; write that");
            self.problems.push(place.problem("/apiVersion", message));
            return;
        }
        match object["kind"].as_str() {
            Some(kind) if kind.ends_with("List") && (is_ours || kind == "List") => {
                let items = object.get_mut("items").and_then(Value::as_array_mut);
                for (index, item) in items.map(std::mem::take).into_iter().flatten().enumerate() {
                    let root = format!("{}/items/{index}", place.root);
                    // A list in a list is no list of Kubernetes.
                    if item["kind"].as_str().is_some_and(|kind| !kind.ends_with("List")) {
                        self.add(item, DocumentPlace { root, ..place.clone() });
                    }
                }
            }
            // One that is not valid is none of ours.
            Some("ConfigMap") if written == "v1" => {
                self.config_maps.extend(serde_json::from_value(object).ok());
            }
            Some("ImageFamily") if is_ours => self.add_family(object, place),
            Some("ManagedImage") if is_ours => {
                self.images.extend(read(object, &place, &mut self.problems));
            }
            Some("Cascade") if is_ours => {
                self.cascades.extend(read(object, &place, &mut self.problems));
            }
            Some("FamilyRequest") if is_ours => {
                self.requests.extend(read(object, &place, &mut self.problems));
            }
            Some(kind) if is_ours && OTHER_KINDS.contains(&kind) => {}
            kind if is_ours => {
                let kind = shorten(kind.unwrap_or_default(), MAX_NAME);
                let message =
                    format!("{GROUP} has no kind `{kind}`; write ImageFamily, for example");
                let field = if object.get("kind").is_some() { "/kind" } else { "" };
                self.problems.push(place.problem(field, message));
            }
            _ => {}
        }
    }

    fn add_family(&mut self, mut object: Value, place: DocumentPlace) {
        prune_nulls(&mut object);
        thread_local! {
            static SCHEMA: OnceCell<FamilySchema> = const { OnceCell::new() };
        }
        let violations = SCHEMA.with(|schema| {
            if schema.get().is_none() {
                // A test compiles the schema, and without it the fields are still read.
                _ = FamilySchema::compile().map(|compiled| schema.set(compiled));
            }
            schema.get().map(|schema| schema.violations(&object)).unwrap_or_default()
        });
        if violations.is_empty() {
            if let Some(family) = read(object, &place, &mut self.problems) {
                self.families.push((family, place));
            }
            return;
        }
        let problems = violations
            .into_iter()
            .map(|violation| place.problem(&violation.pointer, violation.message));
        self.problems.extend(problems);
    }
}

/// Reads an object, or adds the problem because of which it cannot be read.
fn read<K: DeserializeOwned>(
    object: Value,
    place: &DocumentPlace,
    problems: &mut Vec<InputProblem>,
) -> Option<K> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    match serde_json::from_value(object) {
        Ok(object) => Some(object),
        Err(error) => {
            let message = shorten(&format!("{kind} {name} is invalid: {error}"), MAX_MESSAGE);
            problems.push(place.problem("", message));
            None
        }
    }
}

fn syntax_problem(file: &str, error: &serde_yaml::Error) -> InputProblem {
    let location = error.location().filter(|location| location.line() > 0);
    let place = location.map_or_else(
        || file.to_owned(),
        |location| format!("{file}:{}:{}", location.line(), location.column()),
    );
    let text = match error.without_snippet() {
        serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key} is written twice; remove one")
        }
        other => other.to_string(),
    };
    let first = text.lines().next().unwrap_or_default();
    // The place says it already.
    let at = location.map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let first = at.and_then(|at| first.strip_suffix(&at)).unwrap_or(first);
    let message = shorten(&printable(&format!("this is not YAML: {first}")), MAX_MESSAGE);
    InputProblem { place, message }
}
