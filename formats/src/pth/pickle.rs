//! The pickle machine: runs the instructions of a pickle, and builds nothing but plain data.
//!
//! A pickle is a program for a machine with a stack, marks on the stack, and a memo of values by number.
//! All instructions of protocols 0 to 5 that a file of tensors can need are understood. What bounds it:
//!
//! - a value on the stack is a number or a reference, never a copy of a structure, so no chain of memo
//!   entries grows memory: it stays proportional to the pickle's length;
//! - instructions and containers are counted against budget that follow from [`Limits::tensors`];
//! - nothing recurses, so nesting costs no stack, and cycles are harmless.
//!
//! Source: the opcode table in CPython's `Lib/pickletools.py`.

use crate::budget::Budget;
use crate::cursor::Cursor;
use crate::error::{Blame, Error, Result};
use crate::pth::arena::Arena;
use crate::pth::globals::Global;
use crate::pth::object::{Item, Object, Pickle, Storage, object};
use crate::pth::{literal, rebuild};

/// Instructions for each tensor that is allowed (about 30 are used).
const WORK_PER_TENSOR: u64 = 64;
/// Containers for each tensor that is allowed (about 6 are used).
const OBJECTS_PER_TENSOR: u64 = 8;
const PROTOCOLS: u8 = 5;

/// Runs the pickle that starts at byte `start` of `file`.
///
/// # Errors
/// If it is damaged, names anything that is not on the list of [`Global`], or exceeds `budget`.
pub(super) fn run<'a>(
    file: &'a [u8],
    start: u64,
    budget: &'a Budget<'a>,
    blame: Blame<'a>,
) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        cursor: Cursor::starting_at(file, start, blame),
        blame,
        budget,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Arena::new(),
        objects: Arena::new(),
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
            let stack_bytes = (machine.stack.capacity() * size_of::<Item<'a>>()) as u64;
            budget.give_back(stack_bytes + machine.memo.bytes()); // they end here
            return Ok(Pickle { root, objects: machine.objects, bytes: end - start, end });
        }
        machine.step(opcode).map_err(|e| e.at(machine.at))?;
        budget.read_more(machine.cursor.pos() - machine.at);
    }
}

pub(super) struct Machine<'a> {
    cursor: Cursor<'a>,
    pub blame: Blame<'a>,
    pub budget: &'a Budget<'a>,
    stack: Vec<Item<'a>>,
    /// Heights of the stack; what lies below the last one is out of reach.
    marks: Vec<usize>,
    memo: Arena<Option<Item<'a>>>,
    objects: Arena<Object<'a>>,
    work: u64,
    /// Offset of the current instruction.
    pub at: u64,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        if let Some(item) = literal::read(&mut self.cursor, opcode)? {
            return self.push(item);
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
            b'(' => {
                self.budget.grow(&mut self.marks, 1, self.blame)?;
                self.marks.push(self.stack.len());
            }
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
                self.reserve_items(len)?;
                let items = items.iter().take(len).copied().collect();
                self.push_object(Object::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.reserve_items(1)?;
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
                self.reserve_items(2)?;
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
            b'2' => self.push(self.top()?)?,
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
                self.push(made)?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(self, id)?;
                self.budget.reserve(size_of::<Storage<'a>>() as u64 + 16, self.blame)?;
                self.push_object(Object::Storage(Box::new(storage)))?;
            }
            _ => return Err(self.unread_opcode(opcode)),
        }
        Ok(())
    }

    /// Counts work, so that no file keeps the machine busy for long.
    pub fn charge(&mut self, work: u64) -> Result<()> {
        self.work = self.work.saturating_add(work);
        let limit = self.budget.tensors.saturating_mul(WORK_PER_TENSOR);
        self.blame.within("pickle instructions", self.work, limit).map(drop)
    }

    /// Object that a reference stands for.
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
        let limit = self.budget.tensors.saturating_mul(OBJECTS_PER_TENSOR).min(u32::MAX.into());
        self.blame.within("pickled containers", self.objects.len() as u64 + 1, limit)?;
        self.objects.push(object, self.budget, self.blame)?;
        Ok(Item::Ref(self.objects.len() as u32 - 1))
    }

    fn push_object(&mut self, object: Object<'a>) -> Result<()> {
        let item = self.keep(object)?;
        self.push(item)
    }

    fn push(&mut self, item: Item<'a>) -> Result<()> {
        self.budget.grow(&mut self.stack, 1, self.blame)?;
        self.stack.push(item);
        Ok(())
    }

    /// Takes the memory of so many items of a list or tuple.
    fn reserve_items(&self, items: usize) -> Result<()> {
        self.budget.reserve((items * size_of::<Item<'a>>()) as u64, self.blame)
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
            Some(height) => {
                let height = height.min(self.stack.len());
                self.reserve_items(self.stack.len() - height)?;
                Ok(self.stack.split_off(height))
            }
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
        // Picklers number what they keep in order, some from 1 on.
        let next = self.memo.len() as u64;
        if index > next.saturating_add(1) {
            return Err(self.blame.malformed(format!("the memo number {index} comes before {next}")));
        }
        while self.memo.len() as u64 <= index {
            self.memo.push(None, self.budget, self.blame)?;
        }
        if let Some(place) = self.memo.get_mut(index as usize) {
            *place = Some(item);
        }
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<()> {
        let item = usize::try_from(index).ok().and_then(|i| *self.memo.get(i)?);
        let item = item.ok_or_else(|| self.blame.malformed(format!("there is no memo number {index}")))?;
        self.push(item)
    }

    fn append(&mut self, items: Vec<Item<'a>>) -> Result<()> {
        let bytes = size_of_val(items.as_slice()) as u64;
        if let Item::Ref(id) = self.top()? {
            match self.objects.get_mut(id as usize) {
                Some(Object::List(list)) => {
                    self.budget.grow(list, items.len(), self.blame)?;
                    list.extend(items);
                    self.budget.give_back(bytes);
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
            self.budget.grow(dict, pairs.len(), self.blame)?;
            dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            self.budget.give_back(size_of_val(items) as u64); // the caller drops them
            return Ok(());
        }
        Err(self.blame.malformed("the pickle sets keys of something that is no dict"))
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = Global::find(module, name, self.at, self.blame)?;
        self.push(Item::Global(global))
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
