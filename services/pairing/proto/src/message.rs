//! What is on the wire: CBOR maps, each alone in its message. Unknown keys are skipped; sizes are checked before a byte is read.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use os_identity::NodeId;

use crate::code::Slot;
use crate::limits::{MAX_MESSAGE, MAX_OPENING};
use crate::refusal::Refused;
use crate::{OLDEST_VERSION, SESSION, Session, VERSION};

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const CONFIRM: u8 = 3;
const CONFIRMED: u8 = 4;
const SEALED: u8 = 5;
const REFUSED: u8 = 6;

/// SPAKE2 message: a side byte and a point.
pub const PAKE: usize = 33;
pub const TAG: usize = 32;

/// A message, its parts of the right length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The claimant begins.
    Hello {
        newest: u16,
        oldest: u16,
        session: Session,
        claimant: NodeId,
        pake: Vec<u8>,
        slot: Slot,
    },
    /// The node answers.
    Welcome {
        version: u16,
        node: NodeId,
        pake: Vec<u8>,
    },
    /// The claimant proves that it knows the code, and its key (sealed).
    Confirm {
        tag: [u8; TAG],
        sealed: Vec<u8>,
    },
    /// The node does, and introduces itself (sealed).
    Confirmed {
        tag: [u8; TAG],
        sealed: Vec<u8>,
    },
    /// A request, or an answer.
    Sealed(Vec<u8>),
    Refused(Refused),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pairing message")]
pub struct Unreadable;

#[derive(Encode, Decode)]
#[cbor(map)]
struct Written {
    #[n(0)]
    kind: u8,
    #[n(1)]
    version: Option<u16>,
    #[n(2)]
    oldest: Option<u16>,
    #[n(3)]
    session: Option<ByteVec>,
    #[n(4)]
    key: Option<ByteVec>,
    #[n(5)]
    pake: Option<ByteVec>,
    /// 1: the code is the one in the file.
    #[n(6)]
    slot: Option<u8>,
    #[n(7)]
    tag: Option<ByteVec>,
    #[n(8)]
    sealed: Option<ByteVec>,
    #[n(9)]
    refused: Option<Refused>,
}

impl Message {
    pub fn hello(session: Session, claimant: NodeId, pake: Vec<u8>, slot: Slot) -> Self {
        Message::Hello { newest: VERSION, oldest: OLDEST_VERSION, session, claimant, pake, slot }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A Vec takes every write.
        let _ = minicbor::encode(self.written(), &mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Unreadable);
        }
        let written: Written = minicbor::decode(bytes).map_err(|_| Unreadable)?;
        if written.kind < CONFIRM && bytes.len() > MAX_OPENING {
            return Err(Unreadable);
        }
        written.read().ok_or(Unreadable)
    }

    fn written(&self) -> Written {
        let mut written = Written::of(0);
        match self {
            Message::Hello { newest, oldest, session, claimant, pake, slot } => {
                written.kind = HELLO;
                written.version = Some(*newest);
                written.oldest = Some(*oldest);
                written.session = Some(session.to_vec().into());
                written.key = Some(claimant.to_vec().into());
                written.pake = Some(pake.clone().into());
                written.slot = (*slot == Slot::File).then_some(1);
            }
            Message::Welcome { version, node, pake } => {
                written.kind = WELCOME;
                written.version = Some(*version);
                written.key = Some(node.to_vec().into());
                written.pake = Some(pake.clone().into());
            }
            Message::Confirm { tag, sealed } | Message::Confirmed { tag, sealed } => {
                written.kind = if matches!(self, Message::Confirm { .. }) { CONFIRM } else { CONFIRMED };
                written.tag = Some(tag.to_vec().into());
                written.sealed = Some(sealed.clone().into());
            }
            Message::Sealed(sealed) => {
                written.kind = SEALED;
                written.sealed = Some(sealed.clone().into());
            }
            Message::Refused(refused) => {
                written.kind = REFUSED;
                written.refused = Some(*refused);
            }
        }
        written
    }
}

impl Written {
    fn of(kind: u8) -> Self {
        Self {
            kind,
            version: None,
            oldest: None,
            session: None,
            key: None,
            pake: None,
            slot: None,
            tag: None,
            sealed: None,
            refused: None,
        }
    }

    fn read(self) -> Option<Message> {
        let key = || NodeId::try_from(self.key.as_ref()?.as_slice()).ok();
        let pake = || self.pake.as_ref().map(|pake| pake.to_vec()).filter(|pake| pake.len() == PAKE);
        let tag = || <[u8; TAG]>::try_from(self.tag.as_ref()?.as_slice()).ok();
        let sealed = || self.sealed.as_ref().map(|sealed| sealed.to_vec());
        Some(match self.kind {
            HELLO => Message::Hello {
                newest: self.version?,
                oldest: self.oldest?,
                session: <[u8; SESSION]>::try_from(self.session.as_ref()?.as_slice()).ok()?,
                claimant: key()?,
                pake: pake()?,
                slot: match self.slot {
                    None => Slot::Screen,
                    Some(1) => Slot::File,
                    Some(_) => return None,
                },
            },
            WELCOME => Message::Welcome { version: self.version?, node: key()?, pake: pake()? },
            CONFIRM => Message::Confirm { tag: tag()?, sealed: sealed()? },
            CONFIRMED => Message::Confirmed { tag: tag()?, sealed: sealed()? },
            SEALED => Message::Sealed(sealed()?),
            REFUSED => Message::Refused(self.refused?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use os_identity::NodeKey;
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Message> {
        let key = NodeKey::from_seed(&[1; 32]).node_id();
        vec![
            Message::hello([7; SESSION], key, vec![b'A'; PAKE], Slot::File),
            Message::hello([7; SESSION], key, vec![b'A'; PAKE], Slot::Screen),
            Message::Welcome { version: 1, node: key, pake: vec![b'B'; PAKE] },
            Message::Confirm { tag: [1; TAG], sealed: vec![2; 90] },
            Message::Confirmed { tag: [1; TAG], sealed: vec![2; 90] },
            Message::Sealed(vec![9; 17]),
            Message::Refused(Refused::WrongCode),
        ]
    }

    #[test]
    fn messages_survive_and_shorter_ones_are_none() {
        for message in all() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for length in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..length]), Err(Unreadable), "{length} of {bytes:02x?}");
            }
        }
    }

    #[test]
    fn golden() {
        assert_eq!(Message::Refused(Refused::WrongCode).encode(), [0xa2, 0x00, 0x06, 0x09, 0x01]);
        assert_eq!(Message::Sealed(vec![1, 2]).encode(), [0xa2, 0x00, 0x05, 0x08, 0x42, 1, 2]);
    }

    #[test]
    fn unknown_keys_are_skipped_and_sizes_bounded() {
        assert_eq!(
            Message::decode(&[0xa3, 0, 6, 9, 1, 0x18, 99, 0xf5]),
            Ok(Message::Refused(Refused::WrongCode))
        );
        assert_eq!(Message::decode(&vec![0; MAX_MESSAGE + 1]), Err(Unreadable));
        let mut padded = all()[0].encode();
        padded[0] += 1;
        padded.extend([0x18, 99, 0x59, 0x02, 0x00]);
        padded.extend([0; 512]);
        assert_eq!(Message::decode(&padded), Err(Unreadable), "an opening is short");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
            }
        }
    }
}
