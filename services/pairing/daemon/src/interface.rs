//! `io.macula.Pairing1`.

use std::sync::Arc;
use std::time::Duration;

use pairing_proto::Session;
use pairing_proto::limits::MAX_MESSAGE;
use services_api::bus::{failed, uid};
use zbus::fdo;

use crate::desk::Desk;
use crate::shown;

const LONGEST_WAIT: Duration = Duration::from_secs(50);

pub struct Server {
    pub desk: Arc<Desk>,
    /// The client's.
    pub uid: u32,
}

impl Server {
    /// Mesh talks to strangers, and need not know the secret; the console has no business with claimants.
    fn only(&self, uid: u32) -> fdo::Result<()> {
        match self.uid {
            other if other == uid || other == 0 => Ok(()),
            other => Err(fdo::Error::AccessDenied(format!("uid {other} may not ask this"))),
        }
    }

    fn report(&self) -> fdo::Result<String> {
        let serial = *self.desk.serial().borrow();
        serde_json::to_string(&shown::report(&self.desk, serial)).map_err(failed)
    }
}

#[zbus::interface(name = "io.macula.Pairing1")]
impl Server {
    fn code(&self) -> fdo::Result<String> {
        self.only(uid::CONSOLE)?;
        self.report()
    }

    async fn code_after(&self, serial: u64) -> fdo::Result<String> {
        self.only(uid::CONSOLE)?;
        let mut serials = self.desk.serial();
        let another = serials.wait_for(|now| *now != serial);
        // Nothing new is an answer, too.
        let _ = tokio::time::timeout(LONGEST_WAIT, another).await;
        self.report()
    }

    async fn step(&self, from: String, session: Vec<u8>, message: Vec<u8>) -> fdo::Result<Vec<u8>> {
        self.only(uid::MESH)?;
        let session = Session::try_from(session.as_slice())
            .map_err(|_| fdo::Error::InvalidArgs("a session is 16 bytes".into()))?;
        if message.len() > MAX_MESSAGE {
            return Err(fdo::Error::InvalidArgs(format!("a message is at most {MAX_MESSAGE} bytes")));
        }
        Ok(self.desk.step(from, session, message).await)
    }
}
