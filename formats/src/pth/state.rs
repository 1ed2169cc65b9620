//! Finding the state dict in what a pickle describes, and the metadata beside it.

use crate::array::Array;
use crate::aside::LeftAside;
use crate::budget::Budget;
use crate::error::{Blame, Result};
use crate::json;
use crate::pth::object::{Item, Object, Pickle, TensorView};
use crate::pth::refuse;
use crate::value::{Metadata, Value, ValueKind};

/// Keys under which programs put the state dict, the likeliest first.
const WRAPPERS: &[&str] = &["state_dict", "model_state_dict", "model", "module", "weights"];
/// Most wrappers that can be around each other.
const DEPTH: usize = 4;

/// Most state dicts that are named as left aside.
const ASIDE: usize = 16;

/// The tensors of the state dict by name, in file order.
pub(super) type Views<'p, 'a> = Vec<(String, &'p TensorView<'a>)>;

/// A key and its value.
type Member<'a> = (Item<'a>, Item<'a>);

/// Model that a pickle holds.
pub(super) struct Found<'p, 'a> {
    pub views: Views<'p, 'a>,
    pub metadata: Metadata,
    /// Other state dicts beside it.
    pub left_aside: Option<LeftAside>,
}

/// Finds the state dict by the rule in the [module's documentation](crate::pth), and the metadata.
///
/// # Errors
/// If there are no tensors, or it is not clear which are meant.
pub(super) fn find<'p, 'a>(
    pickle: &'p Pickle<'a>,
    budget: &Budget<'_>,
    blame: Blame<'_>,
) -> Result<Found<'p, 'a>> {
    let mut metadata = Metadata::new();
    let mut at = pickle.root;
    let mut left_aside = LeftAside { taken: String::new(), others: Vec::new() };
    for _ in 0..=DEPTH {
        let members = members(pickle, at, budget, blame)?;
        blame.within("entries of a dict", members.len() as u64, budget.values)?;
        let is_tensor = |item: &Item<'a>| matches!(pickle.object(*item), Some(Object::Tensor(_)));
        let holders = holders(pickle, &members, budget, blame)?;
        let wrapped = wrapped(&holders);
        let here = wrapped.is_none() && members.iter().any(|(_, item)| is_tensor(item));
        let next = if here || wrapped.is_some() {
            wrapped
        } else {
            only(&holders, &left_aside.taken, budget, blame)?
        };
        let is_next = |(_, item): &Member<'a>| Some(*item) == next.map(|(_, next)| next);

        let mut views = Views::new();
        for member @ (key, item) in &members {
            if let (Some(Object::Tensor(view)), true) = (pickle.object(*item), here) {
                let name = name(*key, budget, blame)?;
                budget.item::<(String, &TensorView<'a>)>(0, blame)?;
                views.push((name, view));
            } else if !is_next(member)
                && let Ok(key) = name(*key, budget, blame)
            {
                budget.item::<(String, Value)>(cost(pickle, *item), blame)?;
                metadata.push((key, value(pickle, *item)));
            }
        }
        let others = holders.iter().filter(|holder| !is_next(holder) && !is_tensor(&holder.1));
        for (key, _) in others.filter(|(key, _)| !is_optimizer(*key)) {
            if left_aside.others.len() < ASIDE
                && let Some(key) = python(*key)
            {
                left_aside.others.push(format!("{}{key}", left_aside.taken));
            }
        }
        if here {
            let left_aside = Some(left_aside).filter(|aside| !aside.others.is_empty());
            return Ok(Found { views, metadata, left_aside });
        }
        match next {
            Some((key, next)) => {
                at = next;
                left_aside.taken += &python(key).unwrap_or_default();
            }
            None => break,
        }
    }
    let help = "save the state dict of the model: torch.save(model.state_dict(), path)";
    Err(refuse::not_a_model("a torch file without a state dict of tensors", help, blame))
}

/// A key as Python writes it to look into a dict or a list: `["model"]`, `[0]`.
fn python(key: Item<'_>) -> Option<String> {
    match key {
        Item::Text(text) => Some(format!("[{:?}]", json::short(text))),
        Item::Int(number) => Some(format!("[{number}]")),
        _ => None,
    }
}

/// True for the state of an optimizer, which holds tensors but no model.
fn is_optimizer(key: Item<'_>) -> bool {
    matches!(key, Item::Text(text) if text.starts_with("optim"))
}

/// The keys and values of a dict, the numbers and elements of a list.
fn members<'a>(
    pickle: &Pickle<'a>,
    item: Item<'a>,
    budget: &Budget<'_>,
    blame: Blame<'_>,
) -> Result<Vec<Member<'a>>> {
    let numbered = |items: &[Item<'a>]| (0..).map(Item::Int).zip(items.iter().copied()).collect();
    let count = match pickle.object(item) {
        Some(Object::Dict(pairs)) => pairs.len(),
        Some(Object::List(items)) => items.len(),
        Some(Object::Tuple(items)) => items.len(),
        _ => 0,
    };
    budget.reserve((count * size_of::<Member<'a>>()) as u64, blame)?;
    Ok(match pickle.object(item) {
        Some(Object::Dict(pairs)) => pairs.clone(),
        Some(Object::List(items)) => numbered(items),
        Some(Object::Tuple(items)) => numbered(items),
        _ => Vec::new(),
    })
}

/// The members that have tensors in them.
fn holders<'a>(
    pickle: &Pickle<'a>,
    members: &[Member<'a>],
    budget: &Budget<'_>,
    blame: Blame<'_>,
) -> Result<Vec<Member<'a>>> {
    // A flag for each object, before and after a round.
    budget.reserve(2 * pickle.objects.len() as u64, blame)?;
    let holding = tensor_holders(pickle);
    let holds = |item: &Item<'a>| matches!(item, Item::Ref(id) if holding.get(*id as usize) == Some(&true));
    let holders = || members.iter().filter(|(_, item)| holds(item)).copied();
    budget.reserve((holders().count() * size_of::<Member<'a>>()) as u64, blame)?;
    let mut list = Vec::with_capacity(holders().count());
    list.extend(holders());
    Ok(list)
}

/// The member that is a state dict by its key.
fn wrapped<'a>(holders: &[Member<'a>]) -> Option<Member<'a>> {
    let under = |wrapper: &&str| holders.iter().find(|(key, _)| *key == Item::Text(wrapper));
    WRAPPERS.iter().find_map(under).copied()
}

/// The member that is the state dict because there is no other; `taken` is the way to them, as Python writes it.
fn only<'a>(
    holders: &[Member<'a>],
    taken: &str,
    budget: &Budget<'_>,
    blame: Blame<'_>,
) -> Result<Option<Member<'a>>> {
    match holders {
        [] => Ok(None),
        [holder] => Ok(Some(*holder)),
        [(first, _), ..] => {
            let names: Vec<String> =
                holders.iter().take(4).filter_map(|(key, _)| name(*key, budget, blame).ok()).collect();
            let more = if holders.len() > 4 { ", ..." } else { "" };
            let example = LeftAside::how_to_take(&format!("{taken}{}", python(*first).unwrap_or_default()));
            Err(blame.unsupported(
                format!("several dicts of tensors ({}{more})", names.join(", ")),
                format!("in Python, save the one that is the model, such as {example}"),
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
fn name(key: Item<'_>, budget: &Budget<'_>, blame: Blame<'_>) -> Result<String> {
    match key {
        Item::Text(text) => {
            blame.within("bytes of name", text.len() as u64, budget.name_bytes)?;
            budget.reserve(text.len() as u64 + 32, blame)?;
            Ok(text.to_owned())
        }
        Item::Int(number) => Ok(number.to_string()),
        _ => {
            let help = "save the tensors in a dict with their names as keys";
            Err(blame.unsupported("a tensor whose key is no text", help))
        }
    }
}

/// Bytes of memory that [`value`] takes at most.
fn cost(pickle: &Pickle<'_>, item: Item<'_>) -> u64 {
    let one = |item: &Item<'_>| match item {
        Item::Text(text) => 64 + 4 * text.len() as u64,
        _ => 64,
    };
    match pickle.object(item) {
        Some(Object::List(items)) => items.iter().map(one).sum(),
        Some(Object::Tuple(items)) => items.iter().map(one).sum(),
        _ => one(&item),
    }
}

/// Metadata value of an item that is no tensor.
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
    let kind = items.first().map_or(Some(ValueKind::String), |first| scalar(*first).map(|v| v.kind()))?;
    let mut array = Array::empty(kind)?;
    items
        .iter()
        .all(|item| scalar(*item).is_some_and(|value| array.push(value)))
        .then_some(Value::Array(array))
}
