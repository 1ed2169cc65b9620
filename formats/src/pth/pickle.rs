//! The pickle machine: runs the instructions of a pickle, and builds nothing but plain data.
//!
//! A pickle is a program for a machine with a stack, marks on the stack, and a memo of values by number.
//! All instructions of protocols 0 to 5 that a file of tensors can need are understood. What bounds it:
//!
//! - a value on the stack is a number or a reference, never a copy of a structure, so no chain of memo
//!   entries grows memory: it stays proportional to the pickle's length;
//! - instructions and containers are counted against limits that follow from [`Limits::tensors`];
//! - nothing recurses, so nesting costs no stack, and cycles are harmless.
//!
//! Source: the opcode table in CPython's `Lib/pickletools.py`.

use std::collections::BTreeMap;

use crate::cursor::Cursor;
use crate::error::{Blame, Error, Result};
use crate::limits::Limits;
use crate::pth::globals::Global;
use crate::pth::object::{Item, Object, Pickle, object};
use crate::pth::{literal, rebuild};

/// Instructions for each tensor that is allowed (about 30 are used).
const WORK_PER_TENSOR: u64 = 64;
/// Containers for each tensor that is allowed (about 6 are used).
const OBJECTS_PER_TENSOR: u64 = 8;
const PROTOCOLS: u8 = 5;

/// Runs the pickle that starts at byte `start` of `file`.
///
/// # Errors
/// If it is damaged, names anything that is not on the list of [`Global`], or exceeds `limits`.
pub(super) fn run<'a>(file: &'a [u8], start: u64, limits: &Limits, blame: Blame<'a>) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        cursor: Cursor::starting_at(file, start, blame),
        blame,
        limits: *limits,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        objects: Vec::new(),
        work: 0,
        at: start,
    };
    loop {
        machine.at = machine.cursor.pos();
        machine.charge(1)?;
        let opcode = machine.cursor.u8("the pickle")?;
        if opcode == b'.' {
            let root = machine.pop()?;
            let end = machine.cursor.pos();
            return Ok(Pickle { root, objects: machine.objects, bytes: end - start, end });
        }
        machine.step(opcode).map_err(|e| e.at(machine.at))?;
    }
}

pub(super) struct Machine<'a> {
    cursor: Cursor<'a>,
    pub blame: Blame<'a>,
    pub limits: Limits,
    stack: Vec<Item<'a>>,
    /// Heights of the stack; what lies below the last one is out of reach.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Item<'a>>,
    objects: Vec<Object<'a>>,
    work: u64,
    /// Where the current instruction starts.
    pub at: u64,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        if let Some(item) = literal::read(&mut self.cursor, opcode)? {
            self.stack.push(item);
            return Ok(());
        }
        match opcode {
            // Framing
            0x80 => {
                let protocol = self.cursor.u8("the protocol")?;
                if protocol > PROTOCOLS {
                    let help = "save it with an older protocol: torch.save uses 2 by default";
                    return Err(self.blame.unsupported(format!("pickle protocol {protocol}"), help));
                }
            }
            0x95 => {
                let bytes = self.cursor.u64("a frame")?;
                if bytes > self.cursor.left() {
                    return Err(self.blame.malformed("a frame reaches past the end of the pickle"));
                }
            }

            // Containers
            b']' => self.push_object(Object::List(Vec::new()))?,
            b'}' => self.push_object(Object::Dict(Vec::new()))?,
            b')' => self.push_object(Object::Tuple(Box::default()))?,
            0x8f => self.push_object(Object::Other("set"))?,
            b'(' => self.marks.push(self.stack.len()),
            b'l' => {
                let items = self.pop_mark()?;
                self.push_object(Object::List(items))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push_object(Object::Tuple(items.into()))?;
            }
            0x91 => {
                self.pop_mark()?;
                self.push_object(Object::Other("frozenset"))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push_object(Object::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            0x85..=0x87 => {
                let mut items = [Item::None; 3];
                let len = usize::from(opcode - 0x84);
                for item in items.iter_mut().take(len).rev() {
                    *item = self.pop()?;
                }
                let items = items.iter().take(len).copied().collect();
                self.push_object(Object::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            0x90 => {
                self.pop_mark()?; // the members of a set: not needed
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }

            // Stack and memo
            b'0' => {
                // Like Python's, it takes away a mark if there is nothing above it.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => self.stack.push(self.top()?),
            b'q' => {
                let index = self.cursor.u8("a memo number")?;
                self.put(index.into())?;
            }
            b'r' => {
                let index = self.cursor.u32("a memo number")?;
                self.put(index.into())?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' => {
                let index = self.cursor.u8("a memo number")?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = self.cursor.u32("a memo number")?;
                self.get(index.into())?;
            }
            b'p' => {
                let index = literal::number(&mut self.cursor, "a memo number")?;
                self.put(index)?;
            }
            b'g' => {
                let index = literal::number(&mut self.cursor, "a memo number")?;
                self.get(index)?;
            }

            // Python objects
            b'c' => {
                let module = literal::line(&mut self.cursor, "a module name")?;
                let name = literal::line(&mut self.cursor, "a name")?;
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Item::Text(module), Item::Text(name)) = (module, name) else {
                    return Err(self.blame.malformed("a global's name is no text"));
                };
                self.global(module, name)?;
            }
            b'i' => {
                // Names a class to make an instance of; none of ours is made this way.
                let module = literal::line(&mut self.cursor, "a module name")?;
                let name = literal::line(&mut self.cursor, "a name")?;
                self.global(module, name)?;
                return Err(self.unread_opcode(opcode));
            }
            b'R' | 0x81 => {
                let (args, function) = (self.pop()?, self.pop()?);
                let made = rebuild::call(self, function, args)?;
                self.stack.push(made);
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(self, id)?;
                self.push_object(Object::Storage(storage))?;
            }
            _ => return Err(self.unread_opcode(opcode)),
        }
        Ok(())
    }

    /// Counts work, so that no file keeps the machine busy for long.
    pub fn charge(&mut self, work: u64) -> Result<()> {
        self.work = self.work.saturating_add(work);
        let limit = self.limits.tensors.saturating_mul(WORK_PER_TENSOR);
        self.blame.within("pickle instructions", self.work, limit).map(drop)
    }

    /// What a reference stands for.
    pub fn object(&self, item: Item<'a>) -> Option<&Object<'a>> {
        object(&self.objects, item)
    }

    /// The members of a tuple.
    pub fn tuple(&self, item: Item<'a>) -> Option<&[Item<'a>]> {
        match self.object(item) {
            Some(Object::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    /// Keeps an object and returns its reference.
    pub fn keep(&mut self, object: Object<'a>) -> Result<Item<'a>> {
        let limit = self.limits.tensors.saturating_mul(OBJECTS_PER_TENSOR).min(u32::MAX.into());
        self.blame.within("pickled containers", self.objects.len() as u64 + 1, limit)?;
        self.objects.push(object);
        Ok(Item::Ref(self.objects.len() as u32 - 1))
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<()> {
        let item = self.keep(object)?;
        self.stack.push(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<Item<'a>> {
        if self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            self.stack.pop().ok_or_else(|| self.underflow())
        } else {
            Err(self.underflow())
        }
    }

    fn top(&self) -> Result<Item<'a>> {
        if self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            self.stack.last().copied().ok_or_else(|| self.underflow())
        } else {
            Err(self.underflow())
        }
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Item<'a>>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height.min(self.stack.len()))),
            None => Err(self.underflow()),
        }
    }

    fn underflow(&self) -> Error {
        self.blame.malformed("the pickle takes more from its stack than is there").at(self.at)
    }

    fn unread_opcode(&self, opcode: u8) -> Error {
        self.blame.malformed(format!("no pickle of tensors has the instruction {opcode:#04x}"))
    }

    fn put(&mut self, index: u64) -> Result<()> {
        let item = self.top()?;
        self.memo.insert(index, item);
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<()> {
        let item = self.memo.get(&index).copied();
        let item = item.ok_or_else(|| self.blame.malformed(format!("there is no memo number {index}")))?;
        self.stack.push(item);
        Ok(())
    }

    fn append(&mut self, items: Vec<Item<'a>>) -> Result<()> {
        if let Item::Ref(id) = self.top()? {
            match self.objects.get_mut(id as usize) {
                Some(Object::List(list)) => {
                    list.extend(items);
                    return Ok(());
                }
                Some(Object::Other(_)) => return Ok(()),
                _ => {}
            }
        }
        Err(self.blame.malformed("the pickle appends to something that is no list"))
    }

    fn set_items(&mut self, items: &[Item<'a>]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if let Item::Ref(id) = dict
            && let Some(Object::Dict(dict)) = self.objects.get_mut(id as usize)
            && rest.is_empty()
        {
            dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            return Ok(());
        }
        Err(self.blame.malformed("the pickle sets keys of something that is no dict"))
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = Global::find(module, name, self.at, self.blame)?;
        self.stack.push(Item::Global(global));
        Ok(())
    }

    /// Sets attributes of an object: `_metadata` of a state dict and the like, none of which is needed.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.object(self.top()?) {
            Some(Object::Dict(_) | Object::Tensor(_) | Object::Other(_)) => Ok(()),
            _ => Err(self.blame.malformed("the pickle sets attributes of something that has none")),
        }
    }
}
