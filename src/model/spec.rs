//! One row of a version's table: a tensor's name, role, shape, and its names elsewhere.

/// A tensor that a version has: once, or in every block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorSpec {
    /// BlinkDL's name; `{}` stands for the block's number.
    pub name: &'static str,
    /// Blocks that it stands in.
    pub scope: Scope,
    /// Role of the tensor.
    pub role: Role,
    /// BlinkDL's shape.
    pub shape: &'static [Dim],
    /// llama.cpp's name in GGUF, if llama.cpp knows the version.
    pub gguf: Option<&'static str>,
    /// The name in Hugging Face folders made by flash-linear-attention (version 7).
    pub fla: Option<&'static str>,
    /// Token-shift vectors that some formats store stacked: the place in the stack.
    pub stack: Option<usize>,
    /// The part of the model that it belongs to, if some models come without that part (see
    /// [`Version::optional`](super::Version::optional)).
    pub part: Option<&'static str>,
}

/// Blocks that a spec stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Tensor that stands once in the model.
    Model,
    /// Every block.
    Block,
    /// Every block but the first, which may have it too but never reads it.
    Later,
}

/// Role of a tensor; decides how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// One row a token, looked up.
    Embedding,
    /// The output layer: one row a token, multiplied.
    Head,
    /// A large matrix that multiplies activations, [out, in].
    Matrix,
    /// A small low-rank matrix. BlinkDL multiplies from the left (`x @ w`), so it is [in, out]; most other
    /// formats store it [out, in].
    LowRank,
    /// Element-wise parameters: norms, biases, mixes, decays. Never quantized.
    Vector,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Embedding, Role::Head, Role::Matrix, Role::LowRank, Role::Vector];

    /// True if it makes up most of a model.
    pub fn is_large(self) -> bool {
        matches!(self, Role::Embedding | Role::Head | Role::Matrix)
    }

    /// The role's name as shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Role::Embedding => "embedding",
            Role::Head => "head",
            Role::Matrix => "matrix",
            Role::LowRank => "low rank",
            Role::Vector => "vector",
        }
    }
}

/// One dimension of a spec's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dim {
    /// 1.
    One,
    /// Vocabulary size.
    V,
    /// Width of the residual stream, `n_embd`.
    C,
    /// Width of the time mix, `n_att`.
    A,
    /// Width of the keys and values of a time mix whose heads share them in groups, `n_kv`.
    G,
    /// Width of the channel mix, `n_ffn`.
    F,
    /// Number of heads.
    H,
    /// Size of a head.
    N,
    /// A rank, which may differ from block to block.
    Rank(Rank),
    /// Five times a rank.
    FiveRanks(Rank),
    /// A constant of the architecture.
    Is(usize),
}

/// The low-rank branches of versions 6 and 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Version 6: token shift (`time_maa_w1`).
    Mix,
    /// Decay (`time_decay_w1` of version 6, `w1` of version 7).
    Decay,
    /// Version 7: in-context learning rate (`a1`).
    Iclr,
    /// Version 7: value residual (`v1`).
    Value,
    /// Version 7: gate (`g1`).
    Gate,
}

impl Rank {
    /// Every rank.
    pub const ALL: [Rank; 5] = [Rank::Mix, Rank::Decay, Rank::Iclr, Rank::Value, Rank::Gate];

    /// The rank's name as shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Rank::Mix => "mix",
            Rank::Decay => "decay",
            Rank::Iclr => "iclr",
            Rank::Value => "value",
            Rank::Gate => "gate",
        }
    }
}

impl TensorSpec {
    const fn new(name: &'static str, scope: Scope, role: Role, shape: &'static [Dim]) -> TensorSpec {
        TensorSpec { name, scope, role, shape, gguf: None, fla: None, stack: None, part: None }
    }

    /// A spec that stands once in the model.
    pub const fn model(name: &'static str, role: Role, shape: &'static [Dim]) -> TensorSpec {
        TensorSpec::new(name, Scope::Model, role, shape)
    }

    /// A spec that stands in every block.
    pub const fn block(name: &'static str, role: Role, shape: &'static [Dim]) -> TensorSpec {
        TensorSpec::new(name, Scope::Block, role, shape)
    }

    /// A spec that stands in every block but the first.
    pub const fn later(name: &'static str, role: Role, shape: &'static [Dim]) -> TensorSpec {
        TensorSpec::new(name, Scope::Later, role, shape)
    }

    /// Adds llama.cpp's name.
    pub const fn gguf(self, name: &'static str) -> TensorSpec {
        TensorSpec { gguf: Some(name), ..self }
    }

    /// Adds flash-linear-attention's name.
    pub const fn fla(self, name: &'static str) -> TensorSpec {
        TensorSpec { fla: Some(name), ..self }
    }

    /// Number `k` of the token-shift vectors that some formats stack.
    pub const fn stack(self, k: usize) -> TensorSpec {
        TensorSpec { stack: Some(k), ..self }
    }

    /// Marks the tensor as belonging to a part that some models come without.
    pub const fn part(self, part: &'static str) -> TensorSpec {
        TensorSpec { part: Some(part), ..self }
    }

    /// BlinkDL's name in block `layer`.
    pub fn name_in(&self, layer: usize) -> String {
        fill(self.name, layer)
    }

    /// The name without `blocks.{}.`, as people refer to it: `att.key.weight`.
    pub fn short_name(&self) -> &'static str {
        self.name.strip_prefix("blocks.{}.").unwrap_or(self.name)
    }
}

/// `pattern` with the block's number in place of `{}`.
pub(super) fn fill(pattern: &str, layer: usize) -> String {
    pattern.replacen("{}", &layer.to_string(), 1)
}
