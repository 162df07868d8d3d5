//! Reading CBOR (RFC 8949) from strangers: definite lengths only, and every length has a bound that is checked
//! before anything is allocated.

use minicbor::Decoder;

/// Why bytes from a peer are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{what} of {len} bytes or items, at most {max} allowed")]
    TooLong { what: &'static str, len: u64, max: usize },
    #[error("{what} has the wrong length {len}")]
    Length { what: &'static str, len: u64 },
    #[error("{what} missing")]
    Missing { what: &'static str },
    #[error("{what} given twice")]
    Twice { what: &'static str },
    #[error("unknown kind {0} of message")]
    UnknownKind(u8),
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
    #[error("{what} has an indefinite length")]
    Indefinite { what: &'static str },
    #[error("not the CBOR expected: {0}")]
    Cbor(String),
}

impl From<minicbor::decode::Error> for WireError {
    fn from(error: minicbor::decode::Error) -> Self {
        WireError::Cbor(error.to_string())
    }
}

/// Writing into memory cannot fail; the conversion exists so that `?` reads the same in both directions.
impl From<minicbor::encode::Error<std::convert::Infallible>> for WireError {
    fn from(error: minicbor::encode::Error<std::convert::Infallible>) -> Self {
        WireError::Cbor(error.to_string())
    }
}

pub(crate) trait Bounded<'b> {
    fn array_up_to(&mut self, max: usize, what: &'static str) -> Result<usize, WireError>;
    fn array_of(&mut self, len: usize, what: &'static str) -> Result<(), WireError>;
    fn map_up_to(&mut self, max: usize, what: &'static str) -> Result<usize, WireError>;
    fn bytes_up_to(&mut self, max: usize, what: &'static str) -> Result<&'b [u8], WireError>;
    fn bytes_of<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError>;
    fn bytes_32(&mut self, what: &'static str) -> Result<[u8; 32], WireError>;
    fn text_up_to(&mut self, max: usize, what: &'static str) -> Result<&'b str, WireError>;
    fn finished(&self) -> Result<(), WireError>;
}

impl<'b> Bounded<'b> for Decoder<'b> {
    fn array_up_to(&mut self, max: usize, what: &'static str) -> Result<usize, WireError> {
        bounded(self.array()?, max, what)
    }

    fn array_of(&mut self, len: usize, what: &'static str) -> Result<(), WireError> {
        match self.array_up_to(usize::MAX, what)? {
            found if found == len => Ok(()),
            found => Err(WireError::Length { what, len: found as u64 }),
        }
    }

    fn map_up_to(&mut self, max: usize, what: &'static str) -> Result<usize, WireError> {
        bounded(self.map()?, max, what)
    }

    fn bytes_up_to(&mut self, max: usize, what: &'static str) -> Result<&'b [u8], WireError> {
        let bytes = self.bytes()?;
        bounded(Some(bytes.len() as u64), max, what).map(|_| bytes)
    }

    fn bytes_of<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| WireError::Length { what, len: bytes.len() as u64 })
    }

    fn bytes_32(&mut self, what: &'static str) -> Result<[u8; 32], WireError> {
        self.bytes_of::<32>(what)
    }

    fn text_up_to(&mut self, max: usize, what: &'static str) -> Result<&'b str, WireError> {
        let text = self.str()?;
        bounded(Some(text.len() as u64), max, what).map(|_| text)
    }

    fn finished(&self) -> Result<(), WireError> {
        match self.input().len() - self.position() {
            0 => Ok(()),
            more => Err(WireError::Trailing(more)),
        }
    }
}

fn bounded(len: Option<u64>, max: usize, what: &'static str) -> Result<usize, WireError> {
    let len = len.ok_or(WireError::Indefinite { what })?;
    match usize::try_from(len) {
        Ok(fits) if fits <= max => Ok(fits),
        _ => Err(WireError::TooLong { what, len, max }),
    }
}

/// Puts a field into its place, once.
pub(crate) fn set<T>(place: &mut Option<T>, value: T, what: &'static str) -> Result<(), WireError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(WireError::Twice { what }),
    }
}

pub(crate) fn need<T>(place: Option<T>, what: &'static str) -> Result<T, WireError> {
    place.ok_or(WireError::Missing { what })
}
