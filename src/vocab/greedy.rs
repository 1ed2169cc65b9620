//! RWKV's own rule of turning text into tokens: at every place the longest token that fits.

use super::{Token, Untokenizable, Vocab};

/// A vocabulary as a tree of bytes.
#[derive(Clone, Debug)]
pub(super) struct Greedy {
    /// Start of each node's edges; one more entry ends the last node's.
    starts: Vec<u32>,
    /// Edges in the order of their bytes: the byte, and the node that it leads to.
    edges: Vec<(u8, u32)>,
    /// Token that ends at each node.
    ends: Vec<Option<u32>>,
}

impl Greedy {
    /// The tokenizer of a vocabulary.
    pub fn new(vocab: &Vocab) -> Greedy {
        let tokens = vocab.tokens.iter().enumerate();
        let mut sorted: Vec<(&[u8], u32)> = tokens
            .filter_map(|(i, t)| match t {
                Token::Bytes(b) if !b.is_empty() => Some((b.as_slice(), i as u32)),
                _ => None,
            })
            .collect();
        // Of two tokens with the same bytes, the one with the smaller id comes first and is the one used.
        sorted.sort();
        sorted.dedup_by_key(|(bytes, _)| *bytes);
        let mut tree = Greedy { starts: vec![0], edges: Vec::new(), ends: vec![None] };
        // Level by level: a node is a run of sorted tokens that share their first `depth` bytes.
        let mut level = vec![sorted.as_slice()];
        let mut depth = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for run in level {
                let rest = match run.first() {
                    Some((bytes, _)) if bytes.len() == depth => &run[1..],
                    _ => run,
                };
                for group in rest.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
                    let (bytes, id) = group[0];
                    tree.edges.push((bytes[depth], tree.ends.len() as u32));
                    tree.ends.push((bytes.len() == depth + 1).then_some(id));
                    below.push(group);
                }
                tree.starts.push(tree.edges.len() as u32);
            }
            level = below;
            depth += 1;
        }
        tree
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If the text has a byte that no token starts with, or only tokens that do not fit.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Untokenizable> {
        let mut ids = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let (mut node, mut longest) = (0u32, None);
            for (n, byte) in text[at..].iter().enumerate() {
                let edges =
                    &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize];
                let Ok(edge) = edges.binary_search_by_key(byte, |e| e.0) else { break };
                node = edges[edge].1;
                if let Some(id) = self.ends[node as usize] {
                    longest = Some((id, n + 1));
                }
            }
            let (id, length) = longest.ok_or(Untokenizable::Byte { byte: text[at], offset: at })?;
            ids.push(id);
            at += length;
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokens: &[&[u8]]) -> Greedy {
        let tokens = tokens.iter().map(|t| if t.is_empty() { Token::End } else { Token::Bytes(t.to_vec()) });
        Greedy::new(&Vocab { name: "test".to_owned(), tokens: tokens.collect() })
    }

    #[test]
    fn the_longest_token_is_taken_even_where_a_longer_one_begins() {
        let t = of(&[b"", b"a", b"b", b"ab", b"abab!", b"c"]);
        assert_eq!(t.encode(b"ababc"), Ok(vec![3, 3, 5]));
        assert_eq!(t.encode(b"abab!c"), Ok(vec![4, 5]));
        assert_eq!(t.encode(b"abx"), Err(Untokenizable::Byte { byte: b'x', offset: 2 }));
        assert_eq!(t.encode(b""), Ok(vec![]));
    }

    #[test]
    fn world_gives_the_tokens_of_the_official_tokenizer() {
        let t = Greedy::new(&Vocab::world());
        assert_eq!(t.encode(b"Hello, world"), Ok(vec![33155, 45, 40213]));
        assert_eq!(t.encode(b"\n\n"), Ok(vec![261]));
        assert_eq!(t.encode(&[b' '; 200]).map(|ids| ids[0]), Ok(65529));
    }
}
