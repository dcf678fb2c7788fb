//! The table of scenarios for developers, written from the scenarios.

use std::fs;

use crate::{root, scenario::FaultScenario};

const DOCUMENT: &str = "docs/registry-scenarios.md";
/// The number of scenarios that have been collected. None may be lost.
const COLLECTED: usize = 75;

const HEAD: &str = "\
# Registry scenarios

How registries, mirrors, token services and proxies behave, as public reports of other builders,
watchers and registries describe it, and what the client does about it. The rows are written from
the files in `tests/fault_registry/scenarios` by `GENERATE=1 cargo test --test fault_registry`; a
test compares them. *Played* scenarios have the raw requests and responses in their file.

| scenario | behaviour | shown by |
|---|---|---|
";

#[test]
fn the_table_is_that_of_the_scenarios() {
    let expected = document(&FaultScenario::all());
    let path = root().join(DOCUMENT);
    if std::env::var_os("GENERATE").is_some() {
        fs::write(&path, &expected).expect("write the table");
    }
    let actual = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{DOCUMENT} is outdated: GENERATE=1 cargo test --test fault_registry"
    );
}

#[test]
fn every_scenario_is_played_or_named_by_a_test_or_open() {
    let scenarios = FaultScenario::all();
    for scenario in &scenarios {
        let shown = usize::from(!scenario.steps.is_empty())
            + usize::from(scenario.test.is_some())
            + usize::from(scenario.open.is_some());
        assert!(shown >= 1, "{}: neither steps, nor a test, nor open", scenario.name);
        if let Some(test) = &scenario.test {
            let (path, name) = test.split_once("::").expect("path::name");
            let text = fs::read_to_string(root().join(path)).expect(path);
            assert!(
                text.contains(&format!("fn {name}(")),
                "{}: {path} has no {name}",
                scenario.name
            );
        }
    }
    let is_known = |number: usize| {
        scenarios.iter().any(|known| known.name.starts_with(&format!("{number:02}-")))
    };
    let lost: Vec<usize> = (1..=COLLECTED).filter(|number| !is_known(*number)).collect();
    assert!(lost.is_empty(), "no scenario {lost:?}");
}

fn document(scenarios: &[FaultScenario]) -> String {
    let rows: Vec<String> = scenarios.iter().map(row).collect();
    format!("{HEAD}{}", rows.concat())
}

fn row(scenario: &FaultScenario) -> String {
    let number = scenario.name.split('-').next().unwrap_or_default();
    let reports = if scenario.reports.is_empty() {
        String::new()
    } else {
        format!(" ({})", scenario.reports.join(", "))
    };
    let shown = match (&scenario.open, &scenario.test) {
        (Some(open), _) => format!("open: {open}"),
        (None, Some(test)) => format!("`{}`", test.replace("::", "`, `")),
        (None, None) => "played".to_owned(),
    };
    format!(
        "| {number} {}{reports} | {} | {shown} |\n",
        scenario.scenario.trim(),
        scenario.behaviour.trim()
    )
}
