//! Logs: written to standard error, as text or as JSON, and filtered by `RUST_LOG`.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    filter::{FromEnvError, LevelFilter},
    fmt::{
        FmtContext, FormattedFields, MakeWriter,
        format::{FormatEvent, JsonFields, Writer},
    },
    registry::LookupSpan,
    util::TryInitError,
};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for humans
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Reason why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter: write for example `info` or `groundswell=debug,info`")]
    Filter(#[from] FromEnvError),
    /// Logging was set up before.
    #[error("logging is already set up")]
    AlreadySet(#[from] TryInitError),
}

/// Sets up logging for the whole process, once. Without `RUST_LOG`, everything from level `info` on
/// is logged.
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let mut filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env()?;
    if !std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default().contains("kube_runtime") {
        // Watches that are denied are logged once, by `object_watch`.
        let directive = "kube_runtime::watcher=error".parse().map_err(FromEnvError::from)?;
        filter = filter.add_directive(directive);
    }
    let colours = match std::env::var_os("NO_COLOR") {
        None if io::stderr().is_terminal() => Colours::On,
        _ => Colours::Off,
    };
    Ok(subscriber(format, filter, colours, io::stderr).try_init()?)
}

/// Whether text is coloured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

/// Returns a subscriber that writes each event with the fields of its spans: in text before the
/// message, in JSON as the object `span`.
fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: Colours,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours == Colours::On);
    match format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => {
            Box::new(lines.fmt_fields(JsonFields::new()).event_format(JsonLine).finish())
        }
    }
}

/// Writes an event as one JSON object: `timestamp`, `level`, `target`, the fields of the event, and
/// the fields of its spans in the object `span`. An inner span's field replaces an outer one's.
///
/// The formatter of `tracing-subscriber` would write the name of the span as `name`, and so hide
/// the field `name`, which is the name of the reconciled object.
struct JsonLine;

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = JsonVisitor(Map::new());
        event.record(&mut line);
        let JsonVisitor(mut line) = line;
        line.insert("timestamp".into(), Timestamp::now().to_string().into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("target".into(), event.metadata().target().into());
        let spans = context
            .event_scope()
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root);
        let mut span_fields = Map::new();
        for span in spans {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(fields))) =
                fields.map(|fields| serde_json::from_str(&fields.fields))
            {
                span_fields.extend(fields);
            }
        }
        if !span_fields.is_empty() {
            line.insert("span".into(), span_fields.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Collects the fields of an event.
struct JsonVisitor(Map<String, Value>);

impl JsonVisitor {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for JsonVisitor {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what `action` logs in this format.
    pub fn logged(format: LogFormat, action: impl FnOnce()) -> String {
        let buffer = LogBuffer::default();
        let writer = buffer.clone();
        let filter = EnvFilter::new("info");
        let subscriber = subscriber(format, filter, Colours::Off, move || writer.clone());
        tracing::subscriber::with_default(subscriber, action);
        let bytes = buffer.0.lock().expect("lock").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn log_in_a_span() {
        let span = tracing::info_span!(
            "reconcile",
            kind = "ImageFamily",
            namespace = "team",
            name = "web"
        );
        span.in_scope(|| tracing::info!(builds = 2, "started builds"));
    }

    #[test]
    fn json_lines_have_the_fields_of_the_current_span() {
        let logged = logged(LogFormat::Json, log_in_a_span);
        let line: serde_json::Value = serde_json::from_str(&logged).expect("one line of JSON");
        assert_eq!((&line["message"], &line["builds"]), (&"started builds".into(), &2.into()));
        let span = serde_json::json!({"kind": "ImageFamily", "namespace": "team", "name": "web"});
        assert_eq!(line["span"], span, "{logged}");
        assert_eq!(line["level"], "INFO", "{logged}");
    }

    #[test]
    fn text_lines_have_the_fields_of_the_spans() {
        let logged = logged(LogFormat::Text, log_in_a_span);
        for part in ["kind=\"ImageFamily\"", "namespace=\"team\"", "name=\"web\"", "started builds"]
        {
            assert!(logged.contains(part), "no {part} in {logged}");
        }
    }
}
