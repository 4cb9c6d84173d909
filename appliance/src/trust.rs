//! Checks a model file as requested on the command line.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use v4_trust::{Policy, TrustError, Trusted, Verify};

use crate::args::{TrustArgs, VerifyArg};
use crate::interrupt;
use crate::output::Notes;

/// What a command of somebody at a terminal asks: nothing, unless told to.
pub fn policy(args: &TrustArgs) -> Result<Policy, TrustError> {
    let verify = args.verify.map(|when| match when {
        VerifyArg::Off => Verify::Off,
        VerifyArg::Use => Verify::BeforeUse,
        VerifyArg::Whole => Verify::Whole,
    });
    Policy::asked(&args.signer, args.require_signed, verify)
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
    if !policy.asks() {
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
