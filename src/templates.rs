//! Filling templates: how they write numbers, and what a mistake in one is.

use minijinja::value::Serde;
use minijinja::{
    AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value, escape_formatter,
};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::escape;
use crate::eval::Estimate;
use crate::units::{bytes, count, nats};

/// The name of the escaping of Markdown.
const MARKDOWN: &str = "markdown";

/// Filter of a template: from a text to its replacement.
type Filter = fn(&str) -> String;

/// Filters that make markup of text, by the kind of place that the text stands in.
const FILTERS: &[(&str, Filter)] =
    &[("code", escape::code), ("url", escape::url), ("link", escape::link), ("shell", escape::shell)];

/// The engine with templates of these names and texts; the extension of a name says how what is filled in is escaped.
///
/// # Errors
/// If a template has no sense.
pub fn engine(templates: &[(&'static str, &'static str)]) -> Result<Environment<'static>> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    engine.set_auto_escape_callback(|name| match name.rsplit('.').next() {
        Some("html" | "xml") => AutoEscape::Html,
        Some("md") => AutoEscape::Custom(MARKDOWN.into()),
        _ => AutoEscape::None,
    });
    engine.set_formatter(escaped);
    for (name, filter) in FILTERS {
        engine.add_filter(*name, |text: String| Value::from_safe_string(filter(&text)));
    }
    engine.add_filter("json", |value: Value| {
        let text = escape::json(&value)
            .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()));
        text.map(Value::from_safe_string)
    });
    engine.add_filter("bytes", bytes);
    engine.add_filter("count", count);
    engine.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    engine.add_filter("estimate", |e: Serde<Estimate>, digits: usize| estimate(&e, digits, 1.0));
    engine.add_filter("nats", nats);
    engine.add_filter("divergence", |e: Serde<Estimate>| divergence(&e));
    engine.add_filter("percent", |e: Serde<Estimate>| estimate(&e, 2, 100.0) + " %");
    for (name, source) in templates {
        engine.add_template(name, source).map_err(|e| mistake(&e))?;
    }
    Ok(engine)
}

/// Writes a value that is filled in, which is text: it is escaped for the kind of file.
fn escaped(out: &mut Output, state: &mut State, value: &Value) -> std::result::Result<(), minijinja::Error> {
    let text = value.as_str().filter(|_| !value.is_safe());
    match (text, state.auto_escape()) {
        (Some(text), AutoEscape::Html) => {
            let text = Value::from(escape::visible(text).into_owned());
            escape_formatter(out, state, &text)
        }
        (Some(text), AutoEscape::Custom(_)) => Ok(out.write_str(&escape::markdown(text))?),
        (None, AutoEscape::Custom(_)) => Ok(out.write_str(&value.to_string())?),
        _ => escape_formatter(out, state, value),
    }
}

/// A figure times `scale` and its standard error, with so many digits.
pub fn estimate(e: &Estimate, digits: usize, scale: f64) -> String {
    let value = e.value * scale;
    match e.error.map(|error| error * scale) {
        Some(error) => format!("{value:.digits$} \u{b1} {error:.digits$}"),
        None => format!("{value:.digits$}"),
    }
}

/// A divergence and its standard error.
pub fn divergence(e: &Estimate) -> String {
    match e.error {
        Some(error) => format!("{} \u{b1} {}", nats(e.value), nats(error)),
        None => nats(e.value),
    }
}

/// The template of this name, filled with `values`.
///
/// # Errors
/// If it asks for what is not there.
pub fn fill(engine: &Environment, name: &str, values: &impl Serialize) -> Result<Vec<u8>> {
    let text = engine.get_template(name).and_then(|t| t.render(Serde(values)));
    text.map(|text| (text + "\n").into_bytes()).map_err(|e| mistake(&e))
}

/// A template that cannot be filled.
fn mistake(error: &minijinja::Error) -> Error {
    Error::Model {
        path: error.name().unwrap_or("a template").into(),
        what: format!("cannot be written: {error:#}"),
        help: "this is a mistake in the program: please report it, with the job".to_owned(),
    }
}
