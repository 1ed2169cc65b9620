//! Filling templates: how they write numbers, and what a mistake in one is.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::eval::Estimate;
use crate::report::{bytes, count, nats};

/// The engine with templates of these names and texts; the extension of a name says how what is filled in is escaped.
///
/// # Errors
/// If a template has no sense.
pub fn engine(templates: &[(&'static str, &'static str)]) -> Result<Environment<'static>> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    engine.set_auto_escape_callback(|name| match name.rsplit('.').next() {
        Some("html" | "xml") => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    engine.add_filter("bytes", bytes);
    engine.add_filter("count", count);
    engine.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    engine.add_filter("estimate", |e: Serde<Estimate>, digits: usize| estimate(&e, digits, 1.0));
    engine.add_filter("nats", nats);
    engine.add_filter("divergence", |e: Serde<Estimate>| divergence(&e));
    engine.add_filter("percent", |e: Serde<Estimate>| estimate(&e, 2, 100.0) + " %");
    // XML knows no other control characters, however they are written.
    engine.add_filter("printable", |text: String| {
        text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', " ")
    });
    for (name, source) in templates {
        engine.add_template(name, source).map_err(|e| mistake(&e))?;
    }
    Ok(engine)
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
