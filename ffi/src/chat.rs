//! Requests of chat protocols.

use std::ffi::c_char;
use std::sync::Arc;

use ::v4_chat::{ModelVersion, Protocol, Rendered, Request, continuing};
use serde_json::Value;
use v4_runtime::Engine;

use crate::engine::v4_engine;
use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::layout::{Filled, c_struct, read, size32};
use crate::pointer::{self, Out};
use crate::session::v4_session;
use crate::status::{Status, v4_status};

/// Longest request, in bytes.
const MOST_REQUEST: usize = 256 << 20;

c_struct! {
    /// How to read a request.
    v4_chat_options, first 8, { size: u32, protocol: i32, }
}

c_struct! {
    /// What a request asks for in addition to its prompt.
    v4_chat_facts, first 40, {
        size: u32,
        max_tokens: u32,
        temperature: f32,
        top_p: f32,
        has_seed: u32,
        thinking: u32,
        stream: u32,
        constrained: u32,
        seed: u64,
    }
}

/// A request and its prompt.
#[derive(Debug)]
pub(crate) struct Chat {
    pub engine: Arc<Engine>,
    pub request: Request,
    pub rendered: Rendered,
    /// Ids as they were last lent.
    lent: Vec<u32>,
}

/// A request and its prompt.
#[derive(Debug)]
pub struct v4_chat {
    pub(crate) inner: Exclusive<Chat>,
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_chat_open(
    engine: *const v4_engine,
    json: *const c_char,
    length: usize,
    options: *const v4_chat_options,
    chat: *mut *mut v4_chat,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let engine = unsafe { pointer::handle(engine, "engine") }?;
        // SAFETY: the header's rules for pointers.
        let json = unsafe { pointer::text(json, length, MOST_REQUEST, "json") }?;
        // SAFETY: the header's rules for structs.
        let protocol = match unsafe { read(options) }?.protocol {
            0 => Protocol::Chat,
            1 => Protocol::Messages,
            2 => Protocol::Responses,
            n => return Err(Failure::argument(format!("{n} is not a protocol"))),
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(chat, "chat", || open(&engine.engine, json, protocol)) }
    })
}

fn open(engine: &Arc<Engine>, json: &str, protocol: Protocol) -> Outcome<v4_chat> {
    let version = ModelVersion::from_architecture(&engine.config().arch)?;
    let refused = |e: &dyn std::fmt::Display| Failure::new(Status::BadRequest, e);
    let mut body: Value = serde_json::from_str(json)
        .map_err(|e| refused(&format_args!("the request is not JSON: {e}")))?;
    // The protocols want a name; whose model it is is clear here.
    if let Some(request) = body.as_object_mut() {
        request.entry("model").or_insert_with(|| "v4".into());
    }
    let request = Request::from_value(protocol, version, body).map_err(|e| refused(&e))?;
    let rendered = request.render(engine.tokenizer())?;
    if rendered.images > 0 {
        return Err(Failure::new(
            Status::Unsupported,
            "the request contains images; this version does not run the vision tower, give only \
             text",
        ));
    }
    Ok(v4_chat {
        inner: Exclusive::new(Chat {
            engine: Arc::clone(engine),
            request,
            rendered,
            lent: Vec::new(),
        }),
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_chat_close(chat: *mut v4_chat) -> v4_status {
    // SAFETY: the header's rules for handles.
    guard(|| unsafe { pointer::close_idle(chat, "chat", |c| &c.inner) })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_chat_prompt(
    chat: *mut v4_chat,
    session: *mut v4_session,
    ids: *mut *const u32,
    count: *mut usize,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let chat = unsafe { pointer::handle(chat, "chat") }?;
        // SAFETY: the header's rules for pointers.
        let (ids, count) = unsafe { (Out::new(ids, "ids")?, Out::new(count, "count")?) };
        let held = match session.is_null() {
            true => Vec::new(),
            false => {
                // SAFETY: the header's rules for handles.
                let session = unsafe { pointer::handle(session, "session") }?;
                session.inner.take("session")?.tokens()
            }
        };
        let mut chat = chat.inner.take("chat")?;
        let rendered = chat.rendered.clone();
        chat.lent = continuing(chat.engine.tokenizer(), &held, rendered)?;
        ids.set(chat.lent.as_ptr());
        count.set(chat.lent.len());
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_chat_facts_of(
    chat: *mut v4_chat,
    facts: *mut v4_chat_facts,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let chat = unsafe { pointer::handle(chat, "chat") }?;
        // SAFETY: the header's rules for structs.
        let out = unsafe { Filled::new(facts) }?;
        let chat = chat.inner.take("chat")?;
        let (asked, parsing) = (chat.request.inference(), chat.request.parsing());
        out.set(&v4_chat_facts {
            size: size32::<v4_chat_facts>(),
            max_tokens: asked.max_tokens.unwrap_or(0),
            temperature: asked.temperature.unwrap_or(1.0),
            top_p: asked.top_p.unwrap_or(1.0),
            has_seed: u32::from(asked.seed.is_some()),
            thinking: u32::from(parsing.thinking_initial_stage.is_some()),
            stream: u32::from(chat.request.stream()),
            constrained: u32::from(asked.output_constraint.is_some()),
            seed: asked.seed.unwrap_or(0),
        });
        Ok(())
    })
}
