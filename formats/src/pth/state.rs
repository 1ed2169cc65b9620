//! Finding the state dict in what a pickle describes, and the metadata beside it.

use crate::error::{Blame, Result};
use crate::limits::Limits;
use crate::pth::object::{Item, Object, Pickle, TensorView};
use crate::pth::refuse;
use crate::value::{Metadata, Value, ValueKind};

/// Keys under which programs put the state dict, the likeliest first.
const WRAPPERS: &[&str] = &["state_dict", "model_state_dict", "model", "module", "weights"];
/// How many wrappers can be around each other.
const DEPTH: usize = 4;

/// Bytes of metadata for each byte of the pickle.
const METADATA_BYTES: u64 = 64;

/// The tensors of the state dict by name, in file order.
pub(super) type Views<'p, 'a> = Vec<(String, &'p TensorView<'a>)>;

/// A key and its value.
type Member<'a> = (Item<'a>, Item<'a>);

/// Finds the state dict by the rule in the [module's documentation](crate::pth), and the metadata.
///
/// # Errors
/// If there are no tensors, or it is not clear which are meant.
pub(super) fn find<'p, 'a>(
    pickle: &'p Pickle<'a>,
    limits: &Limits,
    blame: Blame<'_>,
) -> Result<(Views<'p, 'a>, Metadata)> {
    let mut metadata = Metadata::new();
    let mut at = pickle.root;
    // A pickle can mention a long text a million times at two bytes a time; as metadata it is copied. Honest
    // metadata is a few times as large as its pickle.
    let mut budget = pickle.bytes.saturating_mul(METADATA_BYTES);
    for _ in 0..=DEPTH {
        let members = members(pickle, at);
        blame.within("entries of a dict", members.len() as u64, limits.values)?;
        let is_tensor = |item: &Item<'a>| matches!(pickle.object(*item), Some(Object::Tensor(_)));
        let holders = holders(pickle, &members);
        let wrapped = wrapped(&holders);
        let here = wrapped.is_none() && members.iter().any(|(_, item)| is_tensor(item));
        let next = if here || wrapped.is_some() { wrapped } else { only(&holders, limits, blame)? };

        let mut views = Views::new();
        for (key, item) in &members {
            if let (Some(Object::Tensor(view)), true) = (pickle.object(*item), here) {
                views.push((name(*key, limits, blame)?, view));
            } else if Some(*item) != next
                && let Ok(key) = name(*key, limits, blame)
            {
                budget = budget.saturating_sub(cost(pickle, *item).saturating_add(key.len() as u64));
                if budget == 0 {
                    return Err(blame.malformed("it repeats the same values far too often"));
                }
                metadata.push((key, value(pickle, *item)));
            }
        }
        if here {
            return Ok((views, metadata));
        }
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    let help = "save the state dict of the model: torch.save(model.state_dict(), path)";
    Err(refuse::not_a_model("a torch file without a state dict of tensors", help, blame))
}

/// The keys and values of a dict, the numbers and elements of a list.
fn members<'a>(pickle: &Pickle<'a>, item: Item<'a>) -> Vec<Member<'a>> {
    let numbered = |items: &[Item<'a>]| (0..).map(Item::Int).zip(items.iter().copied()).collect();
    match pickle.object(item) {
        Some(Object::Dict(pairs)) => pairs.clone(),
        Some(Object::List(items)) => numbered(items),
        Some(Object::Tuple(items)) => numbered(items),
        _ => Vec::new(),
    }
}

/// The members that have tensors in them.
fn holders<'a>(pickle: &Pickle<'a>, members: &[Member<'a>]) -> Vec<Member<'a>> {
    let holding = tensor_holders(pickle);
    let holds = |item: &Item<'a>| matches!(item, Item::Ref(id) if holding.get(*id as usize) == Some(&true));
    members.iter().filter(|(_, item)| holds(item)).copied().collect()
}

/// The member that is a state dict by its key.
fn wrapped<'a>(holders: &[Member<'a>]) -> Option<Item<'a>> {
    let under = |wrapper: &&str| holders.iter().find(|(key, _)| *key == Item::Text(wrapper));
    WRAPPERS.iter().find_map(under).map(|(_, item)| *item)
}

/// The member that is the state dict because there is no other.
fn only<'a>(holders: &[Member<'a>], limits: &Limits, blame: Blame<'_>) -> Result<Option<Item<'a>>> {
    match holders {
        [] => Ok(None),
        [(_, item)] => Ok(Some(*item)),
        [(first, _), ..] => {
            let names: Vec<String> =
                holders.iter().take(4).filter_map(|(key, _)| name(*key, limits, blame).ok()).collect();
            let more = if holders.len() > 4 { ", ..." } else { "" };
            let first = name(*first, limits, blame)?;
            Err(blame.unsupported(
                format!("several dicts of tensors ({}{more})", names.join(", ")),
                format!(
                    "in Python, save the one that is the model, such as \
                     torch.save(torch.load(path, weights_only=True)[{first:?}], new_path)"
                ),
            ))
        }
    }
}

/// For every object, whether it is a container with tensors in it, at most [`DEPTH`] containers down.
fn tensor_holders(pickle: &Pickle<'_>) -> Vec<bool> {
    let mut holding = vec![false; pickle.objects.len()];
    for _ in 0..DEPTH {
        let holds = |item: &Item<'_>, before: &[bool]| match item {
            Item::Ref(id) => {
                matches!(pickle.object(*item), Some(Object::Tensor(_)))
                    || before.get(*id as usize) == Some(&true)
            }
            _ => false,
        };
        let next = pickle.objects.iter().map(|object| match object {
            Object::Dict(pairs) => pairs.iter().any(|(_, item)| holds(item, &holding)),
            Object::List(items) => items.iter().any(|item| holds(item, &holding)),
            Object::Tuple(items) => items.iter().any(|item| holds(item, &holding)),
            _ => false,
        });
        holding = next.collect();
    }
    holding
}

/// A key as text.
fn name(key: Item<'_>, limits: &Limits, blame: Blame<'_>) -> Result<String> {
    match key {
        Item::Text(text) => {
            blame.within("bytes of name", text.len() as u64, limits.name_bytes)?;
            Ok(text.to_owned())
        }
        Item::Int(number) => Ok(number.to_string()),
        _ => {
            let help = "save the tensors in a dict with their names as keys";
            Err(blame.unsupported("a tensor whose key is no text", help))
        }
    }
}

/// About how many bytes [`value`] takes.
fn cost(pickle: &Pickle<'_>, item: Item<'_>) -> u64 {
    let one = |item: &Item<'_>| match item {
        Item::Text(text) => 32 + text.len() as u64,
        _ => 32,
    };
    match pickle.object(item) {
        Some(Object::List(items)) => items.iter().map(one).sum(),
        Some(Object::Tuple(items)) => items.iter().map(one).sum(),
        _ => one(&item),
    }
}

/// What is said of a value that is no tensor.
fn value(pickle: &Pickle<'_>, item: Item<'_>) -> Value {
    if let Some(value) = scalar(item) {
        return value;
    }
    let word = |what: &str, len: usize| Value::String(format!("<{what} of {len}>"));
    match pickle.object(item) {
        Some(Object::List(items)) => array(items).unwrap_or_else(|| word("list", items.len())),
        Some(Object::Tuple(items)) => array(items).unwrap_or_else(|| word("tuple", items.len())),
        Some(Object::Dict(pairs)) => word("dict", pairs.len()),
        Some(Object::Storage(_)) => "<storage>".into(),
        Some(Object::Tensor(_)) => "<tensor>".into(),
        Some(Object::Other(name)) => Value::String(format!("<{name}>")),
        None => match item {
            Item::None => "<none>".into(),
            Item::Bytes(bytes) => word("bytes", bytes.len()),
            Item::Big(_) => "<large integer>".into(),
            _ => "<type>".into(),
        },
    }
}

fn scalar(item: Item<'_>) -> Option<Value> {
    match item {
        Item::Bool(v) => Some(Value::Bool(v)),
        Item::Int(v) => Some(Value::I64(v)),
        Item::Float(v) => Some(Value::F64(v)),
        Item::Text(v) => Some(v.into()),
        _ => None,
    }
}

/// Plain values of one kind as an array.
fn array(items: &[Item<'_>]) -> Option<Value> {
    let values = items.iter().map(|i| scalar(*i)).collect::<Option<Vec<_>>>()?;
    let kind = values.first().map_or(ValueKind::String, Value::kind);
    values.iter().all(|v| v.kind() == kind).then_some(Value::Array(kind, values))
}
