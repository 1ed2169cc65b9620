//! Choices: one of a few values, under the same name on the command line, in recipes, jobs and records.

/// A type of few values, each with a name.
pub trait Choice: Copy + PartialEq + Sized + 'static {
    /// Every value, with its name and what it means.
    const ALL: &'static [(Self, &'static str, &'static str)];

    /// The name.
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(value, ..)| *value == self).map_or("", |(_, name, _)| name)
    }

    /// The value of that name, in any case.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(name)).map(|(value, ..)| *value)
    }
}

/// Error for a value that does not exist, in the words of serde.
pub fn unknown<E: serde::de::Error>(value: &str, known: impl IntoIterator<Item = &'static str>) -> E {
    let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    E::custom(format!("unknown variant `{value}`, expected one of {}", known.join(", ")))
}

/// Defines an enum that is a [`Choice`], and that recipes and records hold by its names: `Variant = "name"`, with the doc
/// comment of the variant as what it means. With `#[derive(Default)]`, one variant is marked `#[default]`.
macro_rules! choice {
    (
        $(#[$about:meta])*
        pub enum $type:ident {
            $( #[doc = $means:literal] $(#[$default:ident])? $variant:ident = $name:literal ),+ $(,)?
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $( #[doc = $means] $(#[$default])? $variant ),+
        }

        impl $crate::choice::Choice for $type {
            const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$( ($type::$variant, $name, $means) ),+];
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                to.serialize_str($crate::choice::Choice::name(*self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                let unknown = || $crate::choice::unknown(&name, [$( $name ),+]);
                $crate::choice::Choice::named(&name).ok_or_else(unknown)
            }
        }
    };
}
pub(crate) use choice;
