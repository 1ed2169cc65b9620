//! A Modelfile beside a GGUF file: what `ollama create` needs to chat with the model.
//!
//! Strings of a Modelfile know no escapes, so line feeds stand in them as they are; the template is one of Go's.

use std::path::Path;

use super::{ADAPTER, PlannedFile, SmallFile, Target, beside, gguf};
use crate::error::{Error, Result};
use crate::escape::is_hidden;
use crate::recipe::Chat;

/// The ending of a Modelfile's name.
const MODELFILE: &str = "Modelfile";

/// The system prompt, and the turns before the model's.
const WORLD: &str = r#"{{- if .System }}System: {{ .System }}

{{ end }}
{{- range .Messages }}
{{- if eq .Role "user" }}User: {{ .Content }}

{{ else if eq .Role "assistant" }}Assistant: {{ .Content }}

{{ end }}
{{- end }}Assistant:"#;

/// Turns as in `WORLD`; thoughts of earlier turns are left out, and the model thinks if it is asked to.
const G1: &str = r#"{{- if .System }}System: {{ .System }}

{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}User: {{ .Content }}

{{ else if eq .Role "assistant" }}Assistant:{{ if and $last .Thinking }} <think>{{ .Thinking }}</think>{{ end }} {{ .Content }}

{{ end }}
{{- end }}Assistant:{{ if .IsThinkSet }}{{ if .Think }} <think>{{ else }} <think>
</think>{{ end }}{{ end }}"#;

impl Chat {
    /// Prompt template and stop words.
    fn prompt(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Chat::World => (WORLD, &["\n\n", "\nUser:"]),
            Chat::G1 => (G1, &["\n\nUser:", "\n\nSystem:"]),
        }
    }

    /// The Modelfile for a GGUF file: `NAME.Modelfile` beside `NAME.gguf`; and `NAME.lora.gguf` if there are branches.
    ///
    /// # Errors
    /// [`Error::Usage`] if the target is not GGUF, in one file.
    pub fn modelfile(
        self,
        target: &dyn Target,
        files: &[PlannedFile],
        has_branches: bool,
    ) -> Result<SmallFile> {
        let [file] = files else { return Err(refused("the model is spread over several files")) };
        if target.id() != gguf::Gguf.id() {
            return Err(refused(&format!("{} is another format", target.name())));
        }
        let Some(name) = file.name.to_str().filter(|n| !n.contains(is_hidden)) else {
            return Err(refused("the output's name is no text of one line"));
        };
        let (template, stops) = self.prompt();
        let beside = |ending| beside(Path::new(name), ending);
        let adapter = has_branches.then(|| format!("ADAPTER ./{}\n", beside(ADAPTER).display()));
        let adapter = adapter.unwrap_or_default();
        let mut text = format!("FROM ./{name}\n{adapter}\nTEMPLATE \"\"\"{template}\"\"\"\n\n");
        for stop in stops {
            text += &format!("PARAMETER stop \"\"\"{stop}\"\"\"\n");
        }
        Ok(SmallFile { name: beside(MODELFILE).into_os_string(), bytes: text.into_bytes() })
    }
}

fn refused(why: &str) -> Error {
    Error::Usage {
        what: format!("ollama makes models from single GGUF files, and {why}"),
        help: "write one .gguf file, or leave --modelfile out".to_owned(),
    }
}
