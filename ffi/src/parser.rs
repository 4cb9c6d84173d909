//! Parses the tokens of an answer into reasoning, content and calls.

use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::time::SystemTime;

use ::v4_chat::{Event, Finish, Part, Parts, Responder};

use crate::callback::{v4_event, v4_event_fn};
use crate::chat::{Chat, v4_chat};
use crate::decoder::Lent;
use crate::failure::{Failure, Outcome};
use crate::generate::End;
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::layout::size32;
use crate::pointer::{self, Out, User};
use crate::status::{Status, v4_status};
use crate::tokenizer::check_flags;

const PROTOCOL: u32 = 1;

/// Kinds of events, by their numbers in the header.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum Kind {
    Reasoning = 1,
    Content = 2,
    ToolCall = 3,
    Arguments = 4,
    End = 5,
    Protocol = 6,
}

/// An event before it is handed over.
struct Said {
    kind: Kind,
    text: String,
    name: Option<&'static str>,
}

impl From<Part> for Said {
    fn from(part: Part) -> Self {
        let (kind, text) = match part {
            Part::Reasoning(text) => (Kind::Reasoning, text),
            Part::Content(text) => (Kind::Content, text),
            Part::ToolCall(name) => (Kind::ToolCall, name),
            Part::Arguments(text) => (Kind::Arguments, text),
            Part::End(reason) => (Kind::End, reason.to_owned()),
        };
        Self {
            kind,
            text,
            name: None,
        }
    }
}

impl From<Event> for Said {
    fn from(event: Event) -> Self {
        Self {
            kind: Kind::Protocol,
            text: event.data.to_string(),
            name: event.name,
        }
    }
}

enum Reader {
    Parts(Parts),
    Protocol { responder: Responder, started: bool },
}

struct Parser {
    reader: Reader,
    lent: Lent,
}

/// A parser.
pub struct v4_parser {
    inner: Exclusive<Parser>,
}

impl std::fmt::Debug for v4_parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("v4_parser").finish_non_exhaustive()
    }
}

impl Parser {
    fn new(chat: &Chat, protocol: bool) -> Self {
        let tokenizer = chat.engine.tokenizer();
        let reader = if protocol {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.unwrap_or_default();
            let id = format!("v4-{:x}", now.as_nanos());
            let prompt = chat.rendered.ids.len();
            let request = &chat.request;
            Reader::Protocol {
                responder: request.responder(tokenizer, &id, now.as_secs(), prompt, 0),
                started: false,
            }
        } else {
            Reader::Parts(chat.request.parts(tokenizer))
        };
        Self {
            reader,
            lent: Lent::default(),
        }
    }

    fn push(&mut self, ids: &[u32]) -> Outcome<Vec<Said>> {
        match &mut self.reader {
            Reader::Parts(parts) => Ok(said(parts.push(ids)?)),
            Reader::Protocol { responder, started } => {
                let mut all = start(responder, started)?;
                all.extend(said(responder.push(ids)?));
                Ok(all)
            }
        }
    }

    fn finish(&mut self, finish: Finish) -> Outcome<Vec<Said>> {
        match &mut self.reader {
            Reader::Parts(parts) => Ok(said(parts.finish(finish)?)),
            Reader::Protocol { responder, started } => {
                let mut all = start(responder, started)?;
                all.extend(said(responder.finish(finish)?));
                Ok(all)
            }
        }
    }

    fn ended(&self) -> bool {
        match &self.reader {
            Reader::Parts(parts) => parts.ended(),
            Reader::Protocol { responder, .. } => responder.ended(),
        }
    }
}

fn said<T: Into<Said>>(events: Vec<T>) -> Vec<Said> {
    events.into_iter().map(Into::into).collect()
}

/// The events before any output, once.
fn start(responder: &mut Responder, started: &mut bool) -> Outcome<Vec<Said>> {
    match std::mem::replace(started, true) {
        true => Ok(Vec::new()),
        false => Ok(said(responder.start()?)),
    }
}

/// Hands events to the caller.
fn tell(events: Vec<Said>, callback: v4_event_fn, user: User) -> Outcome {
    let Some(callback) = callback else {
        return Ok(());
    };
    let mut lent = Lent::default();
    for said in events {
        let (text, length) = lent.lend(&said.text);
        let name = said.name.map(|name| CString::new(name).unwrap_or_default());
        let event = v4_event {
            size: size32::<v4_event>(),
            kind: said.kind as i32,
            text,
            length,
            name: name.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
        };
        // SAFETY: the header asks for a function that can be called during the call; the
        // event lasts until it returns.
        if unsafe { callback(user.0, &raw const event) } != 0 {
            return Err(Failure::cancelled());
        }
    }
    Ok(())
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_parser_open(
    chat: *mut v4_chat,
    flags: u32,
    parser: *mut *mut v4_parser,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let chat = unsafe { pointer::handle(chat, "chat") }?;
        check_flags(flags, PROTOCOL)?;
        let chat = chat.inner.take("chat")?;
        let make = || {
            Ok(v4_parser {
                inner: Exclusive::new(Parser::new(&chat, flags & PROTOCOL != 0)),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(parser, "parser", make) }
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_parser_push(
    parser: *mut v4_parser,
    ids: *const u32,
    count: usize,
    callback: v4_event_fn,
    user: *mut c_void,
    ended: *mut i32,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let parser = unsafe { pointer::handle(parser, "parser") }?;
        // SAFETY: the header's rules for pointers.
        let ids = unsafe { pointer::slice(ids, count, "ids") }?;
        // SAFETY: as above.
        let ended = unsafe { Out::or_null(ended, "ended") }?;
        let mut parser = parser.inner.take("parser")?;
        let events = parser.push(ids)?;
        if let Some(ended) = ended {
            ended.set(i32::from(parser.ended()));
        }
        tell(events, callback, User(user))
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_parser_finish(
    parser: *mut v4_parser,
    finish: i32,
    callback: v4_event_fn,
    user: *mut c_void,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let parser = unsafe { pointer::handle(parser, "parser") }?;
        let finish = match End::new(finish) {
            Some(End::Stop | End::StopString | End::Callback | End::Cancelled) => Finish::Stop,
            Some(End::Length | End::ContextFull) => Finish::Length,
            None => {
                return Err(Failure::argument(format!(
                    "{finish} is not a V4_FINISH_... value"
                )));
            }
        };
        let mut parser = parser.inner.take("parser")?;
        let events = parser.finish(finish)?;
        tell(events, callback, User(user))
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_parser_response(
    parser: *mut v4_parser,
    json: *mut *const c_char,
    length: *mut usize,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let parser = unsafe { pointer::handle(parser, "parser") }?;
        // SAFETY: the header's rules for pointers.
        let (json, length) = unsafe { (Out::new(json, "json")?, Out::new(length, "length")?) };
        let mut parser = parser.inner.take("parser")?;
        let Reader::Protocol { responder, .. } = &parser.reader else {
            return Err(Failure::new(
                Status::Unsupported,
                "only a parser opened with V4_PARSER_PROTOCOL makes a response",
            ));
        };
        let response = responder.response()?.to_string();
        let (start, len) = parser.lent.lend(&response);
        json.set(start);
        length.set(len);
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_parser_close(parser: *mut v4_parser) -> v4_status {
    // SAFETY: the header's rules for handles.
    guard(|| unsafe { pointer::close_idle(parser, "parser", |p| &p.inner) })
}
