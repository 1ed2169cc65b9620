//! Arrays of metadata: the values of one type side by side, as small as in a file.

use crate::value::{Value, ValueKind};

macro_rules! arrays {
    ($($kind:ident: $number:ty),*) => {
        /// Values of one [`ValueKind`].
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // the variants say it all
        pub enum Array {
            $($kind(Vec<$number>),)*
            String(Strings),
        }

        impl Array {
    /// True if both hold the same values bit by bit: NaN is NaN.
    pub fn is_same(&self, other: &Array) -> bool {
        match (self, other) {
            (Array::F32(a), Array::F32(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (Array::F64(a), Array::F64(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (a, b) => a == b,
        }
    }

            /// An array of no values; `None` if there are no arrays of that kind.
            pub fn empty(kind: ValueKind) -> Option<Array> {
                match kind {
                    $(ValueKind::$kind => Some(Array::$kind(Vec::new())),)*
                    ValueKind::String => Some(Array::String(Strings::default())),
                    ValueKind::Array => None,
                }
            }

            /// The type of the values.
            pub fn kind(&self) -> ValueKind {
                match self {
                    $(Array::$kind(_) => ValueKind::$kind,)*
                    Array::String(_) => ValueKind::String,
                }
            }

            /// Number of values.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$kind(values) => values.len(),)*
                    Array::String(texts) => texts.ends.len(),
                }
            }

            /// Value number `i`.
            pub fn get(&self, i: usize) -> Option<Value> {
                match self {
                    $(Array::$kind(values) => values.get(i).map(|v| Value::$kind(*v)),)*
                    Array::String(texts) => texts.get(i).map(Value::from),
                }
            }

            /// Appends a value; false, and nothing is appended, if it is of another type.
            #[must_use]
            pub fn push(&mut self, value: Value) -> bool {
                match (self, value) {
                    $((Array::$kind(values), Value::$kind(value)) => values.push(value),)*
                    (Array::String(texts), Value::String(text)) => texts.push(&text),
                    _ => return false,
                }
                true
            }

            /// Bytes of memory that a value of this kind takes in an array; of a text, beside its own bytes.
            pub(crate) fn item_bytes(kind: ValueKind) -> u64 {
                let bytes = match kind {
                    $(ValueKind::$kind => size_of::<$number>(),)*
                    ValueKind::String | ValueKind::Array => size_of::<usize>(),
                };
                bytes as u64
            }
        }

        $(impl From<Vec<$number>> for Array {
            fn from(values: Vec<$number>) -> Array {
                Array::$kind(values)
            }
        })*
    };
}

arrays!(U8: u8, I8: i8, U16: u16, I16: i16, U32: u32, I32: i32, F32: f32, Bool: bool, U64: u64, I64: i64, F64: f64);

impl Array {
    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, each made when it is asked for.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// The texts of an array of texts; nothing of any other.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = if let Array::String(texts) = self { Some(texts) } else { None };
        texts.into_iter().flat_map(Strings::iter)
    }

    /// An array of these values; `None` if they are not all of that kind.
    pub fn of(kind: ValueKind, values: impl IntoIterator<Item = Value>) -> Option<Array> {
        let mut array = Array::empty(kind)?;
        values.into_iter().all(|value| array.push(value)).then_some(array)
    }
}

/// Texts, one behind the other in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// End of each text, as a byte offset in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// Room for so many texts of so many bytes together.
    pub(crate) fn with_capacity(texts: usize, bytes: usize) -> Strings {
        Strings { text: String::with_capacity(bytes), ends: Vec::with_capacity(texts) }
    }

    /// Appends a text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// Text number `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let start = match i.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start..*self.ends.get(i)?)
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).filter_map(|i| self.get(i))
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Strings {
        let mut strings = Strings::default();
        texts.into_iter().for_each(|text| strings.push(text.as_ref()));
        strings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_holds_values_of_one_type() {
        let mut array = Array::empty(ValueKind::I16).unwrap();
        assert!(array.push(Value::I16(-3)) && !array.push(Value::U16(3)) && array.push(Value::I16(4)));
        assert_eq!((array.len(), array.kind()), (2, ValueKind::I16));
        assert_eq!(array.iter().collect::<Vec<_>>(), [Value::I16(-3), Value::I16(4)]);
        assert_eq!(array, Array::from(vec![-3i16, 4]));
        assert_eq!((Array::empty(ValueKind::Array), array.get(2)), (None, None));
        assert_eq!(Array::of(ValueKind::U8, [Value::U16(1)]), None);
    }

    #[test]
    fn texts_stand_one_behind_the_other() {
        let array = Array::of(ValueKind::String, ["a", "", "é"].map(Value::from)).unwrap();
        assert_eq!(array.texts().collect::<Vec<_>>(), ["a", "", "é"]);
        assert_eq!((array.get(1), array.get(3)), (Some(Value::from("")), None));
        assert_eq!(Array::from(vec![1u8]).texts().count(), 0);
    }
}
