//! The values of a Bake file. A small file can describe huge values, so that their size is bounded
//! before they are computed.

use std::{cell::Cell, collections::BTreeMap, rc::Rc};

use hcl::{
    Expression, Value,
    eval::{Context, Evaluate as _},
};

/// Maximum size of a value in bytes.
const MAX_VALUE: usize = 1 << 20;
/// Maximum size of all values of a file in bytes, each as often as it is computed or copied.
const MAX_ALL_VALUES: usize = 64 << 20;

/// The variables of a file that have a value.
#[derive(Clone)]
pub struct BakeVariables {
    context: Context<'static>,
    sizes: BTreeMap<String, usize>,
    /// How many bytes may still be computed. All copies share it.
    left: Rc<Cell<usize>>,
}

impl BakeVariables {
    pub fn new() -> Self {
        let left = Rc::new(Cell::new(MAX_ALL_VALUES));
        Self { context: Context::new(), sizes: BTreeMap::new(), left }
    }

    pub fn declare(&mut self, name: &str, value: Value) {
        self.sizes.insert(name.to_owned(), size_of(&value));
        self.context.declare_var(name, value);
    }

    /// Returns a copy.
    ///
    /// # Errors
    /// Returns an error if the file has copied too much already.
    pub fn copied(&self) -> Result<Self, String> {
        self.spend(self.sizes.values().sum())?;
        Ok(self.clone())
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// Returns an error if it is not static, or if its value may be too large.
    pub fn evaluate(&self, expression: &Expression) -> Result<Value, String> {
        let text = expression.to_string();
        if has_loop(&text) {
            return Err("it has a `for`, which is not evaluated".into());
        }
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)));
        let of_variables = words.filter_map(|word| self.sizes.get(word));
        let size = of_variables.fold(text.len(), |sum, size| sum.saturating_add(*size));
        if size > MAX_VALUE {
            return Err(format!("its value may be larger than {} MiB", MAX_VALUE >> 20));
        }
        self.spend(size)?;
        expression
            .evaluate(&self.context)
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
    }

    /// Counts bytes that are computed or copied.
    ///
    /// # Errors
    /// Returns an error if it is too much for one file.
    pub fn spend(&self, bytes: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.unwrap_or_default());
        left.map(|_| ()).ok_or_else(|| {
            format!("the values of the file are larger than {} MiB", MAX_ALL_VALUES >> 20)
        })
    }
}

/// Whether an expression repeats something, in itself or in a template.
fn has_loop(text: &str) -> bool {
    let begins = |rest: &str| {
        let rest = rest.trim_start_matches(['~', ' ', '\t', '\n']);
        rest.strip_prefix("for").is_some_and(|rest| rest.starts_with(char::is_whitespace))
    };
    text.split(['[', '{']).skip(1).any(begins)
}

/// Returns the size of a value in bytes, about as it is in memory.
pub fn size_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(values) => values.iter().map(size_of).sum::<usize>() + 8,
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() + size_of(value)).sum::<usize>() + 8
        }
    }
}
