//! Heat maps: a row a block, a column a tensor.

use serde::Serialize;

/// A map of the tensors of one artifact.
#[derive(Debug, Serialize)]
pub(crate) struct Heat {
    name: String,
    /// Explanation of the colors and of the text in the fields.
    caption: &'static str,
    /// Values of the coldest and the hottest field.
    scale: [&'static str; 2],
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    fields: Vec<Option<Field>>,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Field {
    pub text: String,
    pub tip: String,
    /// Heat from 0 to 1.
    pub heat: f64,
}

/// Name of the row of tensors that are in no block.
const OUTSIDE: &str = "model";

/// Heat of a relative error: from 0 for 1e-4 or less to 1 for 1 or more.
pub(crate) fn of_error(relative: f64) -> f64 {
    (relative.max(1e-4).log10() / 4.0 + 1.0).min(1.0)
}

/// Values of the ends of [`of_error`].
pub(crate) const ERRORS: [&str; 2] = ["1e-4 or less", "1 or more"];

impl Heat {
    /// The map of `fields` by the names of their tensors, in which the first number is that of the block; `None` if
    /// there are none.
    pub fn new(
        name: String,
        caption: &'static str,
        scale: [&'static str; 2],
        fields: impl Iterator<Item = (String, Field)>,
    ) -> Option<Heat> {
        let mut map = Heat { name, caption, scale, columns: Vec::new(), rows: Vec::new() };
        let mut outside = Heat { rows: Vec::new(), columns: Vec::new(), name: String::new(), ..map };
        for (tensor, field) in fields {
            match in_block(&tensor) {
                Some((block, short)) => map.put(format!("block {block}"), short, field),
                None => outside.put(OUTSIDE.to_owned(), &tensor, field),
            }
        }
        // Those outside of the blocks come first, in columns of their own behind those of the blocks.
        let columns = map.columns.len();
        for row in &mut outside.rows {
            row.fields.splice(0..0, std::iter::repeat_n(None, columns));
        }
        map.columns.append(&mut outside.columns);
        map.rows.splice(0..0, outside.rows);
        for row in &mut map.rows {
            row.fields.resize(map.columns.len(), None);
        }
        (!map.rows.is_empty()).then_some(map)
    }

    fn put(&mut self, row: String, column: &str, field: Field) {
        let column = self.columns.iter().position(|c| c == column).unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        });
        let at = self.rows.iter().position(|r| r.name == row).unwrap_or_else(|| {
            self.rows.push(Row { name: row, fields: Vec::new() });
            self.rows.len() - 1
        });
        let fields = &mut self.rows[at].fields;
        fields.resize(fields.len().max(column + 1), None);
        fields[column] = Some(field);
    }
}

/// The block of a tensor, and what it is called there: `blocks.3.att.key.weight`, `blk.3.time_mix_key.weight`.
fn in_block(tensor: &str) -> Option<(&str, &str)> {
    let parts = tensor.match_indices('.').map(|(dot, _)| &tensor[dot + 1..]);
    let mut numbered = parts.filter_map(|rest| rest.split_once('.'));
    numbered.find(|(number, _)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_has_its_field() {
        let field = |text: &str| Field { text: text.to_owned(), tip: String::new(), heat: 0.0 };
        let tensors =
            ["emb.weight", "blocks.0.att.key.weight", "blocks.1.ffn.key.weight", "blocks.1.att.key.weight"];
        let fields = tensors.iter().map(|t| ((*t).to_owned(), field(t)));
        let map = Heat::new("m".to_owned(), "", ["", ""], fields).unwrap();
        assert_eq!(map.columns, ["att.key.weight", "ffn.key.weight", "emb.weight"]);
        let texts: Vec<Vec<&str>> = map
            .rows
            .iter()
            .map(|r| r.fields.iter().map(|f| f.as_ref().map_or("", |f| f.text.as_str())).collect())
            .collect();
        assert_eq!(texts, [["", "", tensors[0]], [tensors[1], "", ""], [tensors[3], tensors[2], ""]]);
        assert_eq!(map.rows[0].name, OUTSIDE);
    }

    #[test]
    fn errors_are_hot() {
        assert_eq!([0.0, 1e-4, 1e-2, 1.0, 3.0].map(of_error), [0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
