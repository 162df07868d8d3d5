//! Bytes to a value, if they are its one canonical encoding.

use minicbor::Decoder;
use minicbor::data::{Int, Type};

use super::Value;

/// Lists and maps within each other.
pub const MAX_DEPTH: usize = 32;
/// Values in one encoding, keys included: a manifest of 7 GiB in chunks of 256 KiB still fits.
pub const MAX_ITEMS: usize = 262_144;

/// Why bytes are not canonical CBOR. Numbers are byte offsets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    #[error("no CBOR value at byte {0}, or it is cut short")]
    Malformed(usize),
    #[error("number or length at byte {0} is not in its shortest form")]
    NotShortest(usize),
    #[error("value of indefinite length at byte {0}")]
    Indefinite(usize),
    #[error("tag at byte {0}")]
    Tag(usize),
    #[error("boolean, undefined or other simple value at byte {0}: only null is one here")]
    Simple(usize),
    #[error("float at byte {0} is not a finite binary64")]
    Float(usize),
    #[error("text at byte {0} is not UTF-8")]
    Utf8(usize),
    #[error("map key at byte {0} is neither number, bytes nor text")]
    KeyKind(usize),
    #[error("map key at byte {0} is out of order or repeated")]
    KeyOrder(usize),
    #[error("values nest deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("more than {MAX_ITEMS} values")]
    TooMany,
    #[error("bytes follow the value, from byte {0}")]
    Trailing(usize),
}

/// Decodes one value that takes up all of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Value, CborError> {
    let mut reader = Reader { bytes, d: Decoder::new(bytes), room: MAX_ITEMS };
    let value = reader.value(0)?;
    match reader.d.position() {
        end if end == bytes.len() => Ok(value),
        end => Err(CborError::Trailing(end)),
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    d: Decoder<'b>,
    /// How many more values may come.
    room: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, CborError> {
        let at = self.d.position();
        if depth > MAX_DEPTH {
            return Err(CborError::TooDeep);
        }
        self.room = self.room.checked_sub(1).ok_or(CborError::TooMany)?;
        let malformed = |_| CborError::Malformed(at);
        match self.d.datatype().map_err(malformed)? {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => self.int(at),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => self.int(at),
            Type::Bytes => self.byte_string(at),
            Type::String => self.text(at),
            Type::Array => self.list(at, depth),
            Type::Map => self.map(at, depth),
            Type::F64 => self.float(at),
            Type::Null => self.d.null().map(|()| Value::Null).map_err(malformed),
            Type::F16 | Type::F32 => Err(CborError::Float(at)),
            Type::Bool | Type::Undefined | Type::Simple => Err(CborError::Simple(at)),
            Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef => {
                Err(CborError::Indefinite(at))
            }
            Type::Tag => Err(CborError::Tag(at)),
            Type::Break | Type::Unknown(_) => Err(CborError::Malformed(at)),
        }
    }

    fn int(&mut self, at: usize) -> Result<Value, CborError> {
        let n: Int = self.d.int().map_err(|_| CborError::Malformed(at))?;
        let wide = i128::from(n);
        let magnitude = if wide < 0 { -1 - wide } else { wide };
        self.shortest(at, magnitude as u64, 0)?;
        Ok(Value::Int(n))
    }

    fn byte_string(&mut self, at: usize) -> Result<Value, CborError> {
        let bytes = self.d.bytes().map_err(|_| CborError::Malformed(at))?;
        self.shortest(at, bytes.len() as u64, bytes.len())?;
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn text(&mut self, at: usize) -> Result<Value, CborError> {
        let text = self.d.str().map_err(|e| match e.is_end_of_input() {
            true => CborError::Malformed(at),
            false => CborError::Utf8(at),
        })?;
        self.shortest(at, text.len() as u64, text.len())?;
        Ok(Value::Text(text.to_string()))
    }

    fn float(&mut self, at: usize) -> Result<Value, CborError> {
        let f = self.d.f64().map_err(|_| CborError::Malformed(at))?;
        if f.is_finite() { Ok(Value::Float(f)) } else { Err(CborError::Float(at)) }
    }

    fn list(&mut self, at: usize, depth: usize) -> Result<Value, CborError> {
        let n = self.d.array().ok().flatten().ok_or(CborError::Malformed(at))?;
        let mut items = Vec::with_capacity(self.claimed(at, n)?);
        for _ in 0..n {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::List(items))
    }

    fn map(&mut self, at: usize, depth: usize) -> Result<Value, CborError> {
        let n = self.d.map().ok().flatten().ok_or(CborError::Malformed(at))?;
        let mut pairs = Vec::with_capacity(self.claimed(at, n)?);
        let mut last: &[u8] = &[];
        for _ in 0..n {
            let start = self.d.position();
            let key = self.value(depth + 1)?;
            if !matches!(key, Value::Int(_) | Value::Bytes(_) | Value::Text(_)) {
                return Err(CborError::KeyKind(start));
            }
            let encoded = &self.bytes[start..self.d.position()];
            if encoded <= last {
                return Err(CborError::KeyOrder(start));
            }
            last = encoded;
            pairs.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(pairs))
    }

    /// How much to allocate for a count, which is a peer's claim until its values have come.
    fn claimed(&self, at: usize, n: u64) -> Result<usize, CborError> {
        self.shortest(at, n, 0)?;
        if n > self.room as u64 { Err(CborError::TooMany) } else { Ok((n as usize).min(64)) }
    }

    /// The head of the value that began at `at` said `n`, and `body` bytes of content follow it: was it short?
    fn shortest(&self, at: usize, n: u64, body: usize) -> Result<(), CborError> {
        let head = match n {
            0..=23 => 1,
            24..=0xff => 2,
            0x100..=0xffff => 3,
            0x1_0000..=0xffff_ffff => 5,
            _ => 9,
        };
        if self.d.position() - at == head + body { Ok(()) } else { Err(CborError::NotShortest(at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_be_not_canonical_is_named() {
        let cases: [(&[u8], CborError); 16] = [
            (&[], CborError::Malformed(0)),
            (&[0x1c], CborError::Malformed(0)),
            (&[0x82, 1], CborError::Malformed(2)),
            (&[0x18, 0], CborError::NotShortest(0)),
            (&[0x58, 1, 7], CborError::NotShortest(0)),
            (&[0x98, 1, 7], CborError::NotShortest(0)),
            (&[0x5f, 0x41, 1, 0xff], CborError::Indefinite(0)),
            (&[0xc0, 1], CborError::Tag(0)),
            (&[0xf5], CborError::Simple(0)),
            (&[0xf9, 0x3e, 0], CborError::Float(0)),
            (&[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], CborError::Float(0)),
            (&[0x61, 0xff], CborError::Utf8(0)),
            (&[0xa1, 0x80, 1], CborError::KeyKind(1)),
            (&[0xa2, 2, 0, 1, 0], CborError::KeyOrder(3)),
            (&[0xa2, 1, 0, 1, 0], CborError::KeyOrder(3)),
            (&[0, 0], CborError::Trailing(1)),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let nested = |n: usize| [vec![0x81; n], vec![0]].concat();
        assert!(decode(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(decode(&nested(MAX_DEPTH + 1)), Err(CborError::TooDeep));
        let many = [&[0x9a][..], &(MAX_ITEMS as u32).to_be_bytes(), &vec![0; MAX_ITEMS]].concat();
        assert_eq!(decode(&many), Err(CborError::TooMany));
        assert_eq!(decode(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err(CborError::TooMany));
    }

    #[test]
    fn the_widest_numbers_fit() {
        for bytes in [[0x1b; 1].as_slice(), &[0x3b]] {
            let bytes = [bytes, &[0xff; 8]].concat();
            assert_eq!(decode(&bytes).unwrap().encode(), bytes);
        }
    }
}
