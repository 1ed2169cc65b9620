//! Refusals of requests: tables of rules, each with the fault and advice.
//!
//! Every rule is looked at as soon as what it speaks of is known:
//!
//! ```text
//! calibration   texts to calibrate on
//! asked         the recipe, the target and the file type: before any file is opened
//! sharded       the same, of a conversion in shards
//! modelled      the model too
//! listed        the tensors of the file
//! planned       the plan
//! shardable     the same, of a conversion in shards
//! ```
//!
//! A new rule is a new row. What a model is to blame for, and not what was asked for, is an [`Error::Model`]: see [`modelled`].

use super::{Plan, TensorPlan};
use crate::choice::Choice;
use crate::equalize::ChannelPair;
use crate::error::{Error, Result};
use crate::model::{Model, wildcard};
use crate::recipe::{CalibrationOptions, FileType, LEAST_TOKENS, Recipe, SELF, Search, TensorType};
use crate::scheme::LowRankOptions;
use crate::scheme::Scheme;
use crate::scheme::{Coded, has_rate};
use crate::targets::{self, Content, Item, Target, gguf::Gguf};

/// A rule over what is known at its time.
struct Rule<Known> {
    /// Fault, if there is one.
    wrong: fn(&Known) -> Option<String>,
    /// Advice to the user.
    help: fn(&Known) -> String,
}

/// Looks at every rule of a table, in order.
fn check<Known>(rules: &[Rule<Known>], known: &Known) -> Result<()> {
    match rules.iter().find_map(|rule| Some(((rule.wrong)(known)?, rule))) {
        Some((what, rule)) => Err(Error::Usage { what, help: (rule.help)(known) }),
        None => Ok(()),
    }
}

/// `what`, if it is so.
fn wrong(is_so: bool, what: impl FnOnce() -> String) -> Option<String> {
    is_so.then(what)
}

/// Refuses texts that nothing can be calibrated on.
///
/// # Errors
/// [`Error::Usage`].
pub fn calibration(options: &CalibrationOptions) -> Result<()> {
    check(CALIBRATION, options)
}

const CALIBRATION: &[Rule<CalibrationOptions>] = &[
    Rule {
        wrong: |c| {
            wrong(c.ctx < LEAST_TOKENS, || {
                format!("sequences of {} tokens are too short to calibrate on", c.ctx)
            })
        },
        help: |_| format!("give --calib-ctx {LEAST_TOKENS} or more; 512 is usual"),
    },
    Rule {
        wrong: |c| {
            wrong(c.tokens < 2 * LEAST_TOKENS, || format!("{} tokens are too few to calibrate on", c.tokens))
        },
        help: |_| "give --calib-tokens of some thousands; 65536 is usual".to_owned(),
    },
    Rule {
        wrong: |c| {
            wrong(i64::try_from(c.seed).is_err(), || {
                format!("the seed {} is too large for a recipe in TOML", c.seed)
            })
        },
        help: |_| "give --calib-seed below 2^63".to_owned(),
    },
    Rule {
        wrong: |c| {
            wrong(c.is_self() && c.texts.len() > 1, || {
                format!("texts and the word {SELF} are both given to calibrate on")
            })
        },
        help: |_| format!("give either texts or {SELF}"),
    },
    Rule {
        wrong: |c| {
            let usual = CalibrationOptions::default();
            let is_alone =
                c.texts.len() == 1 && (c.tokens, c.ctx, c.seed) == (usual.tokens, usual.ctx, usual.seed);
            let stats = c.stats().filter(|_| !is_alone)?;
            Some(format!("{} holds what was measured on its own text", stats.display()))
        },
        help: |_| {
            "give no other text with it, and none of --calib-tokens, --calib-ctx and --calib-seed".to_owned()
        },
    },
];

/// Request that the rules of `asked` look at.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// All that the bytes depend on.
    pub recipe: &'a Recipe,
    /// The kind of file.
    pub target: &'a dyn Target,
    /// Its type.
    pub file_type: &'static FileType,
}

impl Asked<'_> {
    fn is_plain(&self) -> bool {
        self.file_type.is_plain()
    }

    fn is_gguf(&self) -> bool {
        self.target.id() == Gguf.id()
    }

    fn is_calibrated(&self) -> bool {
        self.recipe.calibration.is_wanted()
    }

    /// True if tensors of the file have any number of bits each.
    fn has_rates(&self) -> bool {
        self.file_type.coded || self.recipe.has_goal() || !self.recipe.tensors.0.is_empty()
    }
}

/// Refuses what contradicts itself, or would change nothing.
///
/// # Errors
/// [`Error::Usage`].
pub fn asked(asked: &Asked<'_>) -> Result<()> {
    check(&asked_rules(), asked)?;
    match asked.is_calibrated() {
        true => calibration(&asked.recipe.calibration),
        false => Ok(()),
    }
}

type IsIdle = fn(&Asked<'_>) -> bool;

/// Flags, and when they would change nothing.
const IDLE: &[(&str, IsIdle)] = &[
    ("--imatrix", |a| a.recipe.imatrix.is_some() && (a.is_plain() || !a.is_gguf())),
    ("--search best", |a| a.recipe.search == Search::Best && (a.is_plain() || a.file_type.coded)),
    // Of compact files only codes have branches.
    ("--low-rank", |a| a.recipe.low_rank.is_some() && a.target.codes() && !a.has_rates()),
    ("--set-key", |a| !a.recipe.metadata.set_key.is_empty() && !a.is_gguf()),
    ("--layers", |a| a.recipe.layers.is_some() && a.is_plain() && a.target.plans_layers()),
    ("--state", |a| a.recipe.adapters.state.is_some() && a.target.content() == Content::Adapter),
    ("--lora", |a| a.recipe.adapters.lora.is_some() && a.target.content() == Content::State),
    ("--no-checksums", |a| a.recipe.no_checksums && !a.target.holds_checksums()),
    ("--lora-alpha", |a| {
        let is_adapter = a.target.content() == Content::Adapter;
        a.recipe.adapters.lora_alpha.is_some() && is_adapter && !a.target.keeps_alpha()
    }),
];

fn asked_rules<'a>() -> Vec<Rule<Asked<'a>>> {
    vec![
        Rule {
            wrong: |a| {
                wrong(a.recipe.as_tensors && !a.is_plain(), || {
                    let name = a.file_type.name;
                    format!(
                        "--as-tensors knows no roles of tensors, so it cannot tell which to store as {name}"
                    )
                })
            },
            help: |_| "choose a plain --type: source, f16, bf16 or f32".to_owned(),
        },
        Rule {
            wrong: |a| {
                let (flag, _) = IDLE.iter().find(|(_, is_idle)| is_idle(a))?;
                let (target, file_type) = (a.target.name(), a.file_type.name);
                Some(format!("{flag} changes nothing in {target} files of the type {file_type}"))
            },
            help: |_| "leave it out".to_owned(),
        },
        Rule {
            wrong: |a| {
                let asked = a.recipe.target_bpw.into_iter().chain(a.recipe.target_kl);
                let is_sound = |v: f64| v.is_finite() && v > 0.0;
                wrong(!asked.into_iter().all(is_sound), || {
                    "the bits a weight or the divergence asked for are no positive number".to_owned()
                })
            },
            help: |_| "give something like --target-bpw 4.5 or --target-kl 0.01".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.has_goal() && !a.target.codes() && !a.is_calibrated(), || {
                    "types are chosen by what they cost on a text, and none is given".to_owned()
                })
            },
            help: |_| "give one: --calib TEXT; only .rwkvz files are made for a size without".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.has_goal() && !a.target.codes() && a.recipe.low_rank.is_some(), || {
                    "the types are chosen for a size or an error, and branches of low rank change both"
                        .to_owned()
                })
            },
            help: |_| {
                "leave --low-rank out; or choose the types first, with --save-recipe, and then give --recipe"
                    .to_owned()
            },
        },
        Rule {
            wrong: |a| {
                let has_none = !a.recipe.has_goal() && a.recipe.tensors.0.is_empty();
                wrong(a.file_type.coded && has_none, || {
                    format!("files of the type {} have any size, and none is asked for", a.file_type.name)
                })
            },
            help: |_| "give --bpw BITS, --target-size SIZE, or --recipe FILE".to_owned(),
        },
        Rule {
            wrong: |a| {
                let is_sized = a.recipe.preset.is_none() && !a.file_type.coded;
                wrong(a.recipe.has_goal() && a.target.codes() && is_sized, || {
                    format!("the type {} has a size of its own", a.file_type.name)
                })
            },
            help: |_| "leave --type out, or the size".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.has_goal() && !a.target.codes() && a.target.candidates().is_empty(), || {
                    format!("the types of {} files cannot be mixed freely", a.target.name())
                })
            },
            help: |_| "give --type, or write .gguf".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.is_calibrated() && a.is_plain(), || {
                    let name = a.file_type.name;
                    format!("nothing is rounded to fewer bits as {name}, so there is nothing to calibrate")
                })
            },
            help: |_| "leave --calib out, or choose a quantized --type".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.is_calibrated() && a.recipe.imatrix.is_some(), || {
                    "both an importance matrix and a text to calibrate on are given".to_owned()
                })
            },
            help: |_| "leave --imatrix out: calibration measures more than it holds".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.equalize && a.target.content() != Content::Model, || {
                    format!("--equalize rescales a model's weights, and {} files hold none", a.target.name())
                })
            },
            help: |_| "leave it out: adapters and states belong to the model as it is".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.equalize && a.is_plain(), || {
                    let name = a.file_type.name;
                    format!("--equalize makes quantization err less, and {name} files are not quantized")
                })
            },
            help: |_| "leave it out, or choose another --type".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.equalize && !a.is_calibrated() && a.recipe.imatrix.is_none(), || {
                    "--equalize needs to know how large activations are".to_owned()
                })
            },
            help: |_| "give a text or an importance matrix: --calib TEXT, or --imatrix FILE".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.low_rank.is_some() && !a.is_gguf() && !a.target.codes(), || {
                    format!("nothing loads {} files with branches of low rank", a.target.name())
                })
            },
            help: |_| "write .gguf or .rwkvz, or leave --low-rank out".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(!a.target.mixes().contains(&a.recipe.mix), || {
                    let (mix, target) = (a.recipe.mix.name(), a.target.name());
                    format!("the choice of types {mix:?} is not for {target} files")
                })
            },
            help: |_| "leave --mix out".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.split_max_size.is_some() && !a.target.splits(), || {
                    format!("nothing loads {} files in parts", a.target.name())
                })
            },
            help: |_| "leave --split-max-size out".to_owned(),
        },
        Rule {
            wrong: |a| {
                let given = [("--layers", a.recipe.layers), ("--rescale", a.recipe.rescale)];
                let (flag, _) =
                    given.into_iter().find(|(_, given)| given.is_some() && !a.target.plans_layers())?;
                Some(format!("{flag} means nothing for {}", a.target.name()))
            },
            help: |_| format!("leave it out, or write a .prefab for {}", targets::web_rwkv::prefab::RUNTIMES),
        },
    ]
}

/// Refuses what no shard can do alone.
///
/// # Errors
/// [`Error::Usage`].
pub fn sharded(asked: &Asked<'_>) -> Result<()> {
    check(&sharded_rules(), asked)
}

fn sharded_rules<'a>() -> Vec<Rule<Asked<'a>>> {
    vec![
        Rule {
            wrong: |a| {
                wrong(a.is_calibrated() && !a.recipe.calibration.is_independent(), || {
                    "a shard cannot know what the matrices of the others are rounded to".to_owned()
                })
            },
            help: |_| "give --calib-independent to all shards".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.recipe.low_rank.is_some(), || {
                    "the branches of low rank of all matrices go into one adapter, which no shard can write"
                        .to_owned()
                })
            },
            help: |_| "leave --shard out, or --low-rank".to_owned(),
        },
        Rule {
            wrong: |a| {
                wrong(a.target.codes() && a.recipe.has_goal(), || {
                    "a shard cannot know how small the others become".to_owned()
                })
            },
            help: |_| {
                "choose the bits once, --bpw 4 --save-recipe FILE, and give --recipe FILE to all shards"
                    .to_owned()
            },
        },
    ]
}

/// Request for a model that the rules of `modelled` look at.
#[derive(Clone, Copy)]
pub struct Modelled<'a> {
    /// The source.
    pub model: &'a Model,
    /// The kind of file.
    pub target: &'a dyn Target,
    /// Its type.
    pub file_type: &'static FileType,
    /// Number of blocks to be quantized, if not all.
    pub layers: Option<usize>,
    /// True if channels are to be rescaled.
    pub equalize: bool,
    /// True to write the file even if the runtime computes something else with it.
    pub force: bool,
    /// Explanation that the model is half of one, if it is.
    pub half: Option<&'a str>,
}

/// Refuses what a model cannot become.
///
/// # Errors
/// [`Error::Usage`]; [`Error::Model`] if the target cannot hold a model of its version, or would compute something else
/// with it and that is not forced.
pub fn modelled(known: &Modelled<'_>) -> Result<()> {
    let Modelled { model, target, .. } = *known;
    if !target.takes(model.version) {
        return Err(targets::refused(target, model));
    }
    check(&modelled_rules(), known)?;
    match target.check(model)?.first() {
        Some(objection) if !known.force => Err(Error::Model {
            path: model.container.path().to_owned(),
            what: objection.what.clone(),
            help: format!("{}; --force-target writes the file all the same", objection.help),
        }),
        _ => Ok(()),
    }
}

fn modelled_rules<'a>() -> Vec<Rule<Modelled<'a>>> {
    vec![
        Rule { wrong: |m| m.half.map(str::to_owned), help: |_| "give the other: --lora FILE".to_owned() },
        Rule {
            wrong: |m| {
                wrong(!m.target.holds(m.file_type), || {
                    format!("there are no {} files of the type {}", m.target.name(), m.file_type.name)
                })
            },
            help: |m| {
                let names = targets::type_names(m.target).join(", ");
                format!("the types are {names}{}", targets::holders(m.target, m.model, m.file_type))
            },
        },
        Rule {
            wrong: |m| {
                let is_lacking = m.target.content() == Content::Adapter && m.model.adapters.is_empty();
                wrong(is_lacking, || lacking("an adapter", m.target))
            },
            help: |_| "give it: --lora FILE".to_owned(),
        },
        Rule {
            wrong: |m| {
                let is_lacking = m.target.content() == Content::State && m.model.state.is_none();
                wrong(is_lacking, || lacking("a tuned state", m.target))
            },
            help: |_| "give it: --state FILE".to_owned(),
        },
        Rule {
            wrong: |m| {
                let has_one = m.target.content() == Content::Model && m.model.state.is_some();
                wrong(has_one && !m.target.holds_state(), || {
                    format!("{} files cannot hold a tuned state", m.target.name())
                })
            },
            help: |m| {
                let others = targets::TARGETS.iter().filter(|t| t.holds_state() && t.takes(m.model.version));
                let others: Vec<String> =
                    others.map(|t| format!("{} ({})", targets::asked_for_by(*t), t.runtimes())).collect();
                format!(
                    "these can: {}; without it, leave --state out, or give --drop '*time_state'",
                    others.join("; ")
                )
            },
        },
        Rule {
            wrong: |m| {
                wrong(m.equalize && ChannelPair::of(m.model.version).is_empty(), || {
                    let about = m.model.version.about;
                    format!("--equalize needs to run the model to check it, and cannot run {about}")
                })
            },
            help: |_| "leave it out".to_owned(),
        },
        Rule {
            wrong: |m| {
                let there = m.model.dims.layers;
                let layers = m.layers.filter(|layers| *layers > there)?;
                Some(format!("there are no {layers} blocks to quantize: the model has {there}"))
            },
            help: |_| "leave --layers out to quantize all of them".to_owned(),
        },
    ]
}

fn lacking(what: &str, target: &dyn Target) -> String {
    format!("{} files hold {what} alone, and none was given", target.name())
}

/// The tensors of a file, before their types are settled.
pub(super) struct Listed<'a> {
    pub items: &'a [Item],
    pub scheme: &'a Scheme,
    pub target: &'a dyn Target,
}

impl Listed<'_> {
    /// The first type of a single tensor that is wrong in a way: how, given the tensor of that name.
    fn wrong(&self, is_wrong: impl Fn(Option<&Item>, &TensorType) -> bool) -> Option<(&str, &TensorType)> {
        let item = |name: &str| self.items.iter().find(|item| item.name == name);
        let mut types = self.scheme.types.0.iter();
        types
            .find(|(name, stored)| is_wrong(item(name), stored))
            .map(|(name, stored)| (name.as_str(), stored))
    }
}

/// Refuses types of single tensors that are not in the file, or that the target cannot hold.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn listed(known: &Listed<'_>) -> Result<()> {
    check(&listed_rules(), known)
}

fn listed_rules<'a>() -> Vec<Rule<Listed<'a>>> {
    vec![
        Rule {
            wrong: |l| {
                let (name, _) = l.wrong(|item, _| item.is_none())?;
                Some(format!("the recipe gives a type to {name:?}, and the file has no such tensor"))
            },
            help: |_| {
                "use the recipe of this very model and target; --dry-run shows the names in the file"
                    .to_owned()
            },
        },
        Rule {
            wrong: |l| {
                let (name, stored) = l.wrong(|item, stored| {
                    let fixed = item.and_then(|item| item.fixed);
                    fixed.is_some_and(|fixed| TensorType::Encoding(fixed) != *stored)
                })?;
                Some(format!(
                    "the recipe stores {name:?} as {stored}, and {} wants another type",
                    l.target.name()
                ))
            },
            help: |_| "leave the tensor out of the recipe".to_owned(),
        },
        Rule {
            wrong: |l| {
                let types = l.target.recipe_types();
                let (name, stored) = l.wrong(|_, stored| match stored {
                    TensorType::Encoding(encoding) => !types.contains(encoding),
                    TensorType::Bits(_) => !l.target.codes(),
                })?;
                Some(format!("the recipe stores {name:?} as {stored}, and {} files cannot", l.target.name()))
            },
            help: |_| "leave the tensor out of the recipe, or give it a type of these files".to_owned(),
        },
    ]
}

/// Refuses plans of files whose bytes are not known but for whole tensors: shards cannot be put together to them.
///
/// # Errors
/// [`Error::Usage`].
pub fn shardable(plan: &Plan) -> Result<()> {
    check(SHARDABLE, plan)
}

const SHARDABLE: &[Rule<Plan>] = &[Rule {
    wrong: |plan| {
        let is_whole = |t: &TensorPlan| matches!(t.parts.as_slice(), [part] if part.split.is_none());
        let is_known = plan.files.iter().all(|f| f.layout.is_known());
        wrong(!is_known || !plan.tensors.iter().all(is_whole), || {
            format!("{} files cannot be made in shards", plan.target.name())
        })
    },
    help: |_| "leave --shard out, or write a .gguf".to_owned(),
}];

/// Refuses plans in which what was asked for has no place.
///
/// # Errors
/// [`Error::Usage`].
pub fn planned(plan: &Plan, branches: Option<&LowRankOptions>) -> Result<()> {
    check(&planned_rules(), &Planned { plan, branches })
}

struct Planned<'a> {
    plan: &'a Plan,
    branches: Option<&'a LowRankOptions>,
}

fn planned_rules<'a>() -> Vec<Rule<Planned<'a>>> {
    vec![
        Rule {
            wrong: |p| {
                let types = &p.plan.scheme.types.0;
                let is_gap =
                    |t: &&TensorPlan| has_rate(t.role, t.values.elements()) && !types.contains_key(&t.name);
                let is_told = p.plan.scheme.file_type.coded && !types.is_empty();
                let gap = p.plan.tensors.iter().find(is_gap).filter(|_| is_told)?;
                Some(format!("the recipe says nothing of {}", gap.name))
            },
            help: |_| {
                "use the recipe of this very model and target, or give it bits a weight there".to_owned()
            },
        },
        Rule {
            wrong: |p| {
                let is_unknown =
                    |pattern: &&String| !p.plan.tensors.iter().any(|t| wildcard(pattern, &t.name));
                let pattern = p.branches?.patterns.iter().find(is_unknown)?;
                Some(format!("--low-rank-for {pattern:?} is the name of no tensor of the file"))
            },
            help: |_| "take names from --dry-run: 'blk.*.time_mix_key.weight'".to_owned(),
        },
        Rule {
            wrong: |p| {
                let branches = p.branches?;
                let within = |t: &TensorPlan| matches!(t.coded, Some(Coded::Codes { rank: 1.., .. }));
                let has_any = p.plan.tensors.iter().any(|t| within(t) || branches.takes(t));
                wrong(!has_any, || format!("no quantized matrix can have a branch of rank {}", branches.rank))
            },
            help: |_| "choose a quantized --type, a lower rank, or leave --low-rank out".to_owned(),
        },
    ]
}
