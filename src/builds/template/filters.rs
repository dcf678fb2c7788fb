//! The two filters that strategies have in addition to those of minijinja.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// `list | each("--opt=build-arg:{name}={value}")`: one string for each object of a list, with
/// `{field}` replaced by the object's field. Inserted values are not expanded again, so a value
/// with braces is kept as it is.
pub(super) fn each(list: &Value, pattern: &str) -> Result<Vec<String>, Error> {
    list.try_iter()?.map(|item| fill(pattern, &item)).collect()
}

fn fill(pattern: &str, item: &Value) -> Result<String, Error> {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((field, tail)) = after.split_once('}').filter(|(field, _)| is_name(field)) else {
            text.push('{');
            rest = after;
            continue;
        };
        let value = item.get_attr(field)?;
        if !matches!(value.kind(), ValueKind::String | ValueKind::Number | ValueKind::Bool) {
            let message = format!("the items of this list have no field `{field}`");
            return Err(Error::new(ErrorKind::UndefinedError, message));
        }
        text.push_str(&value.to_string());
        rest = tail;
    }
    text.push_str(rest);
    Ok(text)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `text | csv`, `list | csv`: a field of a comma-separated list, or a whole list, quoted where
/// necessary. `BuildKit` parses `--output` and `--export-cache` like this; without quotes, a comma
/// in an annotation would begin a new option.
pub(super) fn csv(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(value
            .try_iter()?
            .map(|field| quote(&field.to_string()))
            .collect::<Vec<_>>()
            .join(",")),
        _ => Ok(quote(&value.to_string())),
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) || field.trim() != field {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
