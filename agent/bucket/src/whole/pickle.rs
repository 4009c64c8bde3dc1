//! Reads the shape of a Python pickle without running anything: names, numbers and texts, and how they hang together (pure).
//!
//! Enough of the format for what PyTorch writes. Everything is hostile: sizes are checked, the number of nodes is bounded, nothing
//! recurses, classes are only names. What we do not know ends the reading, and then only silence speaks for a file.

/// Most values that are read: a model of 100,000 tensors has a tenth of this.
const MAX_NODES: usize = 4_000_000;
/// Longest text that is kept; longer ones are only stepped over.
const MAX_TEXT_BYTES: usize = 4_096;

/// Place of a value in [`Pickle::nodes`].
pub type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A whole number that fits.
    Int(i64),
    /// A text.
    Text(String),
    /// A list, tuple or set.
    Sequence(Vec<Id>),
    /// A dictionary.
    Map(Vec<(Id, Id)>),
    /// The name of a class or function, `module.name`.
    Global(String),
    /// What a class or function made of its arguments, with the state that it was given, if any.
    Object {
        /// Class or function.
        class: Id,
        /// Arguments.
        arguments: Id,
        /// State.
        state: Option<Id>,
    },
    /// Something that lies outside of the pickle, by its description.
    Persistent(Id),
    /// Anything else.
    Other,
}

/// What a pickle of protocol 2 and later begins with.
pub const PROTOCOL: u8 = 0x80;

/// Whether a file begins as Python's own picklers begin one: a protocol from 2 to 5; then, from 4 on, a frame of less than the largest
/// file, or a text or bytes too large for a frame; before 4 one of the instructions that make the first value. What is too short to tell
/// counts.
pub fn begins(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(&[PROTOCOL]) else {
        return false;
    };
    match rest {
        [] | [2..=5] => true,
        [4 | 5, 0x95, length @ ..] => length.get(5..8).is_none_or(|high| high == [0, 0, 0]),
        [4 | 5, code, ..] => b"BX\x8d\x8e\x96".contains(code),
        [2 | 3, code, ..] => b"NJKMGUXTBC(c})]\x88\x89\x8a\x8b".contains(code),
        _ => false,
    }
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    /// Every value.
    pub nodes: Vec<Node>,
    /// The outermost one.
    pub root: Id,
    /// Bytes that the pickle took.
    pub length: usize,
}

/// Why a pickle was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickleError {
    /// The bytes end before the pickle does.
    Truncated,
    /// It is none, or one that we do not know.
    Unknown,
}

impl Pickle {
    /// A value.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The value under a text key of a dictionary.
    pub fn get(&self, map: Id, key: &str) -> Option<Id> {
        let Node::Map(entries) = self.node(map) else {
            return None;
        };
        let is_key = |id: Id| matches!(self.node(id), Node::Text(text) if text == key);
        entries
            .iter()
            .rev()
            .find(|(name, _)| is_key(*name))
            .map(|(_, value)| *value)
    }

    /// A number that is not negative.
    pub fn number(&self, id: Id) -> Option<u64> {
        match self.node(id) {
            Node::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether a value is the name of a class, whatever its module.
    pub fn is_class(&self, id: Id, name: &str) -> bool {
        matches!(self.node(id), Node::Global(full) if full.rsplit('.').next() == Some(name))
    }
}

/// Reads the pickle at the beginning of some bytes.
pub fn load(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    loop {
        if let Some(root) = machine.step()? {
            return Ok(Pickle {
                nodes: machine.nodes,
                root,
                length: machine.at,
            });
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

type Step<T> = Result<T, PickleError>;

impl Machine<'_> {
    fn take(&mut self, length: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(length).ok_or(PickleError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number of up to eight bytes without a sign.
    fn size(&mut self, length: usize) -> Step<usize> {
        let mut wide = [0; 8];
        wide[..length].copy_from_slice(self.take(length)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| PickleError::Truncated)
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .take(MAX_TEXT_BYTES)
            .position(|&byte| byte == b'\n');
        let length = length.ok_or(if rest.len() < MAX_TEXT_BYTES {
            PickleError::Truncated
        } else {
            PickleError::Unknown
        })?;
        let text = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(text)
    }

    fn text(&mut self, length: usize) -> Step<Node> {
        let bytes = self.take(length)?;
        if length > MAX_TEXT_BYTES {
            return Ok(Node::Other);
        }
        Ok(Node::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(PickleError::Unknown);
        }
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        // What lies below a mark is not to be taken.
        if self
            .marks
            .last()
            .is_some_and(|mark| self.stack.len() <= *mark)
        {
            return Err(PickleError::Unknown);
        }
        self.stack.pop().ok_or(PickleError::Unknown)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or(PickleError::Unknown)?;
        if mark > self.stack.len() {
            return Err(PickleError::Unknown);
        }
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or(PickleError::Unknown)
    }

    fn sequence(&mut self, length: usize) -> Step<()> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Sequence(items))
    }

    fn put(&mut self, place: usize) -> Step<()> {
        if place > MAX_NODES {
            return Err(PickleError::Unknown);
        }
        let top = self.top()?;
        if self.memo.len() <= place {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(top);
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Step<()> {
        let id = self.memo.get(place).copied().flatten();
        self.stack.push(id.ok_or(PickleError::Unknown)?);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Id>) -> Step<()> {
        match self.top().map(|top| &mut self.nodes[top])? {
            Node::Sequence(list) => list.extend(items),
            // A class of its own that behaves like a list.
            Node::Object { .. } | Node::Other => {}
            _ => return Err(PickleError::Unknown),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Step<()> {
        if !items.len().is_multiple_of(2) {
            return Err(PickleError::Unknown);
        }
        let pairs: Vec<(Id, Id)> = items
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Map(map) => map.extend(pairs),
            // An OrderedDict is made by a call, and filled like a dictionary.
            Node::Object {
                state: Some(state), ..
            } => {
                let state = *state;
                if let Node::Map(map) = &mut self.nodes[state] {
                    map.extend(pairs);
                }
            }
            Node::Object { .. } => {
                let place = self.nodes.len();
                self.push(Node::Map(pairs))?;
                self.stack.pop();
                if let Node::Object { state, .. } = &mut self.nodes[top] {
                    *state = Some(place);
                }
            }
            Node::Other => {}
            _ => return Err(PickleError::Unknown),
        }
        Ok(())
    }

    /// Carries out one instruction. `Some`: the pickle has ended with this value.
    fn step(&mut self) -> Step<Option<Id>> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return self.pop().map(Some),
            PROTOCOL => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 => self.push(Node::Other)?,
            b'J' => {
                let number = self.size(4)? as u32 as i32;
                self.push(Node::Int(number.into()))?;
            }
            b'K' => self.small_number(1)?,
            b'M' => self.small_number(2)?,
            0x8a => {
                let length = self.size(1)?;
                self.long(length)?;
            }
            0x8b => {
                let length = self.size(4)?;
                self.long(length)?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Node::Other)?;
            }
            0x8c => self.counted_text(1)?,
            b'X' => self.counted_text(4)?,
            0x8d => self.counted_text(8)?,
            b'C' | b'U' => self.counted_bytes(1)?,
            b'B' | b'T' => self.counted_bytes(4)?,
            0x8e | 0x96 => self.counted_bytes(8)?,
            b']' | b')' | 0x8f => self.push(Node::Sequence(Vec::new()))?,
            b'}' => self.push(Node::Map(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b'l' | b't' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::Sequence(items))?;
            }
            0x85..=0x87 => self.sequence(usize::from(code - 0x84))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Map(Vec::new()))?;
                self.set(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(format!("{module}.{name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let full = match (&self.nodes[module], &self.nodes[name]) {
                    (Node::Text(module), Node::Text(name)) => format!("{module}.{name}"),
                    _ => return Err(PickleError::Unknown),
                };
                self.push(Node::Global(full))?;
            }
            b'R' | 0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.object(class, arguments)?;
            }
            0x92 => {
                let (_named, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.object(class, arguments)?;
            }
            b'b' => {
                let given = self.pop()?;
                let top = self.top()?;
                if let Node::Object { state, .. } = &mut self.nodes[top] {
                    // An OrderedDict that was filled keeps what it was filled with.
                    state.get_or_insert(given);
                }
            }
            b'q' => {
                let place = self.size(1)?;
                self.put(place)?;
            }
            b'r' => {
                let place = self.size(4)?;
                self.put(place)?;
            }
            // Its place is the number of things remembered before it.
            0x94 => self.put(self.memo.len())?,
            b'h' => {
                let place = self.size(1)?;
                self.recall(place)?;
            }
            b'j' => {
                let place = self.size(4)?;
                self.recall(place)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            _ => return Err(PickleError::Unknown),
        }
        if self.stack.len() > MAX_NODES {
            return Err(PickleError::Unknown);
        }
        Ok(None)
    }

    fn object(&mut self, class: Id, arguments: Id) -> Step<()> {
        self.push(Node::Object {
            class,
            arguments,
            state: None,
        })
    }

    fn small_number(&mut self, length: usize) -> Step<()> {
        let number = self.size(length)?;
        self.push(Node::Int(number as i64))
    }

    fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let mut wide = [0; 8];
        let node = if length <= 8 {
            wide[..length].copy_from_slice(bytes);
            let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
            if negative {
                wide[length..].fill(0xff);
            }
            Node::Int(i64::from_le_bytes(wide))
        } else {
            Node::Other
        };
        self.push(node)
    }

    fn counted_text(&mut self, length: usize) -> Step<()> {
        let length = self.size(length)?;
        let node = self.text(length)?;
        self.push(node)
    }

    fn counted_bytes(&mut self, length: usize) -> Step<()> {
        let length = self.size(length)?;
        self.take(length)?;
        self.push(Node::Other)
    }
}

#[cfg(test)]
mod tests;
