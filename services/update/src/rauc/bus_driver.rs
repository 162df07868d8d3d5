//! `org.freedesktop.DBus`, as far as a client needs it to find the one service that is on this bus.
//!
//! Answered message by message: a driver's replies carry the driver's name as their sender, which an object of the
//! connection's own cannot do.

use std::sync::Arc;

use futures_util::StreamExt;
use zbus::fdo::{Error, Result};
use zbus::message::{Flags, Type};
use zbus::names::BusName;
use zbus::{Connection, DBusError, Message, MessageStream};

use super::{BUS_NAME, CLIENTS_NAME, OUR_NAME, WELL_KNOWN_NAME, installer};
use crate::updater::Updater;

const ALREADY_RUNNING: u32 = 2;

/// Answers the bus's part of what comes, until the client goes.
pub async fn serve(mut messages: MessageStream, updater: &Arc<Updater>) -> zbus::Result<()> {
    let connection = Connection::from(&messages);
    let mut greeted = false;
    while let Some(Ok(call)) = messages.next().await {
        let header = call.header();
        // What goes to a name of ours is the object server's.
        let Some(BusName::Unique(to)) = header.destination().filter(|d| d.as_str() != OUR_NAME) else {
            continue;
        };
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let answer = if to.as_str() != BUS_NAME {
            Err(Error::NameHasNoOwner(format!("{to} is not on this bus")))
        } else if header.member().is_some_and(|m| m.as_str() == "Hello")
            && !std::mem::replace(&mut greeted, true)
        {
            Ok(Answer::Text(CLIENTS_NAME.into()))
        } else {
            answer(&call, connection.server_guid().as_str())
        };
        // Only who speaks to a bus expects signals; the other services never say Hello.
        let is_first = matches!(&answer, Ok(Answer::Text(name)) if name == CLIENTS_NAME);
        if !call.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED) {
            connection.send(&reply(&call, answer)?).await?;
        }
        if is_first {
            tokio::spawn(installer::narrate(updater.clone(), connection.clone()));
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Text(String),
    Number(u32),
    Flag(bool),
    Names(Vec<&'static str>),
}

fn reply(call: &Message, answer: Result<Answer>) -> zbus::Result<Message> {
    let header = call.header();
    let error = match answer {
        Ok(answer) => {
            let reply = Message::method_return(&header).sender(BUS_NAME).destination(CLIENTS_NAME);
            return match answer {
                Answer::Nothing => reply.build(&()),
                Answer::Text(text) => reply.build(&text),
                Answer::Number(number) => reply.build(&number),
                Answer::Flag(flag) => reply.build(&flag),
                Answer::Names(names) => reply.build(&names),
            };
        }
        Err(error) => error,
    };
    let reply = Message::error(&header, error.name()).sender(BUS_NAME).destination(CLIENTS_NAME);
    reply.build(&error.description().unwrap_or_default())
}

fn answer(call: &Message, guid: &str) -> Result<Answer> {
    let header = call.header();
    let member = header.member().map(|m| m.as_str()).unwrap_or_default();
    Ok(match member {
        "GetNameOwner" => Answer::Text(owner(&name(call)?)?.into()),
        "NameHasOwner" => Answer::Flag(owner(&name(call)?).is_ok()),
        "StartServiceByName" => match owner(&name(call)?) {
            Ok(_) => Answer::Number(ALREADY_RUNNING),
            Err(e) => return Err(Error::ServiceUnknown(e.to_string())),
        },
        "RequestName" => return Err(Error::AccessDenied("nobody can own a name on this bus".into())),
        "ListNames" => Answer::Names(vec![BUS_NAME, OUR_NAME, CLIENTS_NAME, WELL_KNOWN_NAME]),
        "ListActivatableNames" => Answer::Names(vec![]),
        "GetId" => Answer::Text(guid.into()),
        // Every signal goes to the one client, whatever it asked for: it compares again by itself.
        "AddMatch" | "RemoveMatch" | "Ping" => Answer::Nothing,
        "Hello" => return Err(Error::Failed("Hello was said before".into())),
        _ => return Err(Error::UnknownMethod(format!("this bus has no `{member}`"))),
    })
}

/// The first argument; some methods have more.
fn name(call: &Message) -> Result<String> {
    let body = call.body();
    let text =
        body.deserialize::<&str>().or_else(|_| body.deserialize::<(&str, u32)>().map(|(name, _)| name));
    Ok(text.map_err(|e| Error::InvalidArgs(e.to_string()))?.to_string())
}

fn owner(name: &str) -> Result<&'static str> {
    match name {
        WELL_KNOWN_NAME | OUR_NAME => Ok(OUR_NAME),
        CLIENTS_NAME => Ok(CLIENTS_NAME),
        BUS_NAME => Ok(BUS_NAME),
        other => Err(Error::NameHasNoOwner(format!("{other} is not on this bus, only {WELL_KNOWN_NAME} is"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<B: serde::Serialize + zbus::DynamicType>(member: &str, body: &B) -> Result<Answer> {
        let call = Message::method_call("/org/freedesktop/DBus", member);
        answer(&call.destination(BUS_NAME).build(body).unwrap(), "0123")
    }

    #[test]
    fn the_service_has_an_owner_and_nobody_else_has() {
        assert_eq!(ask("GetNameOwner", &"de.pengutronix.rauc").unwrap(), Answer::Text(":1.0".into()));
        assert_eq!(ask("StartServiceByName", &("de.pengutronix.rauc", 0u32)).unwrap(), Answer::Number(2));
        assert_eq!(ask("NameHasOwner", &"org.freedesktop.systemd1").unwrap(), Answer::Flag(false));
        let stranger = ask("GetNameOwner", &"org.freedesktop.systemd1").unwrap_err().to_string();
        assert!(stranger.contains("only de.pengutronix.rauc"), "{stranger}");
    }

    #[test]
    fn what_it_does_not_know_is_an_error_with_the_drivers_name() {
        assert!(matches!(ask("BecomeMonitor", &()), Err(Error::UnknownMethod(_))));
        assert!(matches!(ask("GetNameOwner", &7u64), Err(Error::InvalidArgs(_))));
        let call = Message::method_call("/", "Fly").destination(BUS_NAME).build(&()).unwrap();
        let reply = reply(&call, answer(&call, "")).unwrap();
        let header = reply.header();
        assert_eq!(header.sender().unwrap().as_str(), BUS_NAME);
        assert_eq!(header.error_name().unwrap().as_str(), "org.freedesktop.DBus.Error.UnknownMethod");
        assert_eq!(header.reply_serial(), Some(call.primary_header().serial_num()));
    }
}
