//! The combinations of a matrix, without those that `exclude` names.

use std::collections::BTreeMap;

use crate::{api::Image, engine::expansion::FieldProblem};

/// Upper bound on the combinations of one matrix, counted before `exclude`.
pub const MAX_COMBINATIONS: usize = 4096;
/// Upper bound on the combinations of all matrices of a family, counted before `exclude`. It bounds
/// the time that an expansion takes.
pub const MAX_FAMILY_COMBINATIONS: usize = 4 * MAX_COMBINATIONS;
/// Upper bound on the characters of a key.
const MAX_KEY_LENGTH: usize = 63;

/// A value for each key of a matrix.
pub type Combination = BTreeMap<String, String>;

/// Returns the combinations that an entry stands for: one without values if it has no matrix.
/// Takes their number, before `exclude`, from what is left to the family.
///
/// # Errors
///
/// Returns the first problem of `matrix` or `exclude`.
pub fn combinations(entry: &Image, left: &mut usize) -> Result<Vec<Combination>, FieldProblem> {
    let product = check_keys(entry)?;
    check_exclude(entry)?;
    *left = left.checked_sub(product).ok_or_else(|| {
        let why = format!(
            "with it, the matrices of the family have more than {MAX_FAMILY_COMBINATIONS} \
             combinations before `exclude`; write fewer values, or move it to another family"
        );
        FieldProblem::new("matrix", why)
    })?;
    let mut combinations = vec![Combination::new()];
    for (key, values) in &entry.matrix {
        let with_values = |combination: &Combination| {
            let with = |value: &String| {
                let mut combination = combination.clone();
                combination.insert(key.clone(), value.clone());
                combination
            };
            values.iter().map(with).collect::<Vec<_>>()
        };
        combinations = combinations.iter().flat_map(with_values).collect();
    }
    combinations.retain(|combination| !entry.exclude.iter().any(|of| matches(combination, of)));
    if combinations.is_empty() {
        return Err(FieldProblem::new(
            "exclude",
            "it excludes every combination; remove an entry, or the image".into(),
        ));
    }
    Ok(combinations)
}

/// Checks the keys of a matrix, and that it is not too large. Returns how many combinations it has.
fn check_keys(entry: &Image) -> Result<usize, FieldProblem> {
    let mut product = 1_usize;
    for (key, values) in &entry.matrix {
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if key.is_empty() || key.len() > MAX_KEY_LENGTH || !key.chars().all(is_key) {
            let why = format!(
                "write the key `{key}` with at most {MAX_KEY_LENGTH} letters, digits, `_` and `-`"
            );
            return Err(FieldProblem::new("matrix", why));
        }
        if values.is_empty() {
            let why = "it has no value; write at least one".into();
            return Err(FieldProblem::new(format!("matrix.{key}"), why));
        }
        product = product.saturating_mul(values.len());
    }
    if product > MAX_COMBINATIONS {
        let why = format!(
            "it has {product} combinations, and may have {MAX_COMBINATIONS}; split it over several \
             entries"
        );
        return Err(FieldProblem::new("matrix", why));
    }
    Ok(product)
}

/// Checks that each entry of `exclude` names keys and values of the matrix.
fn check_exclude(entry: &Image) -> Result<(), FieldProblem> {
    for (index, excluded) in entry.exclude.iter().enumerate() {
        let field = format!("exclude[{index}]");
        if excluded.is_empty() {
            let why = "it names no key of `matrix`; name one, or remove it".into();
            return Err(FieldProblem::new(field, why));
        }
        for (key, value) in excluded {
            let why = match entry.matrix.get(key) {
                None => format!("`matrix` has no key `{key}`; correct it"),
                Some(values) if !values.contains(value) => {
                    format!("`matrix.{key}` has no value `{value}`; correct it or remove the entry")
                }
                Some(_) => continue,
            };
            return Err(FieldProblem::new(field, why));
        }
    }
    Ok(())
}

fn matches(combination: &Combination, excluded: &Combination) -> bool {
    excluded.iter().all(|(key, value)| combination.get(key) == Some(value))
}
