//! What is asked of a model file, from the command line.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use v4_trust::{KEYS_FOLDER, Keys, Policy, TrustError, Trusted, Verify};

use crate::cli::{TrustArgs, VerifyArg};
use crate::interrupt;
use crate::output::Notes;

/// What a command of somebody at a terminal asks: nothing, unless told to.
pub fn policy(args: &TrustArgs) -> Result<Policy, TrustError> {
    let mut keys = Keys::default();
    args.signer.iter().try_for_each(|key| keys.add(key))?;
    if args.require_signed && keys.is_empty() {
        keys.add_folder(Path::new(KEYS_FOLDER))?;
    }
    let require_signed = args.require_signed || !keys.is_empty();
    let verify = match args.verify {
        Some(VerifyArg::Off) => Verify::Off,
        Some(VerifyArg::Use) => Verify::BeforeUse,
        Some(VerifyArg::Whole) => Verify::Whole,
        None if require_signed => Verify::BeforeUse,
        None => Verify::Off,
    };
    Ok(Policy {
        keys,
        require_signed,
        verify,
    })
}

/// What a service asks: a model signed by a trusted key, each block checked before its
/// use, unless `allow_unsigned`.
pub fn policy_of_service(args: &TrustArgs, allow_unsigned: bool) -> Result<Policy, TrustError> {
    if allow_unsigned {
        return policy(args);
    }
    policy(&TrustArgs {
        signer: args.signer.clone(),
        require_signed: true,
        verify: args.verify,
    })
}

/// Whether an error only says that the user ended the check.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(TrustError::Interrupted { .. }))
}

/// Finds out whether the model is what `policy` asks for, until Ctrl-C.
pub fn check(path: &Path, policy: &Policy, notes: Notes) -> anyhow::Result<Trusted> {
    if policy.verify == Verify::Off && !policy.require_signed {
        return Ok(Trusted::default());
    }
    let busy = interrupt::Busy::start()?;
    let bar = notes.bytes_bar("checking");
    let trusted = v4_trust::check(path, policy, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !interrupt::requested()
    });
    bar.finish_and_clear();
    drop(busy);
    Ok(trusted?)
}

/// The same for a service, which has its own ways with signals: `tell` hears how far it
/// is.
pub fn check_telling(
    path: &Path,
    policy: &Policy,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Trusted, TrustError> {
    let told = AtomicU64::new(0);
    v4_trust::check(path, policy, &|done, total| {
        let percent = done * 100 / total.max(1);
        if told.swap(percent, Ordering::Relaxed) != percent {
            tell(&format!("checking the model: {percent}%"));
        }
        true
    })
}
