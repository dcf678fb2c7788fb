//! The published schemas of the documents: `docs/reference/plugin` has one for each kind.

use std::{fs, path::Path};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{
    audit::report::AuditReport,
    contains::PackageReport,
    diff::compare::ImageDiff,
    discover::DiscoveryReport,
    graph::GraphDocument,
    history::{builds::BuildHistory, cascades::CascadeHistory},
    impact::ImpactDocument,
    layers::ImageLayers,
    lint::LintReport,
    outdated::report::OutdatedReport,
    output::API_VERSION,
    plan::PlanDocument,
    why::WhyDocument,
};

/// Returns the schema of a document of this kind.
fn schema<T: JsonSchema>(kind: &str) -> Value {
    let generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    let fields = schema["properties"].as_object_mut().expect("an object");
    fields.insert("apiVersion".into(), json!({"const": API_VERSION}));
    fields.insert("kind".into(), json!({"const": kind}));
    schema["required"].as_array_mut().expect("a list").extend([json!("apiVersion"), json!("kind")]);
    schema["additionalProperties"] = json!(false);
    for part in schema["$defs"].as_object_mut().into_iter().flat_map(|parts| parts.values_mut()) {
        if part["type"] == "object" {
            part["additionalProperties"] = json!(false);
        }
    }
    schema
}

/// The schemas match the types. `make generate` writes them.
#[test]
fn the_schemas_are_published() {
    for (file, schema) in [
        ("audit", schema::<AuditReport>("Audit")),
        ("contains", schema::<PackageReport>("PackageReport")),
        ("diff", schema::<ImageDiff>("ImageDiff")),
        ("discovery", schema::<DiscoveryReport>("RegistryDiscovery")),
        ("graph", schema::<GraphDocument>("Graph")),
        ("history-builds", schema::<BuildHistory>("BuildHistory")),
        ("history-cascades", schema::<CascadeHistory>("CascadeHistory")),
        ("impact", schema::<ImpactDocument>("Impact")),
        ("layers", schema::<ImageLayers>("ImageLayers")),
        ("lint", schema::<LintReport>("LintReport")),
        ("outdated", schema::<OutdatedReport>("OutdatedPackages")),
        ("plan", schema::<PlanDocument>("Plan")),
        ("why", schema::<WhyDocument>("Why")),
    ] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join(format!("docs/reference/plugin/{file}.schema.json"));
        let wanted = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
        if std::env::var_os("GENERATE").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, &wanted).expect("a file");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{} differs from the types; run make generate", path.display());
    }
}
